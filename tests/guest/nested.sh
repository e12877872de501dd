#!/bin/bash
# Level 1 of the nested tests: a machine with a real KVM, emulated. Debian's ordinary kernel (its cloud kernel cannot
# mount the host's files) and an initramfs with what turns it into a KVM host; its system is the host's own, read-only.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=packages.sh
. "$guest_dir/packages.sh"
need cpio find

# In the order in which they must be loaded.
modules=(
    virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci
    netfs fscache 9pnet 9pnet_virtio 9p overlay # the host's files, and a place to write
    virtio_console qemu_fw_cfg                  # what to run, and its output
    irqbypass kvm ccp kvm-amd tun               # what it is for
)

make_nested() {
    local out=$1 work=$1/work tree=$1/tree module found order=10
    unpack "$work" linux-image-amd64 busybox-static
    mv "$work"/files/boot/vmlinuz-* "$out/vmlinuz"
    mkdir -p "$tree"/{bin,dev,proc,sys,host,upper,system,modules}
    cp "$work/files/bin/busybox" "$tree/bin/busybox"
    install -m 755 "$guest_dir/nested-init" "$tree/init"
    for module in "${modules[@]}"; do
        found=$(find "$work"/files/lib/modules/ -name "$module.ko")
        [[ -n $found ]] || die "the kernel package has no module $module: adapt the list in tests/guest/nested.sh"
        cp "$found" "$tree/modules/$order-$module.ko"
        order=$((order + 1))
    done
    (cd "$tree" && find . | LC_ALL=C sort | cpio -o -H newc --owner 0:0 --quiet) >"$out/initramfs.cpio"
    rm -rf "$work" "$tree"
}

publish nested "$(key "$guest_dir/nested.sh" "$guest_dir/packages.sh" "$guest_dir/nested-init")" make_nested

#!/bin/bash
# The initramfs of all guests: busybox, the modules of their devices, and `init` beside this file. The same one boots
# where devices are on PCI (QEMU) and where they are memory-mapped (mayfly-vmm).
# Not compressed: under emulation unpacking costs more than reading.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need cpio find

# In the order in which they must be loaded. ext4 and the serial port are built into Debian's cloud kernel.
modules=(
    virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_mmio
    virtio_blk failover net_failover virtio_net virtio-rng
)

make_initramfs() {
    local out=$1 root=$1/root module found order=10
    mkdir -p "$root"/{bin,dev,proc,sys,tmp,run,mnt,modules}
    cp "$cache/kernel/busybox" "$root/bin/busybox"
    install -m 755 "$guest_dir/init" "$root/init"
    for module in "${modules[@]}"; do
        found=$(find "$cache/kernel/modules/" -name "$module.ko")
        [[ -n $found ]] || die "the kernel package has no module $module: adapt the list in tests/guest/initramfs.sh"
        cp "$found" "$root/modules/$order-$module.ko"
        order=$((order + 1))
    done
    (cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc --owner 0:0 --quiet) >"$out/initramfs.cpio"
    rm -rf "$root"
}

kernel_version=$(readlink "$cache/kernel") || die "there is no kernel yet: run 'make images'"
publish initramfs "$(key "$guest_dir/initramfs.sh" "$guest_dir/init" <(echo "$kernel_version"))" make_initramfs

#!/bin/bash
# Debian's stock cloud kernel with its modules, and Debian's static busybox.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=packages.sh
. "$guest_dir/packages.sh"

make_kernel() {
    local out=$1 work=$1/work
    unpack "$work" linux-image-cloud-amd64 busybox-static
    mv "$work"/files/boot/vmlinuz-* "$out/vmlinuz"
    mv "$work"/files/bin/busybox "$out/busybox"
    mv "$work"/files/lib/modules/* "$out/modules"
    rm -rf "$work"
}

publish kernel "$(key "$guest_dir/kernel.sh" "$guest_dir/packages.sh")" make_kernel

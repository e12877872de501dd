#!/bin/bash
# A real system on a raw disk: Debian minbase with systemd, logged in as root on the serial console. It boots with the
# kernel and the initramfs made beside it, so the disk has no partition table and no boot loader.
#
# Works as root and as an ordinary user: mmdebstrap takes the best it is permitted (chroot, user namespace, fakechroot)
# and leaves an archive; fakeroot unpacks that, so owners are right whoever we are; mke2fs fills the disk without a mount.
# MAYFLY_MIRROR names another archive than Debian's own.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
need mmdebstrap fakechroot fakeroot mke2fs tar

size=2G # leaves 1.7 GiB for what tests write; the file is sparse
packages=systemd,systemd-sysv,udev,e2fsprogs,kmod

# Nothing that a machine without network, clock or screen waits for, and no timer that would write by itself.
masked=(
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
    e2scrub_reap.service getty@tty1.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount
    systemd-networkd.service systemd-timesyncd.service getty-static.service systemd-hwdb-update.service systemd-update-utmp.service
)

bootstrap() {
    say "  fetching and unpacking Debian (about half a minute)"
    # The hook is for fakechroot, whose loader would look for systemd's private library on this machine.
    local private=/usr/lib/x86_64-linux-gnu/systemd
    run_quietly "$1/log" mmdebstrap --variant=minbase --include="$packages" \
        --setup-hook="mkdir -p \$1/etc/ld.so.conf.d \$1$private && echo $private >\$1/etc/ld.so.conf.d/systemd.conf" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        bookworm "$1/debian.tar" ${MAYFLY_MIRROR:+"$MAYFLY_MIRROR"}
}

# Runs under fakeroot: ROOT.tar becomes ROOT, what the guest needs is added, and ROOT becomes ROOT.raw.
make_disk() {
    local root=$1 unit etc=$1/etc getty
    mkdir "$root"
    tar -C "$root" --exclude='./dev/*' -xf "$root.tar"
    getty=$etc/systemd/system/serial-getty@ttyS0.service.d
    echo mayfly-guest >"$etc/hostname"
    echo '/dev/vda / ext4 rw 0 0' >"$etc/fstab"
    # A fixed identity: an empty one would make every boot a first boot, which runs all presets.
    echo 6d6179666c7900000000000000000001 >"$etc/machine-id"
    sed -i 's/^root:[^:]*:/root::/' "$etc/shadow"
    rm -f "$etc"/*- # backups of the above; shadow- has mode 000, and mke2fs is not root
    mkdir -p "$getty" "$etc/systemd/system/getty.target.wants"
    printf '[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --keep-baud 115200 - dumb\n' >"$getty/autologin.conf"
    ln -sf /lib/systemd/system/serial-getty@.service "$etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service"
    for unit in "${masked[@]}"; do
        ln -sf /dev/null "$etc/systemd/system/$unit"
    done
    # mke2fs's own tables are written now: a guest that did it later would fill overlays with them.
    truncate -s "$size" "$root.raw"
    mke2fs -q -F -t ext4 -L mayfly-guest -m 0 -E lazy_itable_init=0,lazy_journal_init=0 -d "$root" "$root.raw"
}

make_debian() {
    bootstrap "$1"
    say "  making the file system"
    run_quietly "$1/log" fakeroot -- bash "${BASH_SOURCE[0]}" make-disk "$1/debian"
    rm -rf "$1/debian" "$1/debian.tar" "$1/log"
}

case ${1-} in
make-disk) make_disk "$2" ;;
*) publish debian "$(key "$guest_dir/debian.sh")" make_debian ;;
esac

#!/bin/bash
# Debian's stock cloud kernel with its modules, and Debian's static busybox: downloaded and unpacked, never installed.
# The package lists are fetched into a private place, so this needs neither root nor fresh lists on the machine.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need apt-get apt-cache dpkg-deb

make_kernel() {
    local out=$1 work=$1/work kernel apt
    mkdir -p "$work"/{lists,archives,root}
    apt=(-o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work" -o APT::Sandbox::User=root -o Acquire::Languages=none -qq)
    say "  fetching the package lists"
    run_quietly "$work/log" apt-get "${apt[@]}" update
    kernel=$(apt-cache "${apt[@]}" depends linux-image-cloud-amd64 | awk '$1 == "Depends:" { print $2; exit }')
    [[ $kernel == linux-image-*-cloud-amd64 ]] ||
        die "the package lists know no linux-image-cloud-amd64: does /etc/apt name a Debian archive?"
    say "  fetching $kernel and busybox-static"
    (cd "$work/archives" && run_quietly "$work/log" apt-get "${apt[@]}" download "$kernel" busybox-static)
    for package in "$work"/archives/*.deb; do
        dpkg-deb -x "$package" "$work/root"
    done
    mv "$work"/root/boot/vmlinuz-* "$out/vmlinuz"
    mv "$work"/root/bin/busybox "$out/busybox"
    mv "$work"/root/lib/modules/* "$out/modules"
    rm -rf "$work"
}

publish kernel "$(key "$guest_dir/kernel.sh")" make_kernel

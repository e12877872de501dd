# shellcheck shell=bash
# Debian's packages, downloaded and unpacked, never installed. The package lists are fetched into a private place, so
# this needs neither root nor fresh lists on the machine. Sourced after lib.sh; knows nothing of what is in a package.
need apt-get apt-cache dpkg-deb

# unpack DIR KERNEL PACKAGE...: leaves in DIR/files what is in the kernel package that the package KERNEL depends on, and in
# the other packages.
unpack() {
    local work=$1 meta=$2 kernel package apt
    shift 2
    mkdir -p "$work"/{lists,archives,files}
    apt=(-o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work" -o APT::Sandbox::User=root -o Acquire::Languages=none -qq)
    say "  fetching the package lists"
    run_quietly "$work/log" apt-get "${apt[@]}" update
    kernel=$(apt-cache "${apt[@]}" depends "$meta" | awk '$1 == "Depends:" { print $2; exit }')
    [[ $kernel == linux-image-*-amd64 ]] || die "the package lists know no $meta: does /etc/apt name a Debian archive?"
    say "  fetching $kernel${*:+ and $*}"
    (cd "$work/archives" && run_quietly "$work/log" apt-get "${apt[@]}" download "$kernel" "$@")
    for package in "$work"/archives/*.deb; do
        dpkg-deb -x "$package" "$work/files"
    done
}

# shellcheck shell=bash
# What the image builders share: where images are kept, when one is stale, and how a finished one appears.
#
#   $cache/NAME-KEY/      one finished version, never changed afterwards; KEY is a hash of what it was made from
#   $cache/NAME           a link to the version in use; the tests look here and nowhere else
#
# A version is made under a temporary name and renamed when it is whole, so an interrupted build leaves nothing that
# a test could boot. Knows nothing of what an image holds.
set -euo pipefail

guest_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${MAYFLY_CACHE:-${XDG_CACHE_HOME:-${HOME:?is not set: name a directory for the images in MAYFLY_CACHE}/.cache}/mayfly}

say() { printf 'images: %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || die "$tool is not installed: run 'make deps'"
    done
}

# run_quietly LOG COMMAND...: shows what a long command said only if it failed.
run_quietly() {
    local log=$1
    shift
    "$@" >"$log" 2>&1 || {
        tail -n 40 "$log" >&2
        die "'$1' failed; its last words are above"
    }
}

# key FILE...: names a version by the content of what makes it.
key() { cat -- "$guest_dir/lib.sh" "$@" | sha256sum | cut -c1-12; }

# publish NAME KEY MAKE: unless it is there already, calls `MAKE DIR` to fill an empty directory; then points NAME at it.
publish() {
    local name=$1 version=$1-$2 make=$3 work started=$SECONDS
    mkdir -p "$cache"
    exec 9>"$cache/.lock"
    flock 9 # two builds at once would do the same work twice
    if [[ ! -d $cache/$version ]]; then
        find "$cache" -maxdepth 1 -name ".$name.*" -exec rm -rf {} + # what an interrupted build left
        work=$cache/.$name.$$ # nobody else makes one: the lock is held
        mkdir "$work"
        say "making $name (once; kept in $cache)"
        "$make" "$work"
        chmod -R u+w,a+rX "$work"
        mv -T "$work" "$cache/$version"
        say "made $name in $((SECONDS - started)) s"
        # Older versions stay for a week: another checkout may still use them.
        find "$cache" -maxdepth 1 -name "$name-*" ! -name "$version" -mtime +7 -exec rm -rf {} +
    fi
    ln -sfn "$version" "$cache/.$name.link"
    mv -T "$cache/.$name.link" "$cache/$name"
    exec 9>&-
}

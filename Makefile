# Everything that is done with this tree, by people and by CI. `make` alone lists it.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help deps build install uninstall release sbom reproducible images test fuzz test-musl filter-use demo demo-shell \
	bench flamegraph bench-boot endurance lint audit clean clean-cache

export MAYFLY_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mayfly
export PATH := $(MAYFLY_CACHE)/tools/bin:$(HOME)/.cargo/bin:$(PATH)

# The Debian guest of the demo: what a user would type.
debian = --disk "$(MAYFLY_CACHE)/debian/debian.raw" --kernel "$(MAYFLY_CACHE)/kernel/vmlinuz" \
	--initrd "$(MAYFLY_CACHE)/initramfs/initramfs.cpio" --append loglevel=3 --cpus 2 --memory 512M

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

deps: ## install the Debian packages and tools that are missing (with sudo where needed)
	@scripts/deps

build: deps ## compile the release programs into target/release
	cargo build --release --workspace --exclude tests

# Who cannot read a program's file cannot look into the process from its first instruction on (docs/sandbox.md).
PREFIX ?= /usr/local
BUILT ?= target/release
programs = mayfly mayfly-vmm mayfly-import blk-helper

docs = $(wildcard docs/*)
doc_dir = $(DESTDIR)$(PREFIX)/share/doc/mayfly
# How programs that start virtual machines find backends: QEMU's docs/interop/vhost-user.json.
backends_dir = $(DESTDIR)$(PREFIX)/share/qemu/vhost-user
backend = 50-mayfly-blk-helper.json

install: ## after make build, as root: the programs into PREFIX/bin (/usr/local), mode 0711, documentation into PREFIX/share (DESTDIR is heeded)
	install -d "$(DESTDIR)$(PREFIX)/bin" "$(doc_dir)/docs" "$(backends_dir)"
	install -m 0711 $(programs:%="$(BUILT)/%") "$(DESTDIR)$(PREFIX)/bin"
	install -m 0644 README.md LICENSE "$(doc_dir)"
	install -m 0644 $(docs) "$(doc_dir)/docs"
	ln -sf docs/mayfly.1.md "$(doc_dir)/mayfly.1.md"
	printf '{\n  "description": "%s",\n  "type": "block",\n  "binary": "%s"\n}\n' \
	    'blk-helper of Mayfly: a raw image, and what the guest writes is lost' "$(PREFIX)/bin/blk-helper" \
	    >"$(backends_dir)/$(backend)"
	chmod 0644 "$(backends_dir)/$(backend)"

uninstall: ## remove what make install put there
	rm -f $(programs:%="$(DESTDIR)$(PREFIX)/bin/%") "$(backends_dir)/$(backend)" $(docs:%="$(doc_dir)/%") \
	    "$(doc_dir)/README.md" "$(doc_dir)/LICENSE" "$(doc_dir)/mayfly.1.md"
	for dir in "$(doc_dir)/docs" "$(doc_dir)"; do [ ! -d "$$dir" ] || rmdir --ignore-fail-on-non-empty "$$dir"; done

release: deps ## what a release consists of, into target/dist: a static helper, the other programs, checksums
	@scripts/release

sbom: ## what is in the programs of a release (CycloneDX), into target/dist
	@scripts/deps --sbom
	@scripts/sbom

reproducible: deps ## build the release twice, in different places, and compare (two whole builds)
	@scripts/reproducible

images: deps ## make what the guests boot from, once, in ~/.cache/mayfly (or MAYFLY_CACHE)
	@tests/guest/images

test: deps ## everything: lints and all tests; as root, the tests a second time as an ordinary user
	@tests/guest/images & scripts/lint; lint=$$?; wait $$! && [ $$lint = 0 ] && scripts/test

fuzz: deps ## fuzz every target for a minute (docs/testing.md): FUZZ="--seconds 1800", FUZZ="requests import"
	@scripts/fuzz $(FUZZ)

test-musl: release images ## the helper's tests on the release's static helper (about 15 minutes)
	@scripts/test-musl

filter-use: deps ## which lines of the system call filters the suites use, seen with strace (about half an hour)
	@scripts/filter-use

demo: images build ## watch a guest write to a disk that burns
	@MAYFLY="$$PWD/target/release/mayfly" cargo run --quiet -p tests --bin demo

demo-shell: images build ## the same guest on this terminal: "mayfly run" and nothing else
	@printf '%s\n' '' \
	    'A Debian guest, with you as root in it. Ruin what you like: its disk burns at the end.' \
	    'C-a h shows the keys (C-a is Ctrl and a, then the letter): C-a c what runs, C-a x the end.' \
	    'All other keys are for the guest, Ctrl-C too. It boots for some seconds; poweroff ends it as well.' ''
	@accel=; if [ -e /dev/kvm ] && ! [ -r /dev/kvm -a -w /dev/kvm ]; then accel='--accel qemu'; \
	    echo "You may not open /dev/kvm, so this says $$accel: slower, and less confined."; fi; \
	    set -x; target/release/mayfly run $$accel $(debian)

bench: build ## the disk beside its peers, in numbers: BENCH="--quick" for a look, "--rows read,touch", "--rounds N"
	@cargo build --quiet --release -p tests --bin bench
	@target/release/bench $(BENCH)

flamegraph: deps ## docs/flamegraph.svg: where a busy helper's time goes (needs perf, and the right to use it)
	@scripts/flamegraph

bench-boot: images build ## boot time beside QEMU's microvm, and memory, on an emulated host with a real KVM (about 3 minutes)
	@cargo build --quiet --release -p tests --bin nested --bin inside
	@target/release/nested --limit 900 "$$PWD/target/release/inside peer disk boot-time"

endurance: deps ## kills, connections and faults for about an hour, as root: ENDURANCE="--quick" for seconds, "--rows kills,crowd"
	@scripts/endurance $(ENDURANCE)

lint: deps ## formatting, clippy, documentation, licences, the rules of ARCHITECTURE.md, shell scripts
	@scripts/lint

audit: deps ## known vulnerabilities in dependencies (needs access to GitHub, where the advisories are)
	cargo deny check advisories

clean: ## remove what was compiled; images stay
	cargo clean

clean-cache: ## remove images and tools too
	rm -rf "$(MAYFLY_CACHE)"/{,.}{kernel,initramfs,debian,nested}* "$(MAYFLY_CACHE)"/{tools,.lock}

# Everything that is done with this tree, by people and by CI. `make` alone lists it.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help deps build images test demo demo-shell lint audit clean clean-cache

export MAYFLY_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mayfly
export PATH := $(HOME)/.cargo/bin:$(PATH):$(MAYFLY_CACHE)/tools/bin

# The demo shows the helper as it is shipped.
demo = MAYFLY_BLK_HELPER="$$PWD/target/release/blk-helper" cargo run --quiet -p tests --bin demo --

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

deps: ## install the Debian packages and tools that are missing (with sudo where needed)
	@scripts/deps

build: deps ## compile the release programs into target/release
	cargo build --release --bins

images: deps ## make what the guests boot from, once, in ~/.cache/mayfly (or MAYFLY_CACHE)
	@tests/guest/images

test: deps images lint ## everything: lints and all tests; as root, the tests a second time as an ordinary user
	@scripts/test

demo: images build ## watch a guest write to a disk that burns
	@$(demo)

demo-shell: images build ## the same guest, with its console on this terminal
	@$(demo) shell

lint: deps ## formatting, clippy, documentation, licences, the rules of ARCHITECTURE.md, shell scripts
	@scripts/lint

audit: deps ## known vulnerabilities in dependencies (needs access to GitHub, where the advisories are)
	cargo deny check advisories

clean: ## remove what was compiled; images stay
	cargo clean

clean-cache: ## remove images and tools too
	rm -rf "$(MAYFLY_CACHE)"/{,.}{kernel,initramfs,debian}* "$(MAYFLY_CACHE)"/{tools,.lock}

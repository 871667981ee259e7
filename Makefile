# The commands of this project. `make` alone lists them.
#
# Everything is built with the locked dependencies. `CARGO_TARGET_DIR` is honoured.

CARGO      ?= cargo
TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
CONFORMANCE = $(CARGO) run --locked --release --quiet -p conformance --bin conformance --

# The black-box tests and benchmarks run these binaries.
export ROADSTEAD_BIN_DIR := $(TARGET_DIR)/release
# A registry that can be told to leave a step out: what is known to be bad must be noticed.
export ROADSTEAD_FAILPOINTS_BIN := $(TARGET_DIR)/failpoints/registry

.PHONY: help build demo check test failpoints install bench torture fuzz

help:                ## List these commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 12

build:               ## Build both programs, optimised, into target/release
	$(CARGO) build --locked --release --workspace

demo: build          ## Start the registry, push an image, run it with rrun, clean up (root)
	$(CONFORMANCE) demo

check:               ## Format, lints, fast tests: before every commit
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) test --locked --workspace --lib --bins

test: install        ## Everything, through the wire and the kernel (root; installs what it needs)
	$(MAKE) check
	$(MAKE) build
	$(CARGO) test --locked -p shared -p registry -p runner --tests
	$(CARGO) test --locked -p registry --features failpoints --test crash --test syncs --test soak -- --test-threads=1
	$(CARGO) test --locked -p runner --features known-bad --test container --test images known_bad
	$(CARGO) test --locked -p registry --features failpoints --test faults
	$(MAKE) failpoints
	$(CARGO) test --locked -p conformance --tests -- --test-threads=1

failpoints:
	$(CARGO) build --locked -p registry --features failpoints --bin registry
	install -D $(TARGET_DIR)/debug/registry $(ROADSTEAD_FAILPOINTS_BIN)

install:             ## Debian packages and Go programs that the tests and benchmarks need (root)
	$(CONFORMANCE) install

bench: install build ## Figures beside the peers, in one interleaved run (root)
	$(CONFORMANCE) bench registry
	$(CONFORMANCE) bench runner

CUTS    ?= 1000
KILLS   ?= 1000
SECONDS ?= 300
SEED    ?= 1
FS      ?= ext4,xfs
torture: install build failpoints ## CUTS power cuts per file system FS, KILLS kills, SECONDS of collection beside pushers; writes conformance/RELIABILITY.md (root)
	$(CONFORMANCE) torture --cuts $(CUTS) --kills $(KILLS) --seconds $(SECONDS) --seed $(SEED) --fs $(FS) \
	  --peer --known-bad --report conformance/RELIABILITY.md

FUZZ_SECONDS ?= 600
fuzz:                ## Each parser of the registry's edge for FUZZ_SECONDS (nightly Rust, cargo-fuzz)
	for target in $$(cd registry && $(CARGO) +nightly fuzz list); do \
	  (cd registry && $(CARGO) +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS)) || exit 1; \
	done

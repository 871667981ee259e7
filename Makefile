# The commands of this project. `make` alone lists them.
#
# Everything is built with the locked dependencies. `CARGO_TARGET_DIR` is honoured.

CARGO      ?= cargo
TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
# The generators of load are optimised, the rest of the harness need not be.
BENCH      := $(CARGO) run --locked --release --quiet -p conformance --bin conformance --

# The black-box tests run these binaries; benchmarks and the demo run what people get.
export ROADSTEAD_BIN_DIR := $(TARGET_DIR)/release
demo bench dist: export ROADSTEAD_BIN_DIR := $(TARGET_DIR)/dist
# A registry that can be told to leave a step out: what is known to be bad must be noticed.
export ROADSTEAD_FAILPOINTS_BIN := $(TARGET_DIR)/debug/registry

.PHONY: help build dist image chart static packages release demo check test debug install bench torture fuzz

help:                ## List these commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 12

build:               ## Build both programs into target/release, quickly: what the tests run
	$(CARGO) build --locked --release -p registry -p runner

dist:                ## Build both programs as people get them, into target/dist
	$(CARGO) build --locked --profile dist -p registry -p runner

image: debug         ## Write the registry's image into target/image, for every platform that this host builds for
	$(TARGET_DIR)/debug/conformance image $(TARGET_DIR)/image

# The image's binary as the tests have it: static, and built quickly.
static: debug
	$(TARGET_DIR)/debug/conformance image $(TARGET_DIR)/image-release --profile release --host-only

chart: debug         ## Pack the chart into target/chart
	$(TARGET_DIR)/debug/conformance chart $(TARGET_DIR)/chart

packages: debug      ## Write the Debian packages of both programs into target/packages
	$(TARGET_DIR)/debug/conformance packages $(TARGET_DIR)/packages

# Into a directory of its own: target/release is cargo's.
release: debug       ## Image, chart, packages and checksums in target/roadstead; fails where a platform cannot be built for
	$(TARGET_DIR)/debug/conformance release $(TARGET_DIR)/roadstead

demo: dist           ## Start the registry, push an image, run it with rrun, clean up (root)
	$(CARGO) run --locked --quiet -p conformance --bin conformance -- demo

check:               ## Format, lints, fast tests: before every commit
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) test --locked --workspace --lib --bins

# Debug builds of everything, always as one workspace: packages that are built by themselves unify
# their dependencies' features otherwise, and each dependency would be compiled once more. The
# crates' test binaries then stand in $(IT) under the crates' names.
IT := $(TARGET_DIR)/it
debug:
	$(CARGO) test --locked --workspace --no-run
	@mkdir -p $(IT); $(CARGO) test --locked --workspace --no-run --quiet --message-format=json \
	  | sed -nE 's|.*"manifest_path":"[^"]*/(\w+)/Cargo.toml".*"name":"it".*"executable":"([^"]+)".*|\1 \2|p' \
	  | while read -r crate binary; do ln -sfn "$$binary" "$(IT)/$$crate"; done

# Each suite has a budget in seconds on two cores; one that is over it fails at the end, when all
# have run. A suite is a module of a crate's one test binary and runs in a process of its own.
SUITES := $(TARGET_DIR)/suites
suite  = @echo "== suite $(1)"; start=$$(date +%s); $(3) || { echo "suite $(1) failed"; exit 1; }; \
  echo "$(1) $$(($$(date +%s) - start)) $(2)" >> $(SUITES)
it     = cd $(1) && $(IT)/$(1) --quiet
BLACK_BOX := $(filter-out main,$(basename $(notdir $(wildcard conformance/tests/it/*.rs))))
BUDGET     = $(or $(BUDGET_$(1)),90)
BUDGET_deploy_chart := 180
BUDGET_deploy_image := 120
BUDGET_deploy_packages := 180
BUDGET_registry_clients := 150
BUDGET_registry_crash := 240
BUDGET_registry_crowd := 120
BUDGET_registry_differential := 180
BUDGET_registry_load := 300
BUDGET_run_basics := 180
BUDGET_run_concurrency := 240
BUDGET_run_corpus := 240
BUDGET_run_docker_table := 270
BUDGET_run_guest := 330

test: install        ## Everything, through the wire and the kernel (root; installs what it needs)
	@rm -f $(SUITES)
	$(call suite,check,600,$(MAKE) check)
	$(call suite,build,600,$(MAKE) build)
	$(call suite,static,600,$(MAKE) static)
	$(call suite,registry,300,$(call it,registry) --skip crash:: --skip syncs:: --skip soak:: --skip faults::)
	$(call suite,registry-crash,300,$(call it,registry) --test-threads=1 crash:: syncs:: soak::)
	$(call suite,registry-faults,180,$(call it,registry) faults::)
	$(call suite,runner,270,$(call it,runner) --skip known_bad_measures)
	$(call suite,runner-known-bad,180,$(call it,runner) known_bad_measures)
	@set -e; for suite in $(foreach name,$(BLACK_BOX),$(name)=$(call BUDGET,$(name))); do \
	  $(MAKE) --no-print-directory black-box NAME=$${suite%=*} SECONDS_AT_MOST=$${suite#*=}; done
	@awk '{ late = $$2 > $$3; bad += late; total += $$2; \
	  printf "%-24s %5d s of %4d%s\n", $$1, $$2, $$3, late ? "  OVER ITS BUDGET" : "" } \
	  END { printf "%-24s %5d s\n", "all suites", total; exit bad > 0 }' $(SUITES)

.PHONY: black-box
black-box:
	$(call suite,$(NAME),$(SECONDS_AT_MOST),$(call it,conformance) --test-threads=1 $(NAME)::)

install: debug       ## Debian packages and Go programs that the tests and benchmarks need (root)
	$(TARGET_DIR)/debug/conformance install

bench: install dist  ## Figures beside the peers, in one interleaved run (root)
	$(BENCH) bench registry
	$(BENCH) bench runner

CUTS    ?= 1000
KILLS   ?= 1000
SECONDS ?= 300
SEED    ?= 1
FS      ?= ext4,xfs
torture: install build ## CUTS power cuts per file system FS, KILLS kills, SECONDS of collection beside pushers; writes conformance/RELIABILITY.md (root)
	$(BENCH) torture --cuts $(CUTS) --kills $(KILLS) --seconds $(SECONDS) --seed $(SEED) --fs $(FS) \
	  --peer --known-bad --report conformance/RELIABILITY.md
	cd conformance && BUCKET_MODEL_STATES=2000000 $(IT)/conformance --quiet --test-threads=1 bucket_model::

FUZZ_SECONDS ?= 600
fuzz:                ## Each parser of the registry's edge for FUZZ_SECONDS (nightly Rust, cargo-fuzz)
	for target in $$(cd registry && $(CARGO) +nightly fuzz list); do \
	  (cd registry && $(CARGO) +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS)) || exit 1; \
	done

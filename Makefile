# Everything a developer or a user of the source runs; `make help` lists it.
# Needs Rust, and root for whatever mounts or installs packages.

CARGO ?= cargo
# Tests use the dev profile: it has the assertions, and its dependencies are optimised.
BUILT := $(or $(CARGO_TARGET_DIR),target)/debug
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release
LAB_IMAGE := target/lab/image
LAB_MACHINE := target/lab/kernel

.DEFAULT_GOAL := help
.PHONY: help build demo test bench bench-short bench-record gate format lint packages rivals image machine clean

help: ## what there is
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: packages ## the program, target/release/icbd
	$(CARGO) build --release --locked -p icbd-daemon

demo: packages image ## boots a real Debian image from a cache's mount, cold and warm, and says how it went
	$(CARGO) build --locked -p icbd-daemon -p icbd-tests
	$(BUILT)/icbd-demo

# The program is built with the same selection of packages as its tests, so that dependencies are built once.
test: packages image machine ## every test
	$(CARGO) build --locked --workspace --bin icbd
	@CARGO=$(CARGO) tests/lab/run.sh

gate: format lint test ## what CI runs

bench: rivals image ## benchmarks, side by side with what they are compared with; writes perf/RESULTS.md
	$(CARGO) build --release --locked -p icbd-daemon -p icbd-perf
	$(RELEASE)/icbd-perf

bench-short: rivals image ## the same with smaller files, fewer rounds and fewer rivals
	$(CARGO) build --release --locked -p icbd-daemon -p icbd-perf
	$(RELEASE)/icbd-perf --short

bench-record: rivals image ## records a boot of the Debian image into perf/traces
	$(CARGO) build --release --locked -p icbd-daemon -p icbd-perf
	$(RELEASE)/icbd-perf record

format: ## whether the source is formatted
	$(CARGO) fmt --all --check

lint: packages ## clippy, where a warning is an error
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

packages: ## installs the Debian packages that are missing
	@tests/lab/packages.sh

rivals: ## installs those, and what icbd is compared with
	@tests/lab/packages.sh --rivals

image: packages ## builds the Debian images that tests and demo boot, unless they are there
	@tests/lab/build-image.sh $(LAB_IMAGE)

machine: packages ## builds the machine whose kernel has servers of NFS and iSCSI, unless it is there
	@tests/lab/build-kernel-machine.sh $(LAB_MACHINE)

clean: ## removes what was built
	$(CARGO) clean

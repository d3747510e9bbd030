# Everything a developer or a user of the source runs; `make help` lists it.
# Needs Rust, and root for whatever mounts or installs packages.

CARGO ?= cargo
# Tests use the dev profile: it has the assertions, and its dependencies are optimised.
BUILT := $(or $(CARGO_TARGET_DIR),target)/debug
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release
LAB_IMAGE := target/lab/image
LAB_MACHINE := target/lab/kernel
LAB_NETBOOT := target/lab/netboot
LAB_SERVER := target/lab/bare
# Where `make install` puts what is found by PATH, and below what.
PREFIX ?= /usr/local
DESTDIR ?=

.DEFAULT_GOAL := help
.PHONY: help build install deb demo test bench bench-short bench-record gate format lint packages rivals image machine clean

help: ## what there is
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: packages ## the programs, target/release/icbd and target/release/mount-icbd
	$(CARGO) build --release --locked -p icbd-daemon -p icbd-mount-helpers

install: ## puts what was built, with units and manual pages, below PREFIX (/usr/local)
	mount-helpers/install.sh $(RELEASE) $(PREFIX) $(DESTDIR)

deb: build ## the Debian package, target/icbd_VERSION_ARCH.deb
	@mount-helpers/debian/build.sh $(RELEASE) target

demo: packages image ## boots a real Debian image from a cache's mount, cold and warm, and says how it went
	$(CARGO) build --locked -p icbd-daemon -p icbd-tests
	$(BUILT)/icbd-demo

# The program is built with the same selection of packages as its tests, so that dependencies are built once.
test: packages image machine ## every test
	$(CARGO) build --locked --workspace --bin icbd --bin mount-icbd
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
	@tests/lab/build-netboot-image.sh $(LAB_NETBOOT)

machine: packages ## builds the machines that have servers in their kernel, and nothing yet, unless they are there
	@tests/lab/build-kernel-machine.sh $(LAB_MACHINE)
	@tests/lab/build-bare-machine.sh $(LAB_SERVER)

clean: ## removes what was built
	$(CARGO) clean

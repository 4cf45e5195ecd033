# healer's front door. `make help` lists the targets.

# The most that the stripped release binary may take: 6 MiB.
SIZE_LIMIT := 6291456
PREFIX ?= /usr/local
DESTDIR ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)

# What runs on a machine is linked statically and to a fixed address, against musl where the toolchain
# has it: docs/architecture.md, "The release build", says why. With --target the flags concern neither
# build scripts nor macros.
RELEASE_TARGET = $(or $(shell .ci/release-target),unknown)
RELEASE_FLAGS := -C target-feature=+crt-static -C relocation-model=static
FOR_RELEASE = RUSTFLAGS="$(strip $(RUSTFLAGS) $(RELEASE_FLAGS))"
BINARY = $(TARGET)/$(RELEASE_TARGET)/release/healer
IN_GUEST = --healer $(BINARY) --guarded $(dir $(BINARY))examples/service --results $(TARGET)/vmtests

# As root, a test that skips itself for want of rights would be a mistake.
ifeq ($(shell id -u),0)
export HEALER_TESTS_MUST_RUN := 1
endif

.DEFAULT_GOAL := build
# Each of cargo's commands uses all cores by itself.
.NOTPARALLEL:
.PHONY: help build demo test check fmt clippy deny docs scripts unit slim static size bench system install set-up set-up-test set-up-vm
.PHONY: driver vm vmtest guarded

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

build: set-up ## Build the release binary, target/*/release/healer (the default)
	$(FOR_RELEASE) cargo build --release --locked --target $(RELEASE_TARGET)
	@echo "built $(BINARY)"

demo: build ## Set up what is missing, build, and show on a small service what healer does
	@$(BINARY) demo

test: check deny docs size static system slim unit ## Set up what is missing and run every check and test

check: fmt clippy scripts driver ## The quick part: format, lints, scripts, the driver of the VM tests

fmt: set-up-test
	cargo fmt --all -- --check

clippy: set-up-test
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --all-targets --no-default-features -- -D warnings

deny: set-up-test ## Licences, sources and duplicates among the dependencies
	cargo deny --locked check bans licenses sources

docs: set-up-test ## The documentation of the code, without warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

scripts: ## The syntax of the shell scripts, and shellcheck where it is installed
	@for script in .ci/*; do bash -n $$script || exit 1; done
	@! command -v shellcheck >/dev/null || shellcheck .ci/*

driver: set-up-test
	python3 -B -m unittest discover -b -s vmtests -t vmtests

unit: set-up-test ## Unit, property, documentation and system tests
	cargo test --locked --doc --quiet
	cargo nextest run --locked

slim: set-up-test ## What healer does and says when it is built without eBPF
	cargo build --locked --no-default-features --bin healer --example service
	cargo nextest run --locked --no-default-features --test system without_ebpf

# A C library that looks users up in a static program would load itself a second time.
static: build ## The release binary is static, and asks no name service
	@! readelf -lW $(BINARY) | grep -q INTERP || { echo "$(BINARY) is not static" >&2; exit 1; }
	@! grep -q libnss_ $(BINARY) || { echo "$(BINARY) looks users up by NSS" >&2; exit 1; }

system: set-up-test build ## The system tests again, of the release binary
	# cargo builds examples, the guarded program is one, only where no target is picked.
	cargo build --locked --examples
	HEALER_UNDER_TEST=$(abspath $(BINARY)) cargo nextest run --locked --test system

bench: set-up ## From a kill to the new instance, a launch, a thousand probes, beside the bare calls; and what others pay
	$(FOR_RELEASE) cargo bench --locked --target $(RELEASE_TARGET) --bench recovery --bench launch \
		--bench unrelated --bench probes

size: build ## The release binary is at most 6 MiB
	@size=$$(wc -c < $(BINARY)); echo "$(BINARY): $$size bytes of $(SIZE_LIMIT)"; \
	test $$size -le $(SIZE_LIMIT) || { echo "the release binary is too large" >&2; exit 1; }

vm: guarded ## The scenarios in virtual machines, on the oldest and the newest kernel
	vmtests/run --where-possible --kernel oldest --kernel newest $(IN_GUEST)

vmtest: guarded ## The scenarios in virtual machines, on all kernels
	vmtests/run $(IN_GUEST)

# The program that the scenarios guard. The guest has another C library than this machine.
guarded: set-up-vm build
	$(FOR_RELEASE) cargo build --release --locked --target $(RELEASE_TARGET) --example service

install: ## Install what `make build` built, below DESTDIR and PREFIX (/usr/local)
	# As another user there may be no Rust to ask for the target.
	install -D -m 755 $(shell ls -t $(TARGET)/*/release/healer | head -n 1) $(DESTDIR)$(PREFIX)/bin/healer
	install -D -m 644 docs/healer.8 $(DESTDIR)$(PREFIX)/share/man/man8/healer.8

set-up:
	@.ci/set-up build

set-up-test: set-up
	@.ci/set-up test

set-up-vm: set-up-test
	@.ci/set-up vm

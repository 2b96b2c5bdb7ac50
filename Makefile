# What users and CI call. `make` alone lists the targets. A Rust toolchain and a C compiler are enough for build, demo,
# demo-drills, test, check-golden and bench; lint, interop and sim-madsim say what they want besides.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
CARGO_DENY := 0.20.2
SWEEP_SECONDS ?= 10
BINARIES := autonomy edged edgectl

.DEFAULT_GOAL := help
.PHONY: help build demo demo-up demo-down demo-run demo-run-unsigned demo-offline-drain demo-drills test lint units advisories check-golden golden-update bench fuzz interop sim-sweep sim-madsim

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the release binaries, in bin/
	$(CARGO) build --release --locked $(BINARIES:%=-p %)
	@mkdir -p bin
	@for binary in $(BINARIES); do install -m 755 $(TARGET)/release/$$binary bin/$$binary; echo "built bin/$$binary"; done

demo: build ## the story in one terminal, signed releases and a kill -9 in it; ends with a table of checks
	@$(CARGO) build --release --locked --quiet -p demo
	@$(TARGET)/release/demo story --autonomy bin/autonomy

demo-up: build ## registry and collector for playing by hand with demo/scripts, and keys in target/demo
	@demo/stack start registry
	@demo/stack start otel-sink
	@bash -c '. demo/scripts/lib.sh; make_keys'

demo-down: ## end what demo-up started; what it keeps stays in target/demo
	@demo/stack stop otel-sink
	@demo/stack stop registry

demo-run: build ## Act 2 alone: sign (cosign where installed, else our own), verify, load, also without a network
	@$(CARGO) build --release --locked --quiet -p demo
	@$(TARGET)/release/demo run --autonomy bin/autonomy

demo-run-unsigned: build ## the policy loaded as it is, signed by nobody, and Act 1
	@$(CARGO) build --release --locked --quiet -p demo
	@$(TARGET)/release/demo run-unsigned --autonomy bin/autonomy

demo-offline-drain: build ## Act 3 alone: the collector is down, nothing is lost, everything is delivered after
	@$(CARGO) build --release --locked --quiet -p demo
	@$(TARGET)/release/demo offline-drain --autonomy bin/autonomy

demo-drills: build ## break things on purpose: no or corrupt policy, kill -9 under load, the collector's outage, tampered releases
	@$(CARGO) build --release --locked --quiet -p demo
	@$(TARGET)/release/demo drills --autonomy bin/autonomy

test: ## all tests, golden fixtures and the rules of the rooms among them
	$(CARGO) test --workspace --locked

lint: ## formatting, clippy, the rules of the rooms, lock files, licences and sources of dependencies (cargo-deny)
	@$(CARGO) metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null || { \
	  echo "lint: fuzz/Cargo.lock is out of date; write it with: $(CARGO) update --workspace --manifest-path fuzz/Cargo.toml"; exit 1; }
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) run --quiet --locked -p golden --bin room-lint
	@$(CARGO) deny --version 2>/dev/null | grep -q '^cargo-deny $(CARGO_DENY)$$' || { \
	  echo "lint: cargo-deny $(CARGO_DENY) is missing; install it with"; \
	  echo "  $(CARGO) install --locked cargo-deny@$(CARGO_DENY)"; exit 1; }
	$(CARGO) deny --all-features check bans licenses sources

units: ## systemd-analyze over the units of deploy/systemd: understood, and how exposed; says NOT RUN where it is missing
	@deploy/check-units

advisories: ## known vulnerabilities of dependencies (fetches the RustSec database)
	$(CARGO) deny --all-features check advisories

check-golden: ## compute the golden fixtures again and show every difference
	$(CARGO) run --quiet --locked -p golden -- check

golden-update: ## write the golden fixtures; every change needs a reason in CHANGELOG.md
	$(CARGO) run --quiet --locked -p golden -- update

bench: build ## the figures, each beside its floor; JSON in target/bench/
	@$(CARGO) build --locked --quiet -p sim
	@$(CARGO) build --release --locked --quiet -p bench -p io-policy --examples --bins
	@$(TARGET)/release/bench --autonomy bin/autonomy --target $(TARGET)

fuzz: ## each parser of outside bytes fuzzed for SECONDS_EACH (60); wants a C++ compiler
	@fuzz/run

interop: build ## others compute our formats, receive our drain, judge our calls, carry, sign and check our images; more where there is Go
	@golden/interop/run $(TARGET)/interop

sim-sweep: ## sweep seeds in the simulator for SWEEP_SECONDS (10)
	$(CARGO) run --quiet --locked -p sim -- sweep --seconds $(SWEEP_SECONDS)

sim-madsim: ## the simulator under madsim's clock and entropy: the same traces
	RUSTFLAGS="--cfg madsim" $(CARGO) test --locked -p sim --target-dir $(TARGET)-madsim --test madsim

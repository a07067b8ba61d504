# Every entry point. `make demo` and `make test` need Rust and nothing else: deploy/dev installs the rest.

.DEFAULT_GOAL := help
SHELL := /bin/bash
export PROTOC := $(CURDIR)/.dev/bin/protoc

# The demo's store: embedded, etcd or consul.
STORE ?= embedded

.PHONY: help demo test unit e2e check fmt lint doc fuzz release bench bench-http bench-suite bench-compare bench-advise bench-keep bench-xds bench-ratelimit bench-core deny tools clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):[^#]*## /  \1\t/' | expand -t 14

demo: ## Show the main job: services registered, reached, rerouted under load. STORE=embedded|etcd|consul
	@deploy/dev/build.sh
	@if [ "$(STORE)" != embedded ]; then deploy/dev/$(STORE).sh; fi
	CARGO_INCREMENTAL=0 cargo build --quiet --profile quick-release -p data-plane -p control-plane -p portolan-cli -p e2e --bins
	target/quick-release/portolan-demo --store $(STORE)

test: tools ## Everything: units, properties, and end to end with real etcd, Consul, Envoy and gRPC
	cargo build --workspace --bins
	tests/run.sh

unit: ## Units and properties only
	@deploy/dev/build.sh
	cargo test --workspace --exclude e2e

e2e: tools ## End to end only; make e2e ONLY=name runs the tests whose name holds it
	cargo build --workspace --bins
	cargo test -p e2e --test suite -- $(ONLY)

tools: ## Install what building and testing need, under .dev
	@deploy/dev/build.sh
	@deploy/dev/etcd.sh
	@deploy/dev/consul.sh
	@deploy/dev/redis.sh
	@deploy/dev/envoy.sh

check: fmt lint doc ## Format, lints and docs, as CI checks them

fmt: ## Formatting
	cargo fmt --all -- --check

lint: ## Clippy over everything, warnings are errors
	@deploy/dev/build.sh
	cargo clippy --workspace --all-targets -- -D warnings

doc: ## API docs, broken links are errors
	@deploy/dev/build.sh
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

fuzz: ## HTTP/1 beside hyper on messages made by chance, longer than `make test` does. SECONDS=600
	@deploy/dev/build.sh
	FUZZ_SECONDS=$(or $(SECONDS),600) cargo test --workspace --lib fuzz:: -- --nocapture

release: ## The binaries as shipped, in target/release. TARGET_CPU=native, PGO=no, PGO=new
	@deploy/dev/build.sh
	TARGET_CPU=$(TARGET_CPU) PGO=$(PGO) deploy/release.sh

bench: ## The proxy beside Envoy, nginx and HAProxy: benches/RESULTS.md and plots, 20 minutes. QUICK=1, ROUNDS=3, ONLY=stage, PGO=no
	@$(MAKE) --no-print-directory bench-suite
	target/release/bench-suite --out benches

bench-http: ## The same for requests of every kind only, printed. PEERS=portolan,envoy
	@$(MAKE) --no-print-directory bench-suite
	target/release/bench-suite --only requests

bench-suite: # What both need.
	@deploy/dev/build.sh
	@deploy/dev/bench.sh
	TARGET_CPU=$(TARGET_CPU) PGO=$(PGO) deploy/release.sh proxy
	cargo build --release -p bench-suite

bench-compare: ## Instructions for a request beside those of BASE=revision, by valgrind; fails above 5 %
	@deploy/dev/build.sh
	benches/compare.sh

bench-advise: ## Instructions of the release build beside benches/instructions.json: advice only
	@deploy/dev/build.sh
	PROFILE=release benches/compare.sh --kept benches/instructions.json

bench-keep: ## Write benches/instructions.json
	@deploy/dev/build.sh
	PROFILE=release benches/compare.sh --keep benches/instructions.json

bench-xds: ## The control plane: store write to last ACK over N simulated proxies
	@deploy/dev/build.sh
	benches/xds.sh

bench-ratelimit: ## The rate-limit service: decisions a second over gRPC, in memory and with Redis. SECONDS=5
	@deploy/dev/build.sh
	@deploy/dev/redis.sh
	cargo build --release -p control-plane -p benches --bin portolan-control --bin bench-ratelimit
	target/release/bench-ratelimit $(if $(SECONDS),--seconds $(SECONDS))

bench-core: ## Decisions in-process: route match, host choice
	@deploy/dev/build.sh
	cargo bench -p benches

deny: ## Licences, bans and duplicates, where cargo-deny is installed
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; else echo "SKIP deny: cargo-deny is not installed"; fi

clean: ## Remove build output and installed servers
	cargo clean
	rm -rf .dev

#!/usr/bin/env bash
# The binaries as shipped, in target/release. Options, with what they gain in docs/benchmarks.md:
#
#   TARGET_CPU=native   for processors like this one, or another name that rustc knows; others may not run it
#   PGO=1               portolan-proxy by a profile of our own loads: builds it twice
set -euo pipefail
cd "$(dirname "$0")/.."
flags=${RUSTFLAGS:-}
[ -z "${TARGET_CPU:-}" ] || flags+=" -Ctarget-cpu=$TARGET_CPU"
# Only where there are some: empty ones would take the place of those in a cargo configuration.
build() {
    if [ -n "$flags" ]; then RUSTFLAGS=$flags cargo build --release "$@"; else cargo build --release "$@"; fi
}
if [ -z "${PGO:-}" ]; then
    build -p data-plane -p control-plane -p portolan-cli --bins
    exit
fi

deploy/dev/bench.sh
host=$(rustc -vV | sed -n 's/^host: //p') raw=$PWD/target/pgo/raw profile=$PWD/target/pgo/merged.profdata
profdata() { find "$(rustc --print sysroot)/lib/rustlib/$host" -name llvm-profdata; }
[ -n "$(profdata)" ] || rustup component add llvm-tools
build -p control-plane -p portolan-cli -p bench-suite --bins
# With a target named, flags are not for build scripts and macros, which would write profiles of their own.
plain=$flags
flags+=" -Cprofile-generate=$raw"
build --target-dir target/pgo --target "$host" -p data-plane --bins
rm -rf "$raw"
LLVM_PROFILE_FILE="$raw/%p.profraw" target/release/bench-suite --proxy "target/pgo/$host/release/portolan-proxy" \
    --gentle --peers portolan --only requests,routes,features --rounds 1 --seconds 2 >/dev/null
"$(profdata)" merge -o "$profile" "$raw"
flags="$plain -Cprofile-use=$profile"
build --target-dir target/pgo --target "$host" -p data-plane --bins
install -m 755 "target/pgo/$host/release/portolan-proxy" target/release/

#!/usr/bin/env bash
# The binaries as shipped, in target/release; `release.sh proxy` builds portolan-proxy alone. Options, with what they gain in
# docs/benchmarks.md:
#
#   TARGET_CPU=native   for processors like this one, or another name that rustc knows; others may not run it
#   PGO=no              portolan-proxy without the profile in deploy/pgo
#   PGO=new             makes that profile anew, which takes one build more and some minutes of load
#
# The profile says how often each part of a function ran under loads of our own, which are some stages of `make bench`. It
# names functions as one compiler does, so it serves only that one: with another the proxy is built without. A function
# that was changed since is compiled as without a profile.
set -euo pipefail
cd "$(dirname "$0")/.."
flags=${RUSTFLAGS:-}
[ -z "${TARGET_CPU:-}" ] || flags+=" -Ctarget-cpu=$TARGET_CPU"
profile=$PWD/deploy/pgo/portolan-proxy.profdata compiler=deploy/pgo/compiler.txt
host=$(rustc -vV | sed -n 's/^host: //p')

# Only where there are some: empty ones would take the place of those in a cargo configuration.
build() {
    if [ -n "$flags" ]; then RUSTFLAGS=$flags cargo build --release "$@"; else cargo build --release "$@"; fi
}
# By or for a profile. With a target named, flags are not for build scripts and macros; functions have the names that
# they have in the profile only when the same is built in the same way.
build_proxy() { flags="$flags $1" build --target "$host" -p data-plane --bins; }
built=target/$host/release/portolan-proxy

train() {
    deploy/dev/bench.sh
    local raw=$PWD/target/pgo llvm_profdata
    find_tool() { find "$(rustc --print sysroot)/lib/rustlib/$host" -name llvm-profdata; }
    [ -n "$(find_tool)" ] || rustup component add llvm-tools
    llvm_profdata=$(find_tool)
    build -p bench-suite
    build_proxy "-Cprofile-generate=$raw"
    rm -rf "$raw"
    LLVM_PROFILE_FILE="$raw/%p.profraw" target/release/bench-suite --proxy "$built" \
        --gentle --peers portolan --only requests,routes,features --rounds 1 --seconds 2 >/dev/null
    mkdir -p "$(dirname "$profile")"
    "$llvm_profdata" merge --sparse -o "$profile" "$raw"
    rustc -vV >"$compiler"
}

[ "${1:-}" = proxy ] || build -p control-plane -p portolan-cli --bins
[ "${PGO:-}" != new ] || train
if [ "${PGO:-}" != no ] && diff -q "$compiler" <(rustc -vV) >/dev/null; then
    build_proxy "-Cprofile-use=$profile -Cllvm-args=-no-pgo-warn-mismatch"
    install -m 755 "$built" target/release/
else
    [ "${PGO:-}" = no ] || echo "deploy/pgo is of another compiler than $(rustc -V): the proxy is built without it" >&2
    build -p data-plane --bins
fi

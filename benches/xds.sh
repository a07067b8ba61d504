#!/usr/bin/env bash
# The control plane: initial sync of N proxies, store write to last ACK, CPU, memory.
#
#   STORE=embedded,etcd MODE=delta,sotw CLIENTS=100,1000,10000 DEBOUNCE=default,0 SERVICES=100 INSTANCES=50 ROUNDS=20 \
#       PROFILE=release benches/xds.sh
#
# Every variable has a default; what is measured is described in src/bin/bench_xds/main.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${PROFILE:-release}
case ${STORE:-embedded} in *etcd*) deploy/dev/etcd.sh ;; esac
if [ "$profile" = release ]; then build=--release; else build="--profile $profile"; fi
# shellcheck disable=SC2086
PROTOC=$PWD/.dev/bin/protoc cargo build --quiet $build -p control-plane -p benches --bins
exec "target/$profile/bench-xds" "$@"

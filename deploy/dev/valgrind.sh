#!/usr/bin/env bash
# Valgrind, which counts instructions for `make bench-compare`.
. "$(dirname "$0")/lib.sh"
lock
need valgrind valgrind
valgrind --version >&2

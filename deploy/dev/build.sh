#!/usr/bin/env bash
# What compiling needs besides Rust: a C compiler (aws-lc, mimalloc) and protoc (the crate etcd-client).
. "$(dirname "$0")/lib.sh"
lock
need cc gcc libc6-dev
if [ ! -x "$DEV/bin/protoc" ]; then
    # libprotobuf-dev holds google/protobuf/*.proto, which protoc finds beside itself.
    deb bookworm protobuf-compiler libprotobuf-dev libprotoc32 libprotobuf32 zlib1g
    lib=$(dirname "$(find "$DEV/debian/bookworm/usr/lib" -name 'libprotoc.so.32' | head -n 1)")
    tool protoc "$DEV/debian/bookworm/usr/bin/protoc" "LD_LIBRARY_PATH=$lib"
fi
"$DEV/bin/protoc" --version >&2

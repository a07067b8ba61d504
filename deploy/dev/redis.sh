#!/usr/bin/env bash
# Real Redis (7.0, bookworm's), with the libraries that it needs: .dev/bin/redis-server.
. "$(dirname "$0")/lib.sh"
lock
if [ ! -x "$DEV/bin/redis-server" ]; then
    deb bookworm redis-server redis-tools libjemalloc2 liblua5.1-0 lua-bitop lua-cjson liblzf1 libatomic1
    libraries=$(dirname "$(find "$DEV/debian/bookworm/usr/lib" -name 'liblua5.1.so.0' | head -n 1)")
    tool redis-server "$DEV/debian/bookworm/usr/bin/redis-server" "LD_LIBRARY_PATH=$libraries"
fi
"$DEV/bin/redis-server" --version | sed -n 1p >&2

#!/usr/bin/env bash
# Peers and load generators of the benchmarks: nginx, HAProxy, wrk, h2load, and the real Envoy.
. "$(dirname "$0")/lib.sh"
"$(dirname "$0")/envoy.sh"
lock
if [ ! -x "$DEV/bin/h2load" ]; then
    deb bookworm nginx haproxy wrk nghttp2-client \
        libev4 libjemalloc2 liblua5.3-0 libluajit-5.1-2 libnghttp2-14 libopentracing-c-wrapper0 libopentracing1 \
        libpcre2-8-0 libssl3 libsystemd0 libgcrypt20 liblz4-1 libzstd1
    root="$DEV/debian/bookworm"
    libs="LD_LIBRARY_PATH=$(dirname "$(find "$root/usr/lib" -name 'libev.so.4' | head -n 1)")"
    tool nginx "$root/usr/sbin/nginx" "$libs"
    tool haproxy "$root/usr/sbin/haproxy" "$libs"
    tool wrk "$root/usr/bin/wrk" "$libs"
    tool h2load "$root/usr/bin/h2load" "$libs"
fi
"$DEV/bin/nginx" -v
"$DEV/bin/haproxy" -v | sed -n 1p >&2

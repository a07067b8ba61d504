#!/usr/bin/env bash
# Real etcd, both generations that people run: .dev/bin/etcd (3.5) and .dev/bin/etcd-3.4.
. "$(dirname "$0")/lib.sh"
lock
if [ ! -x "$DEV/bin/etcd" ]; then
    deb bookworm etcd-server
    deb trixie etcd-server
    tool etcd-3.4 "$DEV/debian/bookworm/usr/bin/etcd"
    tool etcd "$DEV/debian/trixie/usr/bin/etcd"
fi
"$DEV/bin/etcd-3.4" --version | sed -n 1p >&2
"$DEV/bin/etcd" --version | sed -n 1p >&2

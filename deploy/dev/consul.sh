#!/usr/bin/env bash
# Real Consul: .dev/bin/consul (1.8, the newest that Debian ever packaged).
. "$(dirname "$0")/lib.sh"
lock
if [ ! -x "$DEV/bin/consul" ]; then
    deb bullseye consul=1.8.7+dfsg1-2+b3
    tool consul "$DEV/debian/bullseye/usr/bin/consul"
fi
"$DEV/bin/consul" version | sed -n 1p >&2

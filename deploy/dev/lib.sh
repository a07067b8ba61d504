# shellcheck shell=bash
# Shared by the install scripts beside it. Everything lands under .dev/ in the checkout; nothing else on the
# machine changes, except what `need` says it installs with apt-get. Every step is skipped when already done.

set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
DEV="$ROOT/.dev"
mkdir -p "$DEV/bin"

say() { echo "deploy/dev: $*" >&2; }

die() { say "$*"; exit 1; }

# One installer at a time in this checkout: tests may ask for the same server from several processes.
lock() {
    exec 8>"$DEV/lock"
    flock -w 600 8 || die "another installer has held $DEV/lock for 10 minutes"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
        die "needs root (or sudo) for: $*"
    fi
}

# need COMMAND PACKAGE...: installs Debian packages with apt-get unless COMMAND is there.
need() {
    local command=$1
    shift
    command -v "$command" >/dev/null && return
    say "apt-get install $* (for $command)"
    as_root apt-get update -qq >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# The mirror that the machine's own apt sources name.
mirror() {
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
        grep -v '^ *#' | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' '
}

# deb SUITE PACKAGE...: unpacks Debian packages of a suite into .dev/debian/SUITE, with apt lists of its own, so
# that the system's lists and packages stay untouched.
deb() {
    local suite=$1 dir="$DEV/debian/$1" state="$DEV/apt/$1" keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    shift
    local package missing=()
    for package in "$@"; do
        [ -e "$dir/.have/${package%%=*}" ] || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    say "unpacking ${missing[*]} from Debian $suite into .dev/debian/$suite"
    [ -n "$(mirror)" ] || die "no Debian mirror in the apt sources of this machine"
    [ -e "$keyring" ] || need /nonexistent debian-archive-keyring
    mkdir -p "$state"/{lists/partial,cache/archives/partial,down} "$dir/.have"
    : >"$state/status" # what is installed on this machine does not matter here
    echo "deb [signed-by=$keyring] $(mirror) $suite main" >"$state/sources.list"
    local apt=(apt-get -qq
        -o "Dir::Etc::SourceList=$state/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$state/lists" -o "Dir::State::status=$state/status" -o "Dir::Cache=$state/cache" -o APT::Sandbox::User=root
        -o Acquire::Check-Valid-Until=false -o Acquire::Retries=3)
    "${apt[@]}" update >&2
    for package in "${missing[@]}"; do
        (cd "$state/down" && rm -f ./*.deb && "${apt[@]}" download "$package" >&2 && dpkg-deb -x ./*.deb "$dir")
        touch "$dir/.have/${package%%=*}"
    done
    rm -rf "$state"
}

# tool NAME TARGET [ENV=VALUE...]: makes .dev/bin/NAME run TARGET.
tool() {
    local name=$1 target=$2
    shift 2
    printf '#!/bin/sh\nexec env %s "%s" "$@"\n' "$*" "$target" >"$DEV/bin/$name"
    chmod +x "$DEV/bin/$name"
}

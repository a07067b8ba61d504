#!/usr/bin/env bash
# Instructions for a request. PROFILE=quick-release
#
#   BASE=main benches/compare.sh                  of this tree beside BASE; fails where one takes 5 % more
#   benches/compare.sh --kept|--keep FILE         beside figures in a file, as advice; or writes them
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${PROFILE:-quick-release}
deploy/dev/bench.sh
deploy/dev/valgrind.sh
export PROTOC=$PWD/.dev/bin/protoc CARGO_TARGET_DIR=$PWD/target
build() { cargo build --quiet --locked --profile "$profile" --bins -p "$1"; }
if [ $# = 0 ]; then
    base=${BASE:?a revision to compare with}
    revision=$(git rev-parse --verify "$base^{commit}")
    tree=$PWD/target/compare/tree built=$PWD/target/compare/$profile-$revision
    if [ ! -x "$built" ]; then
        # One tree for all revisions, and one target folder: what both share is built once.
        git worktree remove --force "$tree" 2>/dev/null || rm -rf "$tree"
        git worktree prune
        git worktree add --detach --quiet "$tree" "$revision"
        (cd "$tree" && build data-plane)
        cp "target/$profile/portolan-proxy" "$built"
        git worktree remove --force "$tree"
    fi
    set -- --base "$built"
fi
build data-plane
build bench-suite
exec "target/$profile/bench-suite" --proxy "target/$profile/portolan-proxy" "$@"

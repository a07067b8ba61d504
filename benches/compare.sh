#!/usr/bin/env bash
# Instructions for a request, of this tree beside BASE; fails where one takes 5 % more. PROFILE=quick-release
#
#   BASE=main benches/compare.sh
set -euo pipefail
cd "$(dirname "$0")/.."
base=${BASE:?a revision to compare with} profile=${PROFILE:-quick-release}
deploy/dev/bench.sh
deploy/dev/valgrind.sh
revision=$(git rev-parse --verify "$base^{commit}")
tree=$PWD/target/compare/tree built=$PWD/target/compare/$profile-$revision
export PROTOC=$PWD/.dev/bin/protoc CARGO_TARGET_DIR=$PWD/target
if [ ! -x "$built" ]; then
    # One tree for all revisions, and one target folder: what both share is built once.
    git worktree remove --force "$tree" 2>/dev/null || rm -rf "$tree"
    git worktree prune
    git worktree add --detach --quiet "$tree" "$revision"
    (cd "$tree" && cargo build --quiet --locked --profile "$profile" -p data-plane --bins)
    cp "target/$profile/portolan-proxy" "$built"
    git worktree remove --force "$tree"
fi
cargo build --quiet --profile "$profile" -p data-plane --bins
cargo build --quiet --profile "$profile" -p bench-suite
exec "target/$profile/bench-suite" --proxy "target/$profile/portolan-proxy" --base "$built"

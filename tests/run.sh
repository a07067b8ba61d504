#!/usr/bin/env bash
# Every test. What fails is run once more, alone: real servers on two busy cores disturb each other at times. A test that
# passes then is named as unsteady, so that it gets mended; one that fails again fails.
set -uo pipefail
cd "$(dirname "$0")/.."
# More than these failing at once is no accident.
most=6

log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo test --workspace --no-fail-fast 2>&1 | tee "$log" && exit 0
mapfile -t failed < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | sort -u)
count() { grep -c "$1" "$log"; }
# What the first run said of them, without backtraces, last of all: a reader of a long output begins at its end.
why() {
    printf '\n== what failed\n'
    sed -n '/^---- .* stdout ----$/,/^failures:$/{/^failures:$/d;/^stack backtrace:/,/^$/d;p}' "$log" | cut -c 1-2000
}
# A binary that crashed tells of no test; names with blanks are of documentation, which is not run again.
if [ "${#failed[@]}" -eq 0 ] || [ "${#failed[@]}" -gt "$most" ] || [[ "${failed[*]}" == *'('* ]] ||
    [ "$(count '^error: test failed')" -ne "$(count '^test result: FAILED')" ]; then
    why
    exit 1
fi
printf '\n== once more, alone: %s\n' "${failed[*]}"
cargo test --workspace --no-fail-fast -- --exact --test-threads=1 "${failed[@]}"
steady=$?
why
[ "$steady" -eq 0 ] || exit 1
printf 'UNSTEADY %s\n' "${failed[@]}"

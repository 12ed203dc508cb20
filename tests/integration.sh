#!/bin/sh
# Runs what needs more than the compiler, miri and the integration tests, and counts what was skipped. The integration tests are built
# without optimization: what they run is optimized, the library and C programs, and linking thirty of them as the library is linked
# takes minutes.
set -u
cd "$(dirname "$0")/.."
log=target/integration.log
status=0
# Most tests wait most of the time.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-$(($(nproc) * 5 / 2))}"
tests/miri.sh >"$log" 2>&1 || status=$?
cargo test --no-fail-fast --test '*' -- --nocapture >>"$log" 2>&1 || status=$?
cat "$log"
passed=$(sed -n 's/^test result: [a-zA-Z]*\. \([0-9]*\) passed.*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
failed=$(sed -n 's/^test result: .* \([0-9]*\) failed.*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
skipped=$(grep -c '^SKIPPED' "$log")
echo "$passed passed, $failed failed, $skipped skipped"
exit $status

#!/bin/sh
# Runs the core's unit tests under miri, which finds undefined behaviour, where there is one.
set -u
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
if $cargo +nightly miri --version >/dev/null 2>&1; then
    $cargo +nightly miri test --no-default-features --lib --target-dir target/miri
else
    echo "SKIPPED miri: no nightly toolchain with it (rustup +nightly component add miri)"
fi

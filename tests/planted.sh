#!/bin/sh
# Runs the models once for each step of the protocol, with that step left out. Each run has to fail.
set -u
cd "$(dirname "$0")/.."
faults=$(sed -n '/^pub enum Fault/,/^}/s/^    \([A-Z][A-Za-z]*\),$/\1/p' src/sync.rs)
missed=0 caught=0
for fault in $faults; do
    if failed=$(SNAPSHIM_PLANT=$fault timeout 300 sh -c "RUSTFLAGS='--cfg loom' cargo test --quiet --release --test models --target-dir target/loom" 2>&1); then
        echo "MISSED  without $fault every model passes"
        missed=$((missed + 1))
    else
        echo "caught  $fault: $(echo "$failed" | sed -n 's/^    \([a-z_]*\)$/\1/p' | sort -u | tr '\n' ' ')"
        caught=$((caught + 1))
    fi
done
echo "$caught passed, $missed failed"
[ "$missed" = 0 ]

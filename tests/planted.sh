#!/bin/sh
# Runs the models once for each step of the protocol, with that step left out. Each run has to fail.
set -u
cd "$(dirname "$0")/.."
models() {
    RUSTFLAGS="--cfg loom" timeout 900 \
        cargo test --quiet --profile models --no-default-features --test models --target-dir target/loom 2>&1
}
if ! sound=$(models); then
    echo "$sound"
    echo "the models fail with every step in place; what a planted fault does cannot be told"
    exit 1
fi
faults=$(sed -n '/^pub enum Fault/,/^}/s/^    \([A-Z][A-Za-z]*\),$/\1/p' src/sys/sync.rs)
missed=0 caught=0
for fault in $faults; do
    export SNAPSHIM_PLANT="$fault"
    failed=$(models)
    status=$?
    names=$(echo "$failed" | sed -n 's/^    \([a-z_:]*\)$/\1/p' | sort -u | tr '\n' ' ')
    if [ "$status" = 0 ]; then
        echo "MISSED  without $fault every model passes"
        missed=$((missed + 1))
    elif [ -z "$names" ]; then
        echo "MISSED  without $fault no model fails, but they do not end well: status $status"
        missed=$((missed + 1))
    else
        echo "caught  $fault: $names"
        caught=$((caught + 1))
    fi
done
echo "$caught passed, $missed failed"
[ "$missed" = 0 ]

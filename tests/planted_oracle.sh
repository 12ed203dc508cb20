#!/bin/sh
# Has the oracle of random histories look for each fault below, planted in a copy of the sources. It has to find each within ten
# minutes; how many seconds it took is printed.
set -u
cd "$(dirname "$0")/.."
. tests/planting.sh
# Not made shorter: what was found is enough.
export SNAPSHIM_ORACLE_SECONDS="${SNAPSHIM_ORACLE_SECONDS:-600}" SNAPSHIM_ORACLE_SHRINK="${SNAPSHIM_ORACLE_SHRINK:-0}"

# What is left out | where | as sed(1) leaves it out.
faults() {
    cat <<'END'
the check of the pagemap behind the bytes that a pusher read | src/protocol/bytes.rs | s/if planted(Fault::UncheckedStore) {/if true {/
the second walk where a snapshot was split beside the first | src/protocol/snapshot.rs | s/ || planted(Fault::SplitWalk)/ || true/
the proof that a call was left by a jump | shim/src/process/thread.rs | s/fn take_nested(thread: Thread, stack: u64).*{/& thread.abandon_calls(|interrupted| interrupted < stack);/
END
}

# A call that failed is not what is looked for.
plant oracle for_a_minute '^seed .* fails .*: snapshot '

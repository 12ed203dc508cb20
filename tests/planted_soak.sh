#!/bin/sh
# Soaks the library once for each fault below, planted in a copy of the sources. Each soak has to fail.
set -u
cd "$(dirname "$0")/.."
. tests/planting.sh
export SNAPSHIM_SOAK_SECONDS="${SNAPSHIM_SOAK_SECONDS:-55}"

# What is left out | where | as sed(1) leaves it out.
faults() {
    cat <<'END'
the wait for writers under way | src/cooperate/drain.rs | s/pub fn drain(.*{$/& return Ok(());/
the wait for direct writes | shim/src/snapshot/instant.rs | s/^pub fn landed(.*{$/& return Ok(());/
the arming of shared mappings | shim/src/shared/arm.rs | s/^pub fn arm(.*{$/& return Ok(());/
pwritev | shim/src/hooks/file/write.rs | s/through_gate(fd, touch, || \(unsafe { real(fd, vector, count, offset) }\))/\1/
ftruncate | shim/src/hooks/file/truncate.rs | s/truncate_file(fd, length, || \(unsafe { real(fd, length) }\))/\1/
copy_file_range | shim/src/hooks/file/splice.rs | s/through_gate(to, touch, || \(unsafe { real(from, from_offset, to, to_offset, length, flags) }\))/\1/
io_submit | shim/src/hooks/aio/io_submit.rs | s/Some(write) => self.submit_write(entry, write)/Some(write) => self.counted(entry, Some(write.descriptor))/
the records of a forked child | shim/src/lifecycle/inherit.rs | s/fn publish(&self).*{$/& return Ok(());/
the end of snapshots of the dead | src/cooperate/recovery.rs | s/fn retire_all_of(.*{$/& return;/; s/fn retire_orphans(.*{$/& return;/
the release of slots of the dead | src/cooperate/recovery.rs | s/if lease.process() == owner {/if false {/; s/None => slot.release(lease),/None => {}/
END
}

plant soak for_a_minute '^FAILED' ' ended with status ' ' hangs in ' 'after a soak' '^snapshim: '

#!/bin/sh
# Soaks the library once for each fault below, planted in a copy of the sources under target/planted. Each soak has to fail.
set -u
cd "$(dirname "$0")/.."
copy=target/planted
export SNAPSHIM_SOAK_SECONDS="${SNAPSHIM_SOAK_SECONDS:-55}" CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
unset CARGO_TARGET_DIR

# What is left out | where | as sed(1) leaves it out.
faults() {
    cat <<'END'
the wait for writers under way | src/drain.rs | s/pub fn drain(.*{$/& return Ok(());/
the wait for direct writes | shim/src/create.rs | s/^fn landed(.*{$/& return Ok(());/
the arming of shared mappings | shim/src/shared/arm.rs | s/^pub fn arm(.*{$/& return Ok(());/
pwritev | shim/src/hooks/write.rs | s/change(fd, touch, || \(unsafe { real(fd, vector, count, offset) }\))/\1/
ftruncate | shim/src/hooks/resize.rs | s/cut(fd, length, || \(unsafe { real(fd, length) }\))/\1/
copy_file_range | shim/src/hooks/copy.rs | s/change(to, touch, || \(unsafe { real(from, from_offset, to, to_offset, length, flags) }\))/\1/
io_submit | shim/src/hooks/aio.rs | s/Some(write) => self.submit_write(entry, write)/Some(write) => self.counted(entry, Some(write.descriptor))/
the records of a forked child | shim/src/hooks/fork.rs | s/fn publish(&self).*{$/& return Ok(());/
the end of snapshots of the dead | src/table/recovery.rs | s/fn retire_all_of(.*{$/& return;/; s/fn retire_orphans(.*{$/& return;/
the release of slots of the dead | src/table/recovery.rs | s/if tenure.process() == owner {/if false {/; s/None => slot.release(tenure),/None => {}/
END
}

refresh() {
    mkdir -p "$copy" && tar -c Cargo.toml Cargo.lock src shim examples tests | tar -x -m -C "$copy"
}

build() {
    (cd "$copy" && cargo build --quiet --release --package libsnapshim && cargo test --quiet --test soak --no-run) >"$copy/log" 2>&1
}

caught=0 missed=0
miss() {
    echo "MISSED  $1"
    missed=$((missed + 1))
}
faults >"$copy.faults"
while IFS='|' read -r name file edit; do
    name=${name% } file=$(echo $file)
    refresh
    sed -i "$edit" "$copy/$file"
    if cmp -s "$file" "$copy/$file"; then
        miss "$name: it is not in $file any more as this script knows it"
    elif ! build; then
        tail -20 "$copy/log"
        miss "$name: does not compile without it"
    elif (cd "$copy" && cargo test --quiet --test soak for_a_minute -- --nocapture) >"$copy/log" 2>&1 </dev/null; then
        miss "$name: without it the soak passes"
    elif ! found=$(grep -m1 '^FAILED' "$copy/log" || grep -m1 -e ' ended with status ' -e ' hangs in ' -e 'after a soak' -e '^snapshim: ' "$copy/log"); then
        tail -20 "$copy/log"
        miss "$name: the soak does not end well, but does not say why"
    else
        echo "caught  $name: $found" | cut -c1-200
        caught=$((caught + 1))
    fi
done <"$copy.faults"
echo "$caught passed, $missed failed"
[ "$missed" = 0 ]

//! Nothing left: whatever the kernel refuses, a snapshot shows no other byte than it showed, or faults and says that it is broken; where
//! the policy is that writes fail, it does not even fault.

mod common;

use std::time::Duration;

use common::{Scratch, program, run_within, skip, text};

fn keeps_its_bytes(policy: &str, way: &str) {
    let scratch = Scratch::on_tmpfs();
    let mut command = scratch.shimmed(program("exhaustion"), way);
    command.arg(policy).arg(scratch.table());
    command.env("SNAPSHIM_ON_FAILURE", policy).env("SNAPSHIM_TIMEOUT_MS", "100").env("SNAPSHIM_LOG", "off");
    let output = run_within(&mut command, Duration::from_secs(400));
    let said = text(&output);
    if said.contains("listener >= 0 does not hold") {
        return skip(policy, "seccomp(2) has no notifications here");
    }
    assert!(output.status.success(), "{policy}, {way}: {said}");
    print!("exhaustion: {policy}, {way}: {said}");
}

#[test]
fn a_call_that_fails_costs_a_snapshot_and_no_byte() {
    keeps_its_bytes("break-snapshot", "auto");
}

#[test]
fn a_call_that_fails_costs_a_write_and_no_snapshot() {
    keeps_its_bytes("fail-write", "agent");
}

#[test]
#[ignore = "a minute more: make soak"]
fn a_call_that_fails_costs_no_byte_the_other_way_round() {
    keeps_its_bytes("break-snapshot", "agent");
    keeps_its_bytes("fail-write", "auto");
}

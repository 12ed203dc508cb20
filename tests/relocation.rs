//! A file is cut under a snapshot: however long the snapshot is, whatever the mapper's own threads, or the kernel for them, store
//! into it meanwhile, no store is lost, no other byte changes, and a hole stays one.

use crate::common::busy::in_good_time;
use crate::common::{Scratch, WAYS, program, run_ok, run_within, scratches, skip, text};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

#[test]
fn stores_during_a_relocation_are_not_lost() {
    for scratch in scratches() {
        run_ok(scratch.shimmed(program("mapping/truncate_stores"), "auto").args(["victim", "12"]));
    }
}

/// What is moved the agent moves, in either way; only the page at the cut is not.
fn slices(scenario: &str) {
    for (scratch, way) in scratches().iter().zip(WAYS) {
        let said = run_ok(scratch.shimmed(program("mapping/truncate_slices"), way).arg(scenario));
        if let Some(why) = said.lines().find_map(|line| line.strip_prefix("SKIPPED ")) {
            skip(scenario, why);
        }
    }
}

/// A gigabyte of holes once became a gigabyte of memory.
#[test]
fn holes_cost_nothing() {
    slices("holes_cost_nothing");
    slices("collapsing_and_inserting_keep_the_holes");
}

#[test]
fn what_is_cut_in_parts_keeps_every_byte_and_right() {
    slices("a_cut_in_the_middle_keeps_both_parts");
    slices("what_was_divided_keeps_its_rights");
}

#[test]
fn a_mapper_may_change_its_snapshot_between_slices() {
    slices("rights_may_change_between_slices");
    slices("parts_may_be_unmapped_between_slices");
}

#[test]
fn two_may_cut_at_once() {
    slices("two_cut_at_once");
}

#[test]
fn a_fork_between_slices_inherits_all_of_it() {
    slices("a_child_that_is_forked_meanwhile_has_it_all");
}

#[test]
fn the_middle_of_a_move_is_a_place_to_die() {
    slices("a_mapper_that_is_killed_in_the_middle_holds_nobody_up");
    slices("a_writer_that_is_killed_in_the_middle_leaves_it_exact");
}

#[test]
fn a_mapper_that_is_stopped_in_the_middle_is_answered_by_policy() {
    for policy in ["break-snapshot", "fail-write"] {
        in_good_time("a_mapper_that_is_stopped_in_the_middle_is_answered_by_policy", 200, |timeout| {
            let scratch = Scratch::on_tmpfs();
            let mut command = scratch.shimmed(program("mapping/truncate_slices"), "auto");
            command.arg("a_mapper_that_is_stopped_in_the_middle_loses_no_byte");
            run_ok(command.env("SNAPSHIM_TIMEOUT_MS", timeout).env("SNAPSHIM_ON_FAILURE", policy));
        });
    }
}

/// Once taken for the work of a program without the shim.
#[test]
fn a_segment_behind_the_end_of_the_file_raises_no_doubt() {
    slices("what_lies_behind_the_end_is_not_missed");
}

/// What had been moved and could not be noted once became zeros when the mapper gave it up (MADV_DONTNEED).
#[test]
fn a_table_without_room_for_a_slice_loses_no_byte() {
    let scratch = Scratch::on_tmpfs();
    let mut command = scratch.shimmed(program("mapping/truncate_slices"), "auto");
    run_ok(command.arg("a_full_table_loses_no_byte").env("SNAPSHIM_ON_FAILURE", "fail-write"));
}

#[test]
fn looking_for_holes_drops_no_lock_and_moves_no_position() {
    slices("record_locks_stay");
}

/// How long a cut took in ms, and whether the snapshot is exact; `None`: the file was not cut.
fn cut_dense(mib: u64, timeout_ms: u64) -> Option<(u64, bool)> {
    let scratch = Scratch::on_tmpfs();
    let mut command = scratch.shimmed(program("mapping/truncate_slices"), "auto");
    command.args(["dense", "file", &mib.to_string()]).env("SNAPSHIM_TIMEOUT_MS", timeout_ms.to_string());
    let output = run_within(&mut command, Duration::from_secs(120));
    assert!(output.status.success(), "{}", text(&output));
    let said = text(&output);
    let time = said.lines().find_map(|line| line.strip_suffix(" cut")?.parse().ok())?;
    Some((time, said.lines().any(|line| line == "exact")))
}

/// The time that a writer waits is a tenth of what the whole takes; each slice takes a two-hundredth. Once the whole had to be done
/// in it. On a busy machine a process may stand still for as long, but hardly again and again.
#[test]
fn a_writer_waits_for_a_long_move_as_long_as_it_goes_on() {
    let (whole, _) = cut_dense(384, 60_000).expect("nobody is hurried");
    let timeout = (whole / 10).max(10);
    let is_kept = |timeout| cut_dense(384, timeout).is_some_and(|(time, is_exact)| is_exact && time > timeout);
    assert!((0..8).any(|_| is_kept(timeout)), "{timeout} ms were never enough, of {whole}");
}

/// The mapper's agent looks through all of them as soon as the snapshot is there. A writer once waited for it in vain, and its cut
/// failed.
#[test]
fn a_writer_waits_for_no_look_at_the_mappings_of_others() {
    let scratch = Scratch::on_tmpfs();
    let mut crowd =
        scratch.native(program("mapping/crowd")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(crowd.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "here\n");
    let is_served = (0..8).any(|_| cut_dense(96, 150).is_some_and(|(_, is_exact)| is_exact));
    drop(crowd.stdin.take());
    assert!(crowd.wait().unwrap().success() && is_served);
}

#[test]
fn the_kernel_stores_into_a_snapshot_while_it_is_moved() {
    for scratch in scratches() {
        run_ok(scratch.shimmed(program("mapping/truncate_reads"), "auto").arg("little"));
    }
}

#[test]
fn the_kernel_stores_much_into_a_snapshot_while_it_is_moved() {
    for scratch in scratches() {
        run_ok(scratch.shimmed(program("mapping/truncate_reads"), "auto").arg("much"));
    }
}

#[test]
fn reads_of_a_little_into_a_snapshot_find_their_own_bytes() {
    for scratch in scratches() {
        run_ok(&mut scratch.shimmed(program("mapping/spare_reads"), "auto"));
    }
}

#[test]
fn lengths_that_no_memory_has_are_refused_as_natively() {
    let scratch = Scratch::on_tmpfs();
    let natively = run_ok(scratch.native(program("mapping/lengths")).arg("plain"));
    assert_eq!(run_ok(scratch.shimmed(program("mapping/lengths"), "auto").arg("snapshot")), natively);
}

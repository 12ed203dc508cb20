//! The mapper's side: whatever a mapper does to its mappings, and whichever process writes, its snapshots stay what they were.
//!
//! Each test is a scenario of a program in `tests/programs/mapping/`. The programs run it read-only and writable, written by the
//! mapper itself, by a process forked before the snapshot and by one forked after it; here it runs on both file systems, in both
//! ways.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common::busy::in_good_time;
use crate::common::suspend::in_each_way;
use crate::common::{Scratch, WAYS, fails_natively, make_table_directory, program, run_ok, scratches, skip};

/// Runs a program that has to succeed, and passes on what it skipped.
fn succeeds(test: &str, command: &mut Command) {
    let mut skipped: Vec<String> =
        run_ok(command).lines().filter_map(|line| Some(line.strip_prefix("SKIPPED ")?.to_owned())).collect();
    skipped.dedup();
    skipped.iter().for_each(|why| skip(test, why));
}

fn holds(name: &str, scenario: &str) {
    holds_with(&[], name, scenario);
}

fn holds_with(variables: &[(&str, &str)], name: &str, scenario: &str) {
    for scratch in scratches() {
        for way in WAYS {
            let mut command = scratch.shimmed(program(name), way);
            succeeds(scenario, command.arg(scenario).envs(variables.iter().copied()));
        }
    }
}

macro_rules! scenarios {
    ($($program:ident { $($scenario:ident)* })*) => {
        $(
            mod $program {
                $(
                    #[test]
                    fn $scenario() {
                        super::holds(concat!("mapping/", stringify!($program)), stringify!($scenario));
                    }
                )*
            }
        )*

        #[test]
        fn every_scenario_fails_without_the_shim() {
            $($(fails_natively(concat!("mapping/", stringify!($program)), stringify!($scenario));)*)*
        }
    };
}

scenarios! {
    errors {
        shared_and_anonymous_are_einval
        neither_file_nor_block_device_is_enodev
        procfs_is_eopnotsupp
        hugetlbfs_is_eopnotsupp
        the_descriptor_is_not_needed_any_more
        a_place_that_mremap_refuses_leaves_it
    }
    end {
        appended_pages_stay_sigbus_and_the_tail_zero
        bytes_that_a_shared_mapping_put_behind_the_end_are_not_seen
        a_range_wholly_past_the_end_is_sigbus_for_ever
        an_empty_file_stays_sigbus
        an_end_on_a_page_boundary_is_kept
        an_offset_shows_its_own_part
        holes_of_a_sparse_file_stay_zero
        what_lies_past_the_end_raises_no_doubt
        a_long_range_past_the_end_costs_nothing
    }
    place {
        fixed_where_nothing_is
        fixed_where_something_was_unmapped
        fixed_over_a_plain_mapping
        fixed_over_another_snapshot
        fixed_that_fails_changes_nothing
        fixed_while_the_file_is_truncated
        noreplace_never_replaces
        populate_leaves_nothing_to_push
        locked_memory_stays_locked
        none_opened_later
        executable_code_stays
        write_only_is_private_too
    }
    change {
        munmap_of_parts
        munmap_over_several_snapshots
        mremap_shrinks
        mremap_never_grows
        mremap_moves_all_of_it
        mremap_moves_a_part
        mremap_moves_and_shrinks_what_was_divided
        mremap_onto_a_snapshot
        plain_memory_mapped_over_it
        mprotect_both_ways_while_a_process_writes
        mremap_and_munmap_while_a_process_writes
    }
    unmap_part {
        a_page_opened_beside_a_push_keeps_its_stores
        a_page_closed_then_opened_beside_a_push_keeps_its_stores
        a_push_that_was_left_by_a_jump_holds_nobody_up
    }
    split {
        a_write_beside_a_split_preserves_the_segment
        a_store_beside_a_split_preserves_the_segment
    }
    pinned {
        a_byte_that_is_copied_after_a_change_is_not_stored
        processes_that_write_the_same_pages_spoil_none
        threads_that_write_the_same_pages_spoil_none
    }
    sparse {
        pages_behind_a_sequential_writer_stay_holes
    }
    numbers {
        a_number_that_is_taken_in_a_use_gets_no_byte
        a_program_that_takes_all_numbers_gets_no_byte
    }
    advice {
        dontneed_keeps_what_is_preserved
        dontneed_page_by_page
        dontneed_keeps_the_end
        dontneed_of_the_neighbours
        what_would_lose_pages_is_refused
        other_advice_changes_no_byte
        dontneed_while_a_process_writes
    }
    calls {
        posix_advice_keeps_what_is_preserved
        advice_to_oneself_keeps_what_is_preserved
        a_key_or_none_keeps_it_armed
        a_segment_attached_over_it_takes_its_place
        locks_by_number_are_known
        memory_without_a_file_is_eopnotsupp
        its_pages_cannot_be_moved_away
        a_handle_of_libc_leads_to_the_same
        high_bits_of_a_number_hide_nothing
        a_huge_page_over_it_takes_its_place
        what_a_failed_call_took_away_is_known
    }
    many {
        many_moments_of_overlapping_ranges
        many_mappers_of_one_file
        own_stores_stay_private_and_survive_pushes
        a_read_into_the_snapshot_survives
        stat_counts_pages_once
        stat_of_what_is_left
    }
    fork {
        child_and_parent_stay_exact
        each_may_unmap_and_move_its_own
        a_grandchild_outlives_its_parents
        dontfork_parts_are_not_inherited
        fork_while_a_process_writes
        a_daemon_keeps_what_it_inherited
        a_child_on_a_terminal_keeps_what_it_inherited
    }
}

// Comparisons with a plain mapping: they succeed natively, too.

#[test]
fn a_hole_that_is_filled_makes_it_doubtful() {
    holds("mapping/calls", "a_hole_that_is_filled_makes_it_doubtful");
}

#[test]
fn other_arguments_are_judged_as_by_mmap() {
    holds("mapping/errors", "other_arguments_are_judged_as_by_mmap");
}

#[test]
fn locking_beyond_the_limit_is_eagain() {
    holds("mapping/place", "locking_beyond_the_limit_is_eagain");
}

const SHARED_FILES: &[(&str, &str)] = &[("SNAPSHIM_SHARED_FILES", "file")];

#[test]
fn a_read_only_shared_mapping_of_a_named_file_stays_what_it_was() {
    holds_with(SHARED_FILES, "mapping/shared", "stays_what_it_was");
    fails_natively("mapping/shared", "stays_what_it_was");
}

/// What succeeds natively, too.
fn is_as_natively(variables: &[(&str, &str)], scenario: &str) {
    succeeds(scenario, Scratch::on_tmpfs().native(program("mapping/shared")).arg(scenario));
    holds_with(variables, "mapping/shared", scenario);
}

#[test]
fn a_read_only_shared_mapping_never_becomes_writable() {
    is_as_natively(SHARED_FILES, "never_becomes_writable");
    is_as_natively(SHARED_FILES, "mprotect_over_it_ends_there");
}

#[test]
fn mappings_that_shared_files_does_not_speak_of_see_the_changes() {
    is_as_natively(SHARED_FILES, "others_see_the_changes");
    is_as_natively(&[("SNAPSHIM_FILES", "file")], "sees_the_changes");
}

/// userfaultfd(2) takes private mappings of files only on tmpfs.
fn served(scenario: &str, change: impl Fn(&mut Command)) {
    for way in ["auto", "direct", "agent"] {
        let scratch = Scratch::on_tmpfs();
        let mut command = scratch.shimmed(program("mapping/served"), way);
        change(&mut command);
        succeeds(scenario, command.arg(scenario));
    }
}

#[test]
fn a_snapshot_is_not_registered_with_a_userfaultfd() {
    served("a_snapshot_is_not_registered", |_| {});
    fails_natively("mapping/served", "a_snapshot_is_not_registered");
}

#[test]
fn a_writer_goes_on_when_the_mapper_answers_the_fault() {
    served("a_writer_goes_on_when_the_fault_is_answered", |_| {});
}

#[test]
fn a_writer_does_not_wait_for_ever_for_the_mapper_to_answer_a_fault() {
    for policy in POLICIES {
        in_good_time("a_writer_does_not_wait_for_ever", 300, |timeout| {
            served("a_writer_does_not_wait_for_ever", |command| {
                command.env("SNAPSHIM_ON_FAILURE", policy).env("SNAPSHIM_TIMEOUT_MS", timeout);
            });
        });
    }
}

const POLICIES: [&str; 2] = ["break-snapshot", "fail-write"];

/// Other users have to reach library and programs.
fn may_others_run() -> bool {
    program("mapping/rights")
        .ancestors()
        .all(|directory| fs::metadata(directory).is_ok_and(|found| found.permissions().mode() & 0o001 != 0))
}

fn preserving(scenario: &str, way: &str, policies: &[&str], outcome: &str) {
    preserving_with("stop", scenario, way, policies, outcome);
}

/// `outcome` is "served", "refused" or "broken".
fn preserving_with(suspend: &str, scenario: &str, way: &str, policies: &[&str], outcome: &str) {
    if outcome == "served" {
        preserving_within(None, suspend, scenario, way, policies, outcome);
    } else {
        in_good_time(scenario, 300, |timeout| {
            preserving_within(Some(timeout), suspend, scenario, way, policies, outcome);
        });
    }
}

fn preserving_within(
    timeout: Option<&str>,
    suspend: &str,
    scenario: &str,
    way: &str,
    policies: &[&str],
    outcome: &str,
) {
    for scratch in scratches() {
        fs::set_permissions(&scratch.path, Permissions::from_mode(0o777)).unwrap();
        for policy in policies {
            // A table of its own each time: its directory may be shared with other users.
            let table = Path::new(scratch.table()).with_extension(policy);
            make_table_directory(&table);
            let mut command = scratch.shimmed(program("mapping/rights"), way);
            command
                .args([scenario, outcome])
                .env("SUSPEND", suspend)
                .env("SNAPSHIM_DIR", &table)
                .env("SNAPSHIM_ON_FAILURE", policy);
            command.envs(timeout.map(|timeout| ("SNAPSHIM_TIMEOUT_MS", timeout)));
            let _removed = Removed(&table);
            succeeds(scenario, &mut command);
        }
    }
}

struct Removed<'a>(&'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0);
    }
}

fn as_other_users(scenario: &str, way: &str, policies: &[&str], outcome: &str) {
    if may_others_run() {
        preserving(scenario, way, policies, outcome);
    } else {
        skip(scenario, "other users cannot reach the build directory");
    }
}

#[test]
fn a_suspended_mapper_does_not_stop_a_direct_writer() {
    in_each_way("a_suspended_mapper_does_not_stop_a_direct_writer", |way| {
        preserving_with(way, "a_suspended_mapper", "direct", &POLICIES, "served");
        preserving_with(way, "a_suspended_mapper", "auto", &POLICIES, "served");
    });
}

#[test]
fn a_write_that_needs_a_suspended_mappers_agent_fails() {
    in_each_way("a_write_that_needs_a_suspended_mappers_agent_fails", |way| {
        preserving_with(way, "a_suspended_mapper", "agent", &POLICIES, "refused");
    });
}

#[test]
fn a_mapper_of_the_same_user_needs_no_agent() {
    as_other_users("a_dumpable_mapper_of_the_same_user", "direct", &POLICIES, "served");
}

#[test]
fn a_mapper_that_is_not_dumpable_is_served_by_its_agent() {
    as_other_users("a_mapper_that_is_not_dumpable", "auto", &POLICIES, "served");
}

#[test]
fn a_mapper_of_another_user_is_served_by_its_agent() {
    as_other_users("a_mapper_of_another_user", "auto", &POLICIES, "served");
    as_other_users("a_mapper_of_another_user", "agent", &POLICIES, "served");
}

#[test]
fn a_group_that_is_nobodys_primary_one_shares_a_table() {
    as_other_users("a_mapper_of_another_user_and_primary_group", "auto", &POLICIES, "served");
}

#[test]
fn a_direct_write_without_access_is_answered_by_policy() {
    for scenario in ["a_mapper_that_is_not_dumpable", "a_mapper_of_another_user"] {
        as_other_users(scenario, "direct", &["fail-write"], "refused");
        as_other_users(scenario, "direct", &["break-snapshot"], "broken");
    }
}

#[test]
fn a_page_that_nobody_can_copy_is_answered_by_policy() {
    for way in ["auto", "agent", "direct"] {
        preserving("a_page_that_nobody_can_copy", way, &["break-snapshot"], "broken");
        preserving("a_page_that_nobody_can_copy", way, &["fail-write"], "refused");
    }
}

#[test]
fn pages_ahead_that_nobody_can_copy_refuse_no_write() {
    preserving("pages_ahead_that_nobody_can_copy", "direct", &["fail-write"], "refused");
}

#[test]
fn what_a_handler_writes_in_the_middle_of_preserving_waits_for_no_mapper_that_waits_for_it() {
    for scratch in scratches() {
        let test = "what_a_handler_writes_in_the_middle_of_preserving_waits_for_no_mapper_that_waits_for_it";
        succeeds(test, &mut scratch.shimmed(program("mapping/handled"), "direct"));
    }
}

/// Once the thread counted as inside a call for ever: its next snapshot was refused (EDEADLK).
#[test]
fn a_thread_that_has_dropped_snapshots_takes_one() {
    for scratch in scratches() {
        succeeds(
            "a_thread_that_has_dropped_snapshots_takes_one",
            &mut scratch.shimmed(program("mapping/dropped"), "auto"),
        );
    }
}

/// Once there was a snapshot of the other file, exact, for which no writer preserved.
#[test]
fn another_file_that_comes_under_the_number_meanwhile_is_refused() {
    const TEST: &str = "another_file_that_comes_under_the_number_meanwhile_is_refused";
    for scratch in scratches() {
        succeeds(TEST, &mut scratch.shimmed(program("mapping/renumbered"), "auto"));
    }
}

/// Half a second is far less than munmap would wait for a writer.
fn stopped_writer(test: &str, arguments: &[&str]) {
    for scratch in scratches() {
        in_good_time(test, 500, |limit| {
            let mut command = scratch.shimmed(program("mapping/stopped_writer"), "direct");
            succeeds(test, command.args(arguments).env("MUNMAP_MS", limit));
        });
    }
}

#[test]
fn a_terminal_stops_no_writer_in_the_middle_of_a_push() {
    stopped_writer("a_terminal_stops_no_writer_in_the_middle_of_a_push", &["terminal"]);
}

/// Once munmap waited for such a writer as long as for any other, and failed.
#[test]
fn a_snapshot_is_given_up_while_a_writer_is_stopped_in_the_middle_of_a_push() {
    for arguments in [&["stop"][..], &["stop", "part"], &["stop", "between"]] {
        stopped_writer("a_snapshot_is_given_up_while_a_writer_is_stopped_in_the_middle_of_a_push", arguments);
    }
}

/// Once the agent closed the number in its own table.
#[test]
fn halves_that_the_agent_unmaps_leave_no_descriptor() {
    const TEST: &str = "halves_that_the_agent_unmaps_leave_no_descriptor";
    let scratch = Scratch::on_tmpfs();
    let mut command = scratch.shimmed(program("mapping/stopped_writer"), "direct");
    succeeds(TEST, command.args(["stop", "halves"]).env("MUNMAP_MS", "0"));
}

/// Once addresses were unmapped into which the writer stores a byte yet.
#[test]
fn a_call_that_cannot_be_made_leaves_reserved_what_a_stopped_writer_stores_into() {
    at_the_limit_of_mappings("a_call_that_cannot_be_made_leaves_reserved_what_a_stopped_writer_stores_into", "refused");
}

/// Once they stayed mapped for ever.
#[test]
fn reserved_addresses_that_cannot_be_unmapped_are_unmapped_later() {
    at_the_limit_of_mappings("reserved_addresses_that_cannot_be_unmapped_are_unmapped_later", "kept");
}

fn at_the_limit_of_mappings(test: &str, what: &str) {
    for scratch in scratches() {
        let mut command = scratch.shimmed(program("mapping/stopped_writer"), "direct");
        succeeds(test, command.args(["stop", what]).env("SNAPSHIM_TIMEOUT_MS", "300").env("MUNMAP_MS", "0"));
    }
}

/// Once seccomp(2) waited for such a writer until it went on.
#[test]
fn a_process_confines_itself_while_a_writer_is_stopped_in_the_middle_of_a_push() {
    const TEST: &str = "a_process_confines_itself_while_a_writer_is_stopped_in_the_middle_of_a_push";
    for scratch in scratches() {
        in_good_time(TEST, 300, |timeout| {
            let mut command = scratch.shimmed(program("mapping/stopped_writer"), "direct");
            let limit = (10 * timeout.parse::<u64>().unwrap()).to_string();
            command.env("SNAPSHIM_TIMEOUT_MS", timeout).env("MUNMAP_MS", limit);
            succeeds(TEST, command.args(["stop", "confined"]));
        });
    }
}

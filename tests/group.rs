//! Several files at one instant: a state that there was, or nothing at all.

use std::process::Output;

use crate::common::{Scratch, program, run, skip, text};

fn group(scratch: &Scratch, arguments: &[&str]) -> Output {
    run(scratch.shimmed(program("group/group"), "auto").args(arguments))
}

fn holds(arguments: &[&str]) {
    for scratch in crate::common::scratches() {
        let output = group(&scratch, arguments);
        let said = text(&output);
        if let Some(why) = said.strip_prefix("SKIPPED ") {
            skip(&arguments.join(" "), why.trim_end());
            continue;
        }
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
}

#[test]
fn a_group_shows_a_state_that_there_was() {
    holds(&["cut", "400", "group"]);
}

/// So the test above can fail.
#[test]
fn snapshots_one_after_the_other_show_states_that_there_never_were() {
    holds(&["cut", "50", "singly"]);
}

#[test]
fn a_foreign_change_of_a_file_that_is_not_watched_is_found() {
    holds(&["foreign"]);
}

#[test]
fn all_are_taken_or_none() {
    holds(&["errors"]);
}

/// Once the mapping and the record stayed for the life of the process.
#[test]
fn what_is_refused_beside_a_stopped_writer_leaves_no_address_behind() {
    let scratch = Scratch::on_tmpfs();
    let mut command = scratch.shimmed(program("group/refused"), "direct");
    let output = run(command.arg("25").env("SNAPSHIM_TIMEOUT_MS", "200"));
    let said = text(&output);
    let late = said.lines().find_map(|line| line.strip_suffix(" late")?.parse::<u32>().ok());
    assert!(output.status.success() && late.is_some_and(|late| late > 5), "{said}");
}

#[test]
fn each_is_mapped_as_it_is_asked_for() {
    holds(&["places"]);
}

#[test]
fn a_file_may_be_in_a_group_more_than_once() {
    holds(&["one_file"]);
}

#[test]
fn a_group_may_have_thousands_of_files() {
    holds(&["many", "3000"]);
}

#[test]
fn without_the_shim_there_is_an_error_and_no_mapping() {
    let scratch = Scratch::on_tmpfs();
    let output = run(&mut scratch.native(program("group/native")));
    assert!(output.status.success(), "{}", text(&output));
}

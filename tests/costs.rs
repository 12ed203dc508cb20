//! A call costs what it touches, not what exists beside it: other snapshots, other processes, what came and went before.
//!
//! Each cost is measured twice in one run, with little and with much around it, as medians. The limits leave room for a busy
//! machine: what grows with what exists grows by the tens here. The exact limits are those of `make bench`.

use std::time::Duration;

use crate::common::{Scratch, program, run_within, skip, text};

/// What a scenario measured: the name of a cost, nanoseconds with little and with much.
fn measured(arguments: &[&str]) -> Vec<(String, f64, f64)> {
    let scratch = Scratch::on_tmpfs();
    let mut command = scratch.shimmed(program("storm/costs"), "auto");
    let output = run_within(command.args(arguments), Duration::from_secs(300));
    let said = text(&output);
    assert!(output.status.success(), "{arguments:?}: {said}");
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        Some((name, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    if let Some(why) = said.lines().find_map(|line| line.strip_prefix("SKIPPED ")) {
        skip(&arguments.join(" "), why);
        return Vec::new();
    }
    let found: Vec<_> = said.lines().filter_map(line).collect();
    assert!(!found.is_empty(), "{arguments:?}: {said}");
    found
}

/// None of the costs but those that are `left_out` grows by more than `limit` times.
fn costs_stay(arguments: &[&str], left_out: &[&str], limit: f64) {
    for (name, little, much) in measured(arguments) {
        println!("{arguments:?}: {name}: {little} ns, {much} ns");
        assert!(
            left_out.contains(&name.as_str()) || much <= little * limit,
            "{arguments:?}: {name}: {little} ns, {much} ns"
        );
    }
}

/// A fork touches the snapshots that the child inherits.
const FORK: &[&str] = &["fork"];

#[test]
fn calls_cost_no_more_with_thousands_of_own_snapshots() {
    costs_stay(&["own", "3900"], FORK, 3.0);
    costs_stay(&["own", "3900", "one"], FORK, 3.0);
}

#[test]
fn calls_cost_no_more_with_thousands_of_snapshots_of_another_process() {
    costs_stay(&["other", "3900"], &[], 3.0);
}

#[test]
fn each_snapshot_adds_the_same_to_a_fork() {
    costs_stay(&["forks", "4000"], &[], 3.0);
}

#[test]
fn a_write_costs_no_more_after_thousands_of_snapshots_came_and_went() {
    costs_stay(&["gone", "3900"], &[], 1.8);
}

#[test]
fn the_first_write_of_a_process_does_not_pay_for_all_that_are_idle_or_dead() {
    costs_stay(&["newcomers", "500"], &["worst"], 3.0);
}

#[test]
fn calls_on_a_sparse_snapshot_of_16_tib_cost_no_more_than_on_one_of_a_page() {
    costs_stay(&["sparse"], &[], 10.0);
}

#[test]
fn a_first_write_beside_many_mappers_costs_the_same_for_each_of_them() {
    costs_stay(&["mappers", "64"], &["open"], 4.0);
}

#[test]
fn files_of_mappers_are_closed_when_they_have_ended() {
    let measured = measured(&["mappers", "64"]);
    let (_, before, after) = measured.iter().find(|(name, ..)| name == "open").expect("a count of descriptors");
    assert!(after <= before, "{before} before, {after} afterwards");
}

//! A call costs what it touches, not what exists beside it: other snapshots, other processes, what came and went before.
//!
//! Each cost is measured with little and with much around it, by turns where that can be, as medians. A cost is over its limit only
//! if it is so in each of three runs: a busy machine spoils one, and what grows with what exists grows in all. The exact limits are
//! those of `make bench`.

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

/// How often a scenario is run, as long as it has costs that were over their limit each time.
const RUNS: usize = 3;

/// None of the costs but those that are `left_out` grows by more than `limit` times.
fn costs_stay(arguments: &[&str], left_out: &[&str], limit: f64) {
    costs_stay_within(arguments, |name| if left_out.contains(&name) { f64::INFINITY } else { limit });
}

/// No cost grows by more than `limit` says for its name.
fn costs_stay_within(arguments: &[&str], limit: impl Fn(&str) -> f64) {
    let mut said = String::new();
    let mut over: Option<Vec<String>> = None;
    for _ in 0..RUNS {
        let measured = measured(arguments);
        for (name, little, much) in &measured {
            println!("{arguments:?}: {name}: {little} ns, {much} ns");
            said += &format!("{name}: {little} ns, {much} ns\n");
        }
        let is_over = |(name, little, much): &(String, f64, f64)| (*much > little * limit(name)).then(|| name.clone());
        let is_over_again = |name: &String| over.as_ref().is_none_or(|over| over.contains(name));
        let still_over: Vec<_> = measured.iter().filter_map(is_over).filter(is_over_again).collect();
        if still_over.is_empty() {
            return;
        }
        over = Some(still_over);
    }
    panic!("{arguments:?}: over the limit in each run: {over:?}\n{said}");
}

/// A fork touches the snapshots that the child inherits.
const FORK: &[&str] = &["fork"];

#[test]
fn calls_cost_no_more_with_thousands_of_own_snapshots() {
    costs_stay(&["own", "3900"], FORK, 2.0);
    costs_stay(&["own", "3900", "one"], FORK, 2.0);
}

#[test]
fn calls_cost_no_more_with_thousands_of_snapshots_of_another_process() {
    costs_stay(&["other", "3900"], &[], 2.0);
}

#[test]
fn calls_cost_no_more_with_thousands_of_own_shared_mappings() {
    // Between others, a call on other memory looks for them, and a new mapping has them moved up in the list.
    costs_stay_within(&["shared", "5000"], |name| match name {
        "fork" => f64::INFINITY,
        "shared" => 4.0,
        "memory" => 3.0,
        _ => 2.0,
    });
}

#[test]
fn a_snapshot_of_a_file_costs_no_more_beside_thousands_of_another() {
    costs_stay(&["crowd", "3900"], &[], 2.0);
}

#[test]
fn each_snapshot_adds_the_same_to_a_fork() {
    costs_stay(&["forks", "4000"], &[], 2.0);
}

#[test]
fn a_write_costs_no_more_after_thousands_of_snapshots_came_and_went() {
    costs_stay(&["each", "gone", "3900"], &[], 1.8);
}

#[test]
fn the_first_write_of_a_process_does_not_pay_for_all_that_are_idle_or_dead() {
    // One of the newcomers may search for the dead, which happens once a second, and finds what all of them left.
    costs_stay_within(&["each", "newcomers", "500"], |name| if name == "worst" { 40.0 } else { 1.8 });
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

//! More processes, and more threads, than one would think of: a creation waits for all of them, and each of them keeps
//! what it is about to overwrite.

use std::time::Duration;

use crate::common::{Scratch, program, run_within, skip, text};

fn are_all_seen(scenario: &str) {
    let scratch = Scratch::on_tmpfs();
    let mut command = scratch.shimmed(program("storm/many"), "auto");
    let output = run_within(command.arg(scenario), Duration::from_secs(300));
    let said = text(&output);
    if let Some(why) = said.lines().find_map(|line| line.strip_prefix("SKIPPED ")) {
        return skip(scenario, why);
    }
    assert!(output.status.success(), "{scenario}: {said}");
}

#[test]
fn each_of_many_processes_is_seen() {
    are_all_seen("each_of_many_processes_is_seen");
}

#[test]
fn each_of_many_threads_is_seen() {
    are_all_seen("each_of_many_threads_is_seen");
}

#[test]
fn threads_that_come_together_do_not_all_look_for_the_dead() {
    are_all_seen("threads_that_come_together_do_not_all_look_for_the_dead");
}

#[test]
fn what_spawned_and_died_costs_the_next_nothing() {
    are_all_seen("what_spawned_and_died_costs_the_next_nothing");
}

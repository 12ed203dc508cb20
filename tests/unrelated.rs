//! A call on memory waits for no snapshot that has nothing to do with that memory: neither one of another thread, nor one of
//! another process that a thread of this one waits for.

use crate::common::{WAYS, each_at_once, program, run_ok, scratches, skip};

fn runs(test: &str, scenario: &str) {
    each_at_once(scratches().iter().zip(WAYS), |(scratch, way)| {
        let said = run_ok(scratch.shimmed(program("mapping/unrelated"), way).arg(scenario));
        if let Some(why) = said.strip_prefix("SKIPPED ") {
            skip(test, why.trim());
        }
    });
}

#[test]
fn a_call_on_memory_does_not_wait_for_the_snapshot_of_another_thread() {
    runs("a_call_on_memory_does_not_wait_for_the_snapshot_of_another_thread", "thread");
}

#[test]
fn a_call_on_memory_does_not_wait_for_a_thread_that_waits_for_a_snapshot() {
    runs("a_call_on_memory_does_not_wait_for_a_thread_that_waits_for_a_snapshot", "process");
}

#[test]
fn forks_go_on_beside_threads_that_make_snapshots_without_a_pause() {
    runs("forks_go_on_beside_threads_that_make_snapshots_without_a_pause", "forks");
}

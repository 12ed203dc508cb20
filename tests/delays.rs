//! What cannot change a snapshot's file holds its creation back neither long nor at all: threads blocked in writes to pipes,
//! sockets and terminals, stopped processes that map other files, direct writes to other files, writes to other files beside a
//! fork. What does hold one back is named.

use std::io::Read;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::common::busy::in_good_time;
use crate::common::{Scratch, program, root, run_ok, skip, text};

/// A user without rights.
const NOBODY: u32 = 65534;

fn holds_nothing_up(scenario: &str) {
    in_good_time(scenario, 1000, |timeout| {
        let scratch = Scratch::on_tmpfs();
        let mut command = scratch.shimmed(program("lifecycle/delays"), "auto");
        let told = run_ok(command.arg(scenario).arg(&scratch.path).env("SNAPSHIM_TIMEOUT_MS", timeout));
        if !told.is_empty() {
            skip(scenario, told.trim_end());
        }
    });
}

#[test]
fn five_hundred_writes_to_pipes_cost_less_than_a_millisecond() {
    holds_nothing_up("pipes");
}

#[test]
fn writes_to_pipes_beside_a_child_that_shared_the_memory_cost_no_more() {
    holds_nothing_up("threads");
}

#[test]
fn writes_to_sockets_and_terminals_hold_nothing_up() {
    holds_nothing_up("others");
}

/// Once refused every snapshot: other numbers shared a counter with the one that was written to.
#[test]
fn a_write_to_a_pipe_holds_nothing_up_whatever_is_closed_beside_it() {
    holds_nothing_up("closes");
}

#[test]
fn a_write_that_goes_on_to_a_file_is_found() {
    holds_nothing_up("replaced");
}

#[test]
fn a_stopped_process_holds_back_what_it_maps_and_nothing_else() {
    holds_nothing_up("mapped");
}

#[test]
fn a_fork_waits_for_no_write_to_an_unrelated_file() {
    holds_nothing_up("fork");
    holds_nothing_up("early");
}

#[test]
fn a_fork_that_waits_holds_no_write_to_an_unrelated_file_up() {
    holds_nothing_up("own");
}

/// Runs as a user that may not look into processes that are not dumpable.
fn holds_nothing_up_for_nobody(test: &str, scenario: &str, scratch: &Scratch) {
    // SAFETY: geteuid(2) cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return skip(test, "becoming another user needs root");
    }
    for directory in [&scratch.path, scratch.table()] {
        chown(directory, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    in_good_time(test, 500, |timeout| {
        let mut command = scratch.shimmed(program("lifecycle/delays"), "auto");
        command.arg(scenario).arg(&scratch.path).env("SNAPSHIM_TIMEOUT_MS", timeout);
        run_ok(command.uid(NOBODY).gid(NOBODY));
    });
}

#[test]
fn a_process_that_no_other_may_look_at_says_itself_where_it_writes() {
    let test = "a_process_that_no_other_may_look_at_says_itself_where_it_writes";
    holds_nothing_up_for_nobody(test, "hidden", &Scratch::on_tmpfs());
}

#[test]
fn direct_writes_that_cannot_be_seen_hold_back_their_own_file() {
    let test = "direct_writes_that_cannot_be_seen_hold_back_their_own_file";
    holds_nothing_up_for_nobody(test, "direct", &Scratch::new(&root().join("target/scratch")));
}

#[test]
fn the_log_and_the_status_name_what_holds_a_snapshot_back() {
    let scratch = Scratch::on_tmpfs();
    let mut command = scratch.shimmed(program("lifecycle/delays"), "auto");
    command.arg("shown").arg(&scratch.path).env("SNAPSHIM_TIMEOUT_MS", "300");
    let mut refused = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = [0; 32];
    let count = refused.stdout.as_mut().unwrap().read(&mut told).unwrap();
    let told = String::from_utf8_lossy(&told[..count]).into_owned();
    let Some(writer) = told.strip_prefix("ready ").map(|pid| pid.trim_end().to_owned()) else {
        refused.wait().unwrap();
        return skip("the_log_and_the_status_name_what_holds_a_snapshot_back", &told);
    };
    let mut status = Command::new(root().join("target/release/snapshim"));
    let status = run_ok(status.arg("status").env("SNAPSHIM_DIR", scratch.table()));
    drop(refused.stdin.take());
    let log = text(&refused.wait_with_output().unwrap());
    let file = scratch.file("file");
    let line = status.lines().find(|line| line.contains("snapshots of inode"));
    let line = line.unwrap_or_else(|| panic!("{status}"));
    assert!(
        line.trim_start().starts_with(&writer) && line.ends_with(&format!("it writes to {}", file.display())),
        "{line}"
    );
    let expected =
        format!("process {writer} (delays), thread {writer}, is in a write to {}, and holds", file.display());
    assert!(log.contains(&expected), "{log}");
}

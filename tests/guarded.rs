//! Guarded mappings (`SNAPSHIM_GUARD_FILES`): they show the file as it is, and what a truncation takes away stays.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use crate::common::{Scratch, WAYS, program, root, run, run_ok, scratches, text, wait_until};

fn guarded(scratch: &Scratch, way: &str, arguments: [&str; 2]) -> Command {
    let mut command = scratch.shimmed(program("mapping/guarded"), way);
    command.args(arguments).env("SNAPSHIM_GUARD_FILES", "vic*");
    command
}

/// Runs a scenario with each writer, each way and on each file system; the log is empty.
fn shows(scenario: &str, wanted: &str) {
    for scratch in scratches() {
        for way in WAYS {
            for writer in ["itself", "another"] {
                let output = run(&mut guarded(&scratch, way, [scenario, writer]));
                assert!(output.status.success(), "{scenario}, {way}, {writer}: {}", text(&output));
                assert_eq!(text(&output), wanted, "{scenario}, {way}, {writer}");
            }
        }
    }
}

#[test]
fn later_writes_and_growth_are_shown() {
    shows("follows", "written: 0 1 0 0 0 2\n");
    shows("grown", "grown: 1 1 1 1 1 1\n");
    let natively = run_ok(Scratch::on_tmpfs().native(program("mapping/guarded")).args(["follows", "another"]));
    assert_eq!(natively, "written: 0 1 0 0 0 2\n");
}

/// Without a guard each of these pages raises SIGBUS after the cut.
#[test]
fn what_a_truncation_takes_away_stays() {
    let kept = "1 1 0 0 0 0\n";
    shows("rewritten", &format!("mapped: 0 0 0 0 0 0\ncut to nothing: {kept}written anew: {kept}cut again: {kept}"));
    let natively = run_ok(Scratch::on_tmpfs().native(program("mapping/guarded")).args(["rewritten", "another"]));
    assert!(natively.contains("cut to nothing: SIGBUS SIGBUS SIGBUS SIGBUS SIGBUS SIGBUS\n"), "{natively}");
}

#[test]
fn what_lies_before_the_cut_stays_live() {
    shows("shortened", "cut: 0 0 0 0 0 0\nwritten: 1 1 0 0 0 0\ncut again: 1 1 0 0 0 0\nwritten again: 2 1 0 0 0 0\n");
}

#[test]
fn stores_of_the_reader_stay() {
    shows("stored", "written: 3 1 0 0 0 0\ncut: 3 1 0 0 0 0\n");
}

#[test]
fn parts_are_moved_and_unmapped_and_children_inherit() {
    shows("moved", "moved\n");
    let kept = "0 0 0 0 0 0\n";
    shows("inherited", &format!("in the child: {kept}in the parent: {kept}after MADV_DONTNEED: {kept}"));
}

/// A reader that asks for the size, maps and reads, while the file is rewritten in place: natively it dies within a second.
#[test]
fn a_reader_of_a_file_that_is_rewritten_in_place_lives() {
    for (scratch, short) in scratches().into_iter().zip(["zero", "refuse"]) {
        let output = run(guarded(&scratch, "auto", ["storm", "another"]).env("SNAPSHIM_SHORT", short));
        assert!(output.status.success(), "{short}: {}: {}", output.status, text(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "many maps, read\n", "{short}: {}", text(&output));
    }
    let natively = run(Scratch::on_tmpfs().native(program("mapping/guarded")).args(["storm", "another"]));
    assert_eq!(natively.status.signal(), Some(libc::SIGBUS), "the test is one: {}", text(&natively));
}

/// The truncation waits for the reader's agent, and no longer than it would for that of a snapshot; then it goes on.
#[test]
fn a_stopped_reader_does_not_hold_a_truncation_up_for_good() {
    for (policy, cut, state, shown) in [
        ("break-snapshot", "", "state 1\n", "held: SIGBUS SIGBUS SIGBUS SIGBUS SIGBUS SIGBUS\n"),
        ("fail-write", "No space left on device", "state 3\n", "held: 0 0 0 0 0 0\n"),
    ] {
        let scratch = Scratch::on_tmpfs();
        let mut holder = guarded(&scratch, "auto", ["hold", "another"]);
        let mut child = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut found = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        found.read_line(&mut first).unwrap();
        assert_eq!(first, "state 3\n");
        let mut status = Command::new(root().join("target/release/snapshim"));
        let listed = run_ok(status.arg("status").env("SNAPSHIM_DIR", scratch.table()));
        assert!(listed.lines().last().unwrap().split_whitespace().any(|word| word == "live"), "{listed}");
        let pid = child.id() as i32;
        // SAFETY: kill(2) of our own child, which has not been waited for.
        unsafe { libc::kill(pid, libc::SIGSTOP) };
        let is_stopped = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T ");
        wait_until("a stopped reader", is_stopped);
        let mut cutter = scratch.shimmed("truncate", "auto");
        cutter.args(["-s", "0", "victim"]).env("SNAPSHIM_TIMEOUT_MS", "300").env("SNAPSHIM_ON_FAILURE", policy);
        let output = run(cutter.env("LC_ALL", "C"));
        assert_eq!(output.status.success(), cut.is_empty(), "{policy}: {}", text(&output));
        let said = if cut.is_empty() { "loses what process" } else { cut };
        assert!(text(&output).contains(said), "{policy}: {}", text(&output));
        // SAFETY: as above.
        unsafe { libc::kill(pid, libc::SIGCONT) };
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let mut rest = String::new();
        found.read_to_string(&mut rest).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(rest, format!("{shown}{state}"), "{policy}");
    }
}

/// A guard adds to a mapping that is good without it.
#[test]
fn where_there_can_be_no_guard_the_file_is_mapped_all_the_same() {
    let scratch = Scratch::on_tmpfs();
    let mut command = guarded(&scratch, "auto", ["follows", "another"]);
    let output = run(command.env("SNAPSHIM_DIR", "/no/such/directory/table"));
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "written: 0 1 0 0 0 2\n");
    assert!(text(&output).contains("takes no part"), "{}", text(&output));
}

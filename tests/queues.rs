//! Asynchronous writes that bypass the page cache land after their call: a snapshot has all of one, or nothing of it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::holder::Holder;
use crate::common::{DISK, Scratch, program, root, run_ok, run_within, skip, text};

const SIZE: usize = 48 << 20;

/// A file on the disk that the build directory is on: a file system in memory has nothing under way. `None` where it has no
/// O_DIRECT.
fn arrange(test: &str) -> Option<(Scratch, PathBuf)> {
    let scratch = Scratch::new(&root().join("target/scratch"));
    let victim = scratch.file("victim");
    let content: Vec<u8> = (0..SIZE).map(|at| (at / 4096 * 13 + at % 241) as u8 | 1).collect();
    fs::write(&victim, content).unwrap();
    run_ok(Command::new("sync").arg(&victim));
    if OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&victim).is_err() {
        skip(test, "the file system has no O_DIRECT");
        return None;
    }
    Some((scratch, victim))
}

fn run_queued(test: &str, how: &str) {
    let Some((scratch, file)) = arrange(test) else { return };
    let output = run_within(&mut queued(&scratch, how, &file), DISK);
    assert!(output.status.success(), "{}", text(&output));
}

fn queued(scratch: &Scratch, how: &str, file: &Path) -> Command {
    let mut command = scratch.shimmed(program("writing/queued"), "auto");
    command.arg(how).arg(file);
    command
}

#[test]
fn writes_under_way_in_the_own_process_land_before_the_instant() {
    run_queued("writes_under_way_in_the_own_process_land_before_the_instant", "own");
}

#[test]
fn writes_under_way_in_another_process_land_before_the_instant() {
    let Some((scratch, file)) = arrange("writes_under_way_in_another_process_land_before_the_instant") else { return };
    for protection in ["r", "rw"] {
        let writer = Holder::run(&mut queued(&scratch, "other", &file));
        let holder = Holder::start_at_once(&scratch, &file, protection, SIZE);
        writer.finish();
        holder.finish_exact(protection);
    }
}

#[test]
fn writes_of_a_process_that_ends_land_before_the_instant() {
    run_queued("writes_of_a_process_that_ends_land_before_the_instant", "exit");
}

#[test]
fn writes_of_a_process_that_executes_another_program_land_before_the_instant() {
    run_queued("writes_of_a_process_that_executes_another_program_land_before_the_instant", "exec");
}

#[test]
fn events_that_nobody_fetched_hold_nothing_up() {
    let Some((scratch, file)) = arrange("events_that_nobody_fetched_hold_nothing_up") else { return };
    let writer = Holder::run(&mut queued(&scratch, "unfetched", &file));
    let holder = Holder::start_at_once(&scratch, &file, "r", SIZE);
    writer.finish();
    holder.finish_exact("unfetched");
}

#[test]
fn a_context_that_is_never_idle_lets_snapshots_be_made() {
    let Some((scratch, file)) = arrange("a_context_that_is_never_idle_lets_snapshots_be_made") else { return };
    for how in ["busy", "reading"] {
        let writer = Holder::run(&mut queued(&scratch, how, &file));
        for round in 0..4 {
            let holder = Holder::start_at_once(&scratch, &file, if round % 2 == 0 { "r" } else { "rw" }, SIZE);
            holder.finish_exact(&format!("{how}, round {round}"));
        }
        writer.finish();
    }
}

#[test]
fn a_stopped_writer_holds_nothing_up() {
    let Some((scratch, file)) = arrange("a_stopped_writer_holds_nothing_up") else { return };
    let writer = Holder::run(&mut queued(&scratch, "other", &file));
    let pid = writer.pid();
    // A stopped process's ring is read all the same: nothing of it has to run.
    run_ok(Command::new("kill").args(["-STOP", &pid.to_string()]));
    let holder = Holder::start_at_once(&scratch, &file, "r", SIZE);
    run_ok(Command::new("kill").args(["-CONT", &pid.to_string()]));
    writer.finish();
    holder.finish_exact("stopped");
}

#[test]
fn failures_and_contexts_set_up_anew_are_counted_as_the_kernel_counts_them() {
    run_queued("failures_and_contexts_set_up_anew_are_counted_as_the_kernel_counts_them", "mixed");
}

#[test]
fn writes_that_cannot_be_counted_have_snapshots_refused() {
    let Some((scratch, file)) = arrange("writes_that_cannot_be_counted_have_snapshots_refused") else { return };
    let output = run_within(queued(&scratch, "uncounted", &file).env("SNAPSHIM_TIMEOUT_MS", "100"), DISK);
    assert!(output.status.success() && text(&output).contains("(io_submit)"), "{}", text(&output));
}

/// Once counted twice what libaio submits by way of syscall(2).
#[test]
fn fio_verifies_its_direct_writes_while_snapshots_come() {
    const TEST: &str = "fio_verifies_its_direct_writes_while_snapshots_come";
    const PART: usize = 16 << 20;
    if Command::new("fio").arg("--version").output().is_err() {
        return skip(TEST, "fio is not installed: run `make setup`");
    }
    let Some((scratch, file)) = arrange(TEST) else { return };
    let mut command = scratch.shimmed("fio", "auto");
    command.args(["--name=w", "--filename=victim", "--size=16m", "--bs=16k", "--ioengine=libaio", "--direct=1"]);
    command.args(["--iodepth=16", "--rw=randwrite", "--loops=8"]);
    command.args(["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0"]);
    command.stdout(Stdio::null());
    let mut made = 0;
    // On a busy machine a disk that is quick may be done before the second.
    for round in 0..20 {
        let mut fio = command.spawn().unwrap();
        while fio.try_wait().unwrap().is_none() {
            Holder::start_at_once(&scratch, &file, "r", PART).finish_exact(&format!("round {round}, snapshot {made}"));
            made += 1;
        }
        assert!(fio.wait().unwrap().success(), "round {round}");
        if made > 1 {
            return;
        }
    }
    panic!("{made} snapshots");
}

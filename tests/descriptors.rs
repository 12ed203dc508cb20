//! A program's descriptor table is its own: the agent takes no number that the program counts on, and holds nothing open or locked;
//! its messages come through all the same.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use crate::common::holder::Holder;
use crate::common::{Scratch, WAYS, library, program, run, run_ok, skip, text, wait_until};

fn is_as_natively(scenario: &str) {
    let scratch = Scratch::on_tmpfs();
    let natively = run_ok(scratch.native(program("transparency/descriptors")).arg(scenario));
    for (way, shared) in WAYS.into_iter().zip(["eager", "trap"]) {
        let mut shimmed = scratch.shimmed(program("transparency/descriptors"), way);
        let found = run_ok(shimmed.arg(scenario).env("SNAPSHIM_SHARED", shared));
        assert_eq!(found, natively, "{way}");
    }
}

/// `close(1); open(...)` once wrote into another file: the agent had a file open for a moment.
#[test]
fn the_lowest_number_is_its_own() {
    is_as_natively("the_lowest_number_is_its_own");
}

/// Once a snapshot of a file on overlayfs dropped the program's record locks on it: the file was opened anew, and closed.
#[test]
fn what_is_locked_by_a_writer_stays_locked_on_overlayfs() {
    const MOUNT: &str = "mkdir lower upper work merged && \
                         mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged && cd merged || exit 77; \
                         LD_PRELOAD=$library exec \"$0\" what_is_locked_by_a_writer_stays_locked";
    let said = |library: &Path| {
        let scratch = Scratch::on_tmpfs();
        let mut command = scratch.native("unshare");
        command.args(["-m", "sh", "-c", MOUNT]).arg(program("transparency/descriptors"));
        run(command.env("library", library).env("SNAPSHIM_DIR", scratch.table()))
    };
    let natively = said(Path::new(""));
    if !natively.status.success() {
        return skip("what_is_locked_by_a_writer_stays_locked_on_overlayfs", &text(&natively));
    }
    let shimmed = said(&library());
    assert!(shimmed.status.success() && shimmed.stdout == natively.stdout, "{}", text(&shimmed));
}

#[test]
fn what_is_closed_is_closed_and_what_is_locked_is_locked() {
    is_as_natively("what_is_closed_is_closed_and_what_is_locked_is_locked");
}

#[test]
fn what_is_closed_at_once_is_closed() {
    is_as_natively("what_is_closed_at_once_is_closed");
}

/// The agent finds a foreign change by the program's descriptor, and says so at the program's standard error.
fn is_said_while_held(what: &str) {
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("file"), vec![b'o'; 4096]).unwrap();
    // A pipe, as most programs have it that are not run by hand.
    let mut teller = scratch.native("sh").args(["-c", "cat >said"]).stdin(Stdio::piped()).spawn().unwrap();
    let stderr = Stdio::from(teller.stdin.take().unwrap());
    let mut command = scratch.shimmed(program("transparency/descriptors"), "auto");
    let holder = Holder::run(command.args(["hold", what]).stderr(stderr));
    drop(command);
    run_ok(scratch.native("sh").args(["-c", "echo foreign >>file"]));
    let said = || fs::read_to_string(scratch.file("said")).unwrap_or_default();
    wait_until(&format!("{what}: a doubt"), || said().contains("is doubtful"));
    holder.finish();
    teller.wait().unwrap();
    assert!(said().contains("/file (inode ") && said().contains("(descriptors)'s snapshot"), "{what}: {}", said());
    assert_eq!(said().matches("is doubtful").count(), 1, "{what}: {}", said());
}

#[test]
fn messages_come_through() {
    is_said_while_held("as ever");
}

#[test]
fn messages_come_through_where_the_first_thread_has_ended() {
    is_said_while_held("the first thread ended");
}

/// A filter that knows no descriptor tables ends no process.
#[test]
fn a_filter_of_system_calls_is_borne() {
    is_said_while_held("filtered before");
    is_said_while_held("filtered afterwards");
}

/// To a file, which is at the place where the program's next line goes.
#[test]
fn a_message_in_a_file_is_not_overwritten() {
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("file"), vec![b'o'; 4096]).unwrap();
    let mut command = scratch.shimmed(program("transparency/descriptors"), "auto");
    let said = File::create(scratch.file("said")).unwrap();
    let holder = Holder::run(command.args(["hold", "as ever"]).stderr(Stdio::from(said.try_clone().unwrap())));
    run_ok(scratch.native("sh").args(["-c", "echo foreign >>file"]));
    wait_until("a message", || fs::metadata(scratch.file("said")).unwrap().len() > 0);
    holder.finish();
    // The same open file, as the program had it.
    std::io::Write::write_all(&mut &said, b"next\n").unwrap();
    let found = fs::read_to_string(scratch.file("said")).unwrap();
    assert!(found.starts_with("snapshim: ") && found.ends_with(" again\nnext\n"), "{found}");
}

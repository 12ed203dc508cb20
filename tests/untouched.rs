//! A program that uses no snapshot sees nothing of the library: its calls are the calls that it made, and it has the threads that
//! it started. Where a snapshot of another file exists, what its calls do is the same.

mod common;

use std::fs;
use std::time::Instant;

use common::holder::Holder;
use common::{Scratch, program, run_ok, skip, wait_until};

const SIZE: usize = 16 * 4096;

/// Runs a program natively, and under the library without and with a snapshot of another file; what it prints is the same.
fn same(test: &str, name: &str, arguments: &[&str]) {
    let outcome = |shimmed: bool, held: bool| {
        let scratch = Scratch::on_tmpfs();
        fs::write(scratch.file("held"), vec![b'o'; SIZE]).unwrap();
        let holder = held.then(|| Holder::start(&scratch, "auto", &scratch.file("held"), "r"));
        let mut command = if shimmed { scratch.shimmed(program(name), "auto") } else { scratch.native(program(name)) };
        let said = run_ok(command.args(arguments));
        if let Some(holder) = holder {
            holder.finish_exact(&format!("{arguments:?}"));
        }
        said
    };
    let natively = outcome(false, false);
    if let Some(line) = natively.lines().find(|line| line.starts_with("SKIPPED ")) {
        return skip(test, &format!("{arguments:?}: {}", &line["SKIPPED ".len()..]));
    }
    for held in [false, true] {
        assert_eq!(outcome(true, held), natively, "{arguments:?}, a snapshot of another file: {held}");
    }
}

/// Once each of these files was opened without O_TRUNC and truncated afterwards: a watcher saw one event more, and the new file
/// lost its set-id bits.
#[test]
fn a_file_opened_to_be_truncated_is_as_natively() {
    for what in ["new", "existing", "special"] {
        same("a_file_opened_to_be_truncated_is_as_natively", "transparency/opens", &[what]);
    }
}

#[test]
fn a_file_in_a_directory_of_another_group_keeps_the_mode_it_is_created_with() {
    same("a_file_in_a_directory_of_another_group_keeps_the_mode_it_is_created_with", "transparency/opens", &["setgid"]);
}

/// Some file systems do more at an open with O_TRUNC than truncate.
#[test]
fn a_file_where_there_are_no_origins_is_opened_as_asked() {
    for what in ["apart", "tracing"] {
        same("a_file_where_there_are_no_origins_is_opened_as_asked", "transparency/opens", &[what]);
    }
}

/// While no snapshot exists, the open of a FIFO is announced, and waits for the other end.
#[test]
fn a_program_that_waits_for_the_other_end_of_a_fifo_hinders_no_snapshot() {
    let ways = ["echo told >fifo", "exec tee fifo <held >/dev/null", "exec dd if=held of=fifo status=none"];
    for way in ways {
        let scratch = Scratch::on_tmpfs();
        fs::write(scratch.file("held"), vec![b'o'; SIZE]).unwrap();
        run_ok(scratch.native("mkfifo").arg("fifo"));
        let mut opener = scratch.shimmed("sh", "auto").args(["-c", way]).spawn().unwrap();
        let waits_in = format!("/proc/{}/wchan", opener.id());
        wait_until("the open of the FIFO", || fs::read_to_string(&waits_in).unwrap() == "wait_for_partner");
        let begun = Instant::now();
        let holder = Holder::start(&scratch, "auto", &scratch.file("held"), "rw");
        assert!(begun.elapsed().as_secs() < 20, "{way}: the snapshot took {:?}", begun.elapsed());
        run_ok(scratch.native("sh").args(["-c", "cat fifo >got"]));
        assert!(opener.wait().unwrap().success(), "{way}");
        assert!(!fs::read(scratch.file("got")).unwrap().is_empty(), "{way}");
        holder.finish_exact(way);
    }
}

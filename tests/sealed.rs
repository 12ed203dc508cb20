//! Where libc's code cannot be patched (here PR_SET_MDWE), what libc writes for itself is held back all the same: streams, queues,
//! and what opens and truncates inside. Programs run there as natively.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::holder::Holder;
use crate::common::{Scratch, program, run, run_ok, scratches, skip, source, text};

const SIZE: usize = 40 * 4096 + 777;

fn content() -> Vec<u8> {
    (0..SIZE).map(|at| (at / 4096 * 13 + at % 241) as u8 | 1).collect()
}

fn victim(scratch: &Scratch) -> PathBuf {
    let victim = scratch.file("victim");
    let _ = fs::remove_file(&victim);
    fs::write(&victim, content()).unwrap();
    victim
}

/// The file; nothing if it is gone.
fn reads(file: &Path) -> Vec<u8> {
    fs::read(file).unwrap_or_default()
}

/// Whether the kernel can refuse memory that becomes executable (Linux 6.3).
fn can_seal(test: &str) -> bool {
    let can = run(Command::new(program("reach/sealed")).arg("true")).status.success();
    if !can {
        skip(test, "the kernel has no PR_SET_MDWE");
    }
    can
}

/// What is written by dprintf(3) alone is not seen there from glibc 2.37 on (docs/not-covered.md). A warning says so, to each
/// program.
fn is_dprintf_seen() -> bool {
    crate::common::glibc_minor() < 37
}

fn is_to_be_held_back(way: &str) -> bool {
    way != "dprintf" || is_dprintf_seen()
}

/// A program under the shim whose libc cannot be patched.
fn sealed(scratch: &Scratch, program_: impl AsRef<OsStr>) -> Command {
    let mut command = scratch.shimmed(program("reach/sealed"), "auto");
    command.arg(program_.as_ref());
    command
}

fn listed(name: &str) -> Vec<String> {
    let lines = run_ok(&mut Command::new(program(name)));
    lines.lines().map(|line| line.split('\t').next().unwrap().to_string()).collect()
}

#[test]
fn the_seal_keeps_the_doors_closed() {
    if !can_seal("the_seal_keeps_the_doors_closed") {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    let said = text(&run(sealed(&scratch, "true").env("SNAPSHIM_LOG", "info")));
    assert_eq!(said.matches("cannot be patched here").count(), 1, "{said}");
    assert!(said.contains("stdio is seen through its tables"), "{said}");
    // Of another table: no line is said twice to one parent.
    let said = text(&run(&mut sealed(&Scratch::on_tmpfs(), "true")));
    if is_dprintf_seen() {
        assert_eq!(said, "", "it is no reason to worry");
    } else {
        assert_eq!(said.matches("what dprintf writes to files is NOT held back").count(), 1, "{said}");
    }
}

#[test]
fn every_way_leaves_a_snapshot_as_it_was() {
    if !can_seal("every_way_leaves_a_snapshot_as_it_was") {
        return;
    }
    for scratch in scratches() {
        for way in listed("writing/coverage_matrix").iter().filter(|way| is_to_be_held_back(way)) {
            let file = victim(&scratch);
            if run(scratch.native(program("writing/coverage_matrix")).arg(way).arg(&file)).status.code() == Some(3) {
                continue;
            }
            let natively = reads(&file);
            for protection in ["r", "rw"] {
                let about = format!("{way}, {protection}, {}", scratch.path.display());
                let file = victim(&scratch);
                let holder = Holder::start(&scratch, "auto", &file, protection);
                let output = run(sealed(&scratch, program("writing/coverage_matrix")).arg(way).arg(&file));
                assert!(output.status.success(), "{about}: {}", text(&output));
                holder.finish_exact(&about);
                assert!(reads(&file) == natively, "{about}: the file is not what it is natively");

                let file = victim(&scratch);
                let output =
                    run(sealed(&scratch, program("writing/coverage_matrix")).arg(way).arg(&file).arg(protection));
                assert!(output.status.success(), "{about}, same process: {}", text(&output));
                assert!(reads(&file) == natively, "{about}, same process: not what it is natively");
            }
        }
    }
}

/// What the file becomes when its stream was opened, or its writer started, before the snapshots were taken.
fn late(how: &str, scratch: &Scratch, is_sealed: bool) {
    let start = |file: &Path| {
        let mut command = if is_sealed {
            sealed(scratch, program("reach/late_streams"))
        } else {
            scratch.shimmed(program("reach/late_streams"), "auto")
        };
        command.arg(how).arg(file);
        command
    };
    let file = victim(scratch);
    run_ok(scratch.native(program("reach/late_streams")).arg(how).arg(&file));
    let natively = reads(&file);
    for protection in ["r", "rw"] {
        let about = format!("{how}, {protection}, sealed: {is_sealed}, {}", scratch.path.display());
        let file = victim(scratch);
        let writer = Holder::run(&mut start(&file));
        let holder = Holder::start(scratch, "auto", &file, protection);
        let mut command = sealed(scratch, program("common/hold"));
        let sealed_holder = Holder::run(command.arg(&file).args([protection, &SIZE.to_string()]));
        writer.finish();
        holder.finish_exact(&about);
        sealed_holder.finish_exact(&format!("{about}, sealed mapper"));
        assert!(reads(&file) == natively, "{about}: the file is not what it is natively");

        let file = victim(scratch);
        let output = run(start(&file).arg(protection));
        assert!(output.status.success(), "{about}, same process: {}", text(&output));
        assert!(reads(&file) == natively, "{about}, same process: not what it is natively");
    }
}

#[test]
fn bytes_that_waited_in_a_stream_do_not_reach_a_snapshot() {
    if !can_seal("bytes_that_waited_in_a_stream_do_not_reach_a_snapshot") {
        return;
    }
    for scratch in scratches() {
        for how in listed("reach/late_streams").iter().filter(|how| is_to_be_held_back(how)) {
            late(how, &scratch, true);
        }
    }
}

#[test]
fn nor_where_libc_can_be_patched() {
    if !can_seal("nor_where_libc_can_be_patched") {
        return;
    }
    for how in listed("reach/late_streams") {
        late(&how, &Scratch::on_tmpfs(), false);
    }
}

#[test]
fn cpp_streams_do_not_reach_a_snapshot() {
    const TEST: &str = "cpp_streams_do_not_reach_a_snapshot";
    if !can_seal(TEST) {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    let made = scratch.file("real_streams");
    match Command::new("g++").args(["-std=c++17", "-O1", "-o"]).arg(&made).arg(source("real/streams.cpp")).status() {
        Ok(status) => assert!(status.success()),
        Err(_) => return skip(TEST, "g++ is not installed"),
    }
    let file = victim(&scratch);
    run_ok(scratch.native(&made).arg(&file));
    let natively = reads(&file);
    for protection in ["r", "rw"] {
        let file = victim(&scratch);
        let holder = Holder::start(&scratch, "auto", &file, protection);
        run_ok(sealed(&scratch, &made).arg(&file));
        holder.finish_exact(protection);
        assert!(reads(&file) == natively, "{protection}: the file is not what it is natively");
    }
}

#[test]
fn programs_run_as_natively() {
    if !can_seal("programs_run_as_natively") {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    let runs: [(&str, &[&str]); 4] = [
        ("transparency/cancel", &[]),
        ("transparency/signals", &["errno"]),
        ("transparency/processes", &["spawns"]),
        ("transparency/processes", &["forks"]),
    ];
    for (name, arguments) in runs {
        let outcome = |command: &mut Command| {
            let file = victim(&scratch);
            let output = run(command.args(arguments).arg(&file));
            (output.status, text(&output), reads(&file))
        };
        let natively = outcome(scratch.native(program("reach/sealed")).arg(program(name)));
        let found = outcome(sealed(&scratch, program(name)).env("SNAPSHIM_LOG", "error"));
        assert!(found == natively, "{name} {arguments:?}: {} {}", found.0, found.1);
    }
    for shell in ["dash", "bash"] {
        let script = "echo one > made; echo two >> made; exec 3<> made; echo x >&3; cat made; (exit 3); echo $?; ls -d . | wc -l";
        let natively = text(&run(scratch.native(shell).args(["-c", script])));
        let found = text(&run(sealed(&scratch, shell).args(["-c", script]).env("SNAPSHIM_LOG", "error")));
        assert_eq!(found, natively, "{shell}");
    }
}

#[test]
fn a_mapper_keeps_its_snapshots_through_what_it_does_to_them() {
    const TEST: &str = "a_mapper_keeps_its_snapshots_through_what_it_does_to_them";
    if !can_seal(TEST) {
        return;
    }
    let scenarios = [
        ("mapping/fork", "child_and_parent_stay_exact"),
        ("mapping/fork", "fork_while_a_process_writes"),
        ("mapping/fork", "a_daemon_keeps_what_it_inherited"),
        ("mapping/fork", "a_child_on_a_terminal_keeps_what_it_inherited"),
        ("mapping/change", "mremap_moves_all_of_it"),
        ("mapping/change", "mprotect_both_ways_while_a_process_writes"),
        ("mapping/many", "own_stores_stay_private_and_survive_pushes"),
    ];
    let scratch = Scratch::on_tmpfs();
    for (name, scenario) in scenarios {
        run_ok(sealed(&scratch, program(name)).arg(scenario));
    }
}

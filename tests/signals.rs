//! A program that has its own business with SIGSEGV does it as without the shim, although the shim handles that signal.
//!
//! The scenes of `tests/programs/signals/` say what they see, how they end, and what the last SIGSEGV was about; here they are
//! played natively and under the shim.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::common::{Scratch, are_installed, made_programs, program, root, run, run_ok, scratches, skip, source, text};

/// The shim's handler comes before the program's own actions and masks, or after.
fn same(name: &str) {
    for when in ["early", "late"] {
        let scratch = Scratch::on_tmpfs();
        let native = run(scratch.native(program(name)).arg(when));
        let shimmed = run(scratch.shimmed(program(name), "auto").arg(when));
        assert!(native.status.success(), "{name} {when}: {}", text(&native));
        for (native, shimmed) in scenes(&text(&native)).zip(scenes(&text(&shimmed))) {
            assert_eq!(shimmed, native, "{name} {when}");
        }
        assert_eq!(text(&shimmed), text(&native), "{name} {when}");
    }
}

fn scenes(output: &str) -> impl Iterator<Item = &str> {
    output.split("== ")
}

#[test]
fn own_faults_reach_the_program_as_natively() {
    same("signals/faults");
}

/// Where the program may not make memory executable, libc's own calls come to no hook.
#[test]
fn own_faults_reach_the_program_where_libc_cannot_be_patched() {
    const PR_SET_MDWE: i32 = 65;
    let refuses_code = || {
        // SAFETY: the arguments are values.
        let refused = unsafe { libc::prctl(PR_SET_MDWE, 1, 0, 0, 0) };
        if refused == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    let scratch = Scratch::on_tmpfs();
    let mut shimmed = scratch.shimmed(program("signals/faults"), "auto");
    // SAFETY: one system call between fork and exec.
    unsafe { shimmed.env("SNAPSHIM_LOG", "off").arg("early").pre_exec(refuses_code) };
    let Ok(shimmed) = shimmed.output() else {
        return skip("own_faults_reach_the_program_where_libc_cannot_be_patched", "the kernel has no PR_SET_MDWE");
    };
    let native = run(scratch.native(program("signals/faults")).arg("early"));
    assert_eq!(text(&shimmed), text(&native));
}

#[test]
fn sent_signals_masks_and_actions_are_as_natively() {
    same("signals/sent");
}

#[test]
fn stores_that_trap_while_the_signal_is_blocked_go_on() {
    for scratch in scratches() {
        run_ok(scratch.shimmed(program("signals/stores"), "auto").args(["victim", "8"]));
    }
}

#[test]
fn a_handler_knows_the_number_of_a_spawned_child() {
    for scratch in scratches() {
        run_ok(&mut scratch.native(program("signals/spawned")));
        run_ok(&mut scratch.shimmed(program("signals/spawned"), "auto"));
    }
}

/// libc blocks all signals itself where it stores a child's number, or the result of what it did in a thread of its own.
#[test]
fn stores_of_libc_that_trap_while_it_blocks_the_signal_go_on() {
    for scratch in scratches() {
        run_ok(&mut scratch.shimmed(program("signals/libc"), "auto"));
    }
}

/// What `SNAPSHIM_FILES` makes a snapshot of.
const FILE: &str = "victim";

/// Runs an unmodified program natively and under the shim: the same output but for addresses.
fn same_program(command: &str, arguments: &[&str]) {
    let scratch = Scratch::on_tmpfs();
    let outcome = |command: &mut Command| {
        fs::write(scratch.file(FILE), []).unwrap();
        let output = run(command.args(arguments));
        (output.status, without_addresses(&text(&output)))
    };
    let native = outcome(&mut scratch.native(command));
    let shimmed = outcome(scratch.shimmed(command, "auto").env("SNAPSHIM_FILES", FILE));
    assert_eq!(shimmed.1, native.1, "{command} {arguments:?}");
    assert_eq!(shimmed.0, native.0, "{command} {arguments:?}: {}", native.1);
}

/// Addresses differ from run to run.
fn without_addresses(text: &str) -> String {
    let words =
        |line: &str| -> String { line.split(' ').filter(|word| !word.starts_with("0x")).collect::<Vec<_>>().join(" ") };
    text.lines().map(|line| words(line) + "\n").collect()
}

#[test]
fn a_java_virtual_machine_checks_for_null() {
    if are_installed("a_java_virtual_machine_checks_for_null", &["java", "javac"]) {
        for mode in ["-Xint", "-Xcheck:jni"] {
            same_program("java", &[mode, source("signals/null.java").to_str().unwrap(), FILE]);
        }
    }
}

#[test]
fn a_python_interpreter_reports_its_fault() {
    for (handler, how) in [("-Xfaulthandler", "fault"), ("-Xdev", "handle"), ("-q", "fault")] {
        same_program("python3", &[handler, source("signals/python.py").to_str().unwrap(), FILE, how]);
    }
}

#[test]
fn a_go_program_with_c_code_recovers_from_nil() {
    let test = "a_go_program_with_c_code_recovers_from_nil";
    if !are_installed(test, &["go"]) {
        return;
    }
    let program = made_programs().join("signals/go");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(source("signals/go.go")).env("GOCACHE", root().join("target/go"));
    run_ok(build.env("GO111MODULE", "off"));
    for arguments in [&[FILE][..], &[FILE, "and end"]] {
        same_program(&program.display().to_string(), arguments);
    }
}

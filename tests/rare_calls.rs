//! Calls that a mapper makes seldom answer as natively, and a refused snapshot says why.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Scratch, WAYS, is_root, program, run, run_ok, skip, text};

/// What `program` says natively, and that it says the same under the shim.
fn same(mode: &str) -> String {
    let scratch = Scratch::on_tmpfs();
    let file = scratch.file("victim");
    let said = |command: &mut Command| {
        fs::write(&file, vec![7; 16 * 4096]).unwrap();
        run_ok(command.arg(mode).arg(&file))
    };
    let natively = said(&mut scratch.native(program("mapping/rare")));
    for way in WAYS {
        assert_eq!(said(&mut scratch.shimmed(program("mapping/rare"), way)), natively, "{mode}, {way}");
    }
    natively
}

/// Once the addresses that the library reserves counted as the program's own.
#[test]
fn all_memory_is_locked_under_a_limit() {
    if !is_root() {
        return skip("all_memory_is_locked_under_a_limit", "setuid(2) needs root");
    }
    assert_eq!(same("lock-all"), "what is there: ok\nwith a snapshot: ok\nmore than is allowed: ENOMEM\n");
}

/// Once a sealed snapshot could not leave its file, and truncation of the file failed.
#[test]
fn a_sealed_snapshot_hinders_no_truncation() {
    for how in ["seal", "seal-by-name"] {
        if same(how).contains("no mseal") {
            skip("a_sealed_snapshot_hinders_no_truncation", "the kernel has no mseal(2)");
        }
    }
}

/// A tmpfs of its own, which is full; gone when it is dropped.
struct FullTmpfs<'a>(&'a Path);

impl Drop for FullTmpfs<'_> {
    fn drop(&mut self) {
        run(Command::new("umount").arg(self.0));
    }
}

#[test]
fn a_snapshot_on_a_full_file_system_is_refused_with_enospc() {
    let test = "a_snapshot_on_a_full_file_system_is_refused_with_enospc";
    let scratch = Scratch::on_tmpfs();
    let place = scratch.file("full");
    fs::create_dir(&place).unwrap();
    if !run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(&place)).status.success() {
        return skip(test, "no tmpfs can be mounted here");
    }
    let _mounted = FullTmpfs(&place);
    let sparse = place.join("sparse");
    fs::File::create(&sparse).unwrap().set_len(70_000).unwrap();
    let _ = fs::write(place.join("rest"), vec![1; 300 << 10]);
    let output = run(scratch.shimmed(program("mapping/rare"), "direct").arg("full").arg(&sparse));
    let said = text(&output);
    assert!(said.contains("mmap: ENOSPC") && said.contains("its file system is full"), "{said}");
}

/// The values of PR_SET_PTRACER that a program gives, in order. `None`: there is no strace(1).
fn permissions(scratch: &Scratch, file: &Path) -> Option<Vec<String>> {
    Command::new("strace").arg("-V").output().ok()?;
    let trace = scratch.file("trace");
    let shimmed = scratch.shimmed(program("mapping/rare"), "direct");
    let mut traced = scratch.native("strace");
    traced.args(["-f", "-e", "trace=prctl", "-o"]).arg(&trace);
    for (name, value) in shimmed.get_envs() {
        traced.arg("-E").arg(format!("{}={}", name.to_str()?, value?.to_str()?));
    }
    run_ok(traced.arg(shimmed.get_program()).arg("allow-ptrace").arg(file));
    let calls = fs::read_to_string(trace).unwrap();
    let calls = calls.lines().filter_map(|line| Some(line.split_once("PR_SET_PTRACER, ")?.1));
    // Where another process comes between, the rest of the call stands in a line of its own.
    Some(calls.map(|call| call.split([',', ')', ' ']).next().unwrap().to_string()).collect())
}

/// Once every process that had ever had a snapshot stayed open to all others of its user.
#[test]
fn other_processes_are_let_in_only_while_there_are_snapshots() {
    let scratch = Scratch::on_tmpfs();
    let file = scratch.file("victim");
    fs::write(&file, vec![7; 4096]).unwrap();
    let Some(found) = permissions(&scratch, &file) else {
        return skip("other_processes_are_let_in_only_while_there_are_snapshots", "strace is not installed");
    };
    let (any, mut rest) = ("PR_SET_PTRACER_ANY", found.iter().map(String::as_str));
    let parent = rest.next().unwrap();
    assert!(parent.parse::<u32>().is_ok(), "{found:?}");
    assert_eq!(rest.next(), Some(any), "the first snapshot: {found:?}");
    assert_eq!(rest.next(), Some(any), "the child: {found:?}");
    assert_eq!(rest.next(), Some("0"), "the child's last snapshot: {found:?}");
    // Without Yama the kernel refuses the program's own call.
    let remembered = if Path::new("/proc/sys/kernel/yama").exists() { parent } else { "0" };
    assert_eq!(rest.next(), Some(remembered), "the last snapshot: {found:?}");
}

//! io_uring is not there for a program under the shim; with a filter, not even for one that makes the system call itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::common::holder::Holder;
use crate::common::{Scratch, copy_program, is_root, program, run, run_ok, skip, text};

/// Whether the kernel lets a program have a ring at all.
fn has_rings(test: &str) -> bool {
    let has = run_ok(&mut Command::new(program("transparency/ring"))).contains("instruction: made");
    if !has {
        skip(test, "the kernel gives no io_uring");
    }
    has
}

fn said(value: &str, words: &[&str]) -> (String, String) {
    let scratch = Scratch::on_tmpfs();
    if words.contains(&"as-nobody") {
        // It joins as root, and again when it has become the user nobody and executed a program.
        std::os::unix::fs::chown(scratch.table(), None, Some(65534)).unwrap();
        fs::set_permissions(scratch.table(), fs::Permissions::from_mode(0o2770)).unwrap();
    }
    // The user nobody may not read the build directory everywhere.
    let (library, made) = (scratch.file("libsnapshim.so"), scratch.file("ring"));
    copy_program(&crate::common::library(), &library);
    copy_program(&program("transparency/ring"), &made);
    let mut command = scratch.shimmed(&made, "auto");
    let output = run(command.args(words).env("LD_PRELOAD", &library).env("SNAPSHIM_IO_URING", value));
    assert!(output.status.success(), "{value} {words:?}: {}", text(&output));
    let strings = (output.stdout, output.stderr);
    (String::from_utf8(strings.0).unwrap(), String::from_utf8(strings.1).unwrap())
}

#[test]
fn denied_to_who_asks_libc_and_allowed_where_it_is() {
    if !has_rings("denied_to_who_asks_libc_and_allowed_where_it_is") {
        return;
    }
    let (denied, _) = said("deny", &[]);
    assert!(denied.contains("syscall: ENOSYS\ninstruction: made\n"), "{denied}");
    let (allowed, _) = said("allow", &[]);
    assert!(allowed.contains("syscall: made\ninstruction: made\n"), "{allowed}");
}

#[test]
fn a_filter_denies_it_to_who_makes_the_system_call_itself() {
    const TEST: &str = "a_filter_denies_it_to_who_makes_the_system_call_itself";
    if !has_rings(TEST) {
        return;
    }
    if !is_root() {
        return skip(TEST, "it needs root");
    }
    for words in [&[][..], &["no-new-privs"], &["as-nobody", "no-new-privs"]] {
        let (found, complaint) = said("seccomp", words);
        let privileges = u8::from(words.contains(&"no-new-privs"));
        let expected = format!("syscall: ENOSYS\ninstruction: ENOSYS\nx32: ENOSYS\nno_new_privs: {privileges}\n");
        assert_eq!(found, expected, "{words:?}");
        // As root the program before the last exec may have it, too; as the user nobody only one without new privileges.
        assert_eq!(complaint, "", "{words:?}");
    }
}

#[test]
fn a_filter_that_may_not_be_says_so_and_changes_nothing() {
    const TEST: &str = "a_filter_that_may_not_be_says_so_and_changes_nothing";
    if !has_rings(TEST) {
        return;
    }
    let (found, complaint) = if is_root() {
        // The program before the exec is root's and would set the filter up for the next one.
        let scratch = Scratch::on_tmpfs();
        let made = scratch.file("ring");
        let library = scratch.file("libsnapshim.so");
        copy_program(&crate::common::library(), &library);
        copy_program(&program("transparency/ring"), &made);
        fs::set_permissions(&scratch.path, fs::Permissions::from_mode(0o777)).unwrap();
        let preload = format!("LD_PRELOAD={}", library.display());
        let table = format!("SNAPSHIM_DIR={}", scratch.file("table").display());
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "env", &preload, &table]);
        let output = run(command.arg("SNAPSHIM_IO_URING=seccomp").arg(&made));
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    } else {
        said("seccomp", &[])
    };
    assert!(found.contains("syscall: ENOSYS\ninstruction: made\n"), "{found}{complaint}");
    assert!(complaint.contains("SNAPSHIM_IO_URING=seccomp had no effect"), "{complaint}");
}

#[test]
fn programs_executed_one_after_another_set_up_one_filter() {
    const TEST: &str = "programs_executed_one_after_another_set_up_one_filter";
    if !has_rings(TEST) || !is_root() {
        return skip(TEST, "it needs root and io_uring");
    }
    let scratch = Scratch::on_tmpfs();
    let mut command = scratch.shimmed("sh", "auto");
    command
        .args(["-c", "exec sh -c 'exec grep Seccomp_filters /proc/self/status'"])
        .env("SNAPSHIM_IO_URING", "seccomp");
    let found = run_ok(&mut command);
    let native = run_ok(Command::new("grep").args(["Seccomp_filters", "/proc/self/status"]));
    let count = |text: &str| text.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap();
    assert_eq!(count(&found), count(&native) + 1);
}

const SIZE: usize = 16 * 4096;

/// A process that may have a ring, and what it said at standard error.
fn ring_writer(scratch: &Scratch, words: &[&str]) -> Holder {
    let mut command = scratch.shimmed(program("transparency/ring_writer"), "auto");
    Holder::run(command.args(words).env("SNAPSHIM_IO_URING", "allow"))
}

/// A process with a snapshot of `file`; its standard error goes to the file "said".
fn mapper(scratch: &Scratch, file: &str, more: &[&str]) -> Holder {
    let said = fs::File::create(scratch.file("said")).unwrap();
    let mut command = scratch.shimmed(program("common/hold"), "auto");
    Holder::run(command.arg(file).args(["r", &SIZE.to_string()]).args(more).stderr(said))
}

/// Once such a snapshot passed for exact, and showed the bytes that the ring wrote.
#[test]
fn a_snapshot_of_what_a_ring_may_write_is_doubtful_from_the_start() {
    if !has_rings("a_snapshot_of_what_a_ring_may_write_is_doubtful_from_the_start") {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    for name in ["written", "read", "other"] {
        fs::write(scratch.file(name), vec![b'o'; SIZE]).unwrap();
    }
    let users = [ring_writer(&scratch, &["written", "rw"]), ring_writer(&scratch, &["read", "r"])];
    let found = mapper(&scratch, "written", &[]).finish();
    assert!(found.contains("state=1 ") && found.contains("uses io_uring, whose writes are not seen"), "{found}");
    let said = fs::read_to_string(scratch.file("said")).unwrap();
    assert!(said.contains("doubtful from the start") && said.contains("(ring_writer)"), "{said}");
    for exact in ["read", "other"] {
        mapper(&scratch, exact, &[]).finish_exact(exact);
        assert_eq!(fs::read_to_string(scratch.file("said")).unwrap(), "", "{exact}");
    }
    for user in users {
        assert_eq!(user.finish(), "done\n");
    }
}

/// The child has the ring of its parent, and has made no call by which the library would have seen it.
#[test]
fn a_snapshot_of_what_the_ring_of_a_forked_child_may_write_is_doubtful() {
    if !has_rings("a_snapshot_of_what_the_ring_of_a_forked_child_may_write_is_doubtful") {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("written"), vec![b'o'; SIZE]).unwrap();
    let user = ring_writer(&scratch, &["written", "rw", "child"]);
    let found = mapper(&scratch, "written", &[]).finish();
    assert!(found.contains("state=1 "), "{found}");
    assert_eq!(user.finish(), "done\n");
}

#[test]
fn a_snapshot_is_doubtful_once_a_process_that_writes_its_file_makes_a_ring() {
    if !has_rings("a_snapshot_is_doubtful_once_a_process_that_writes_its_file_makes_a_ring") {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("written"), vec![b'o'; SIZE]).unwrap();
    let user = ring_writer(&scratch, &["written", "rw", "late"]);
    let mapper = mapper(&scratch, "written", &["doubtful"]);
    assert_eq!(user.finish(), "done\n");
    let found = mapper.finish();
    assert!(found.contains("state=1 "), "{found}");
}

#[test]
fn a_program_that_asks_for_a_ring_is_told_what_to_set() {
    if !has_rings("a_program_that_asks_for_a_ring_is_told_what_to_set") {
        return;
    }
    let (_, told) = said("deny", &[]);
    assert_eq!(told.matches("SNAPSHIM_IO_URING=allow").count(), 1, "{told}");
    let (_, told) = said("allow", &[]);
    assert_eq!(told, "");
}

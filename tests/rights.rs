//! The users that reach a table: its own, and those that it lets in by group. No other user can read or write it, or put another in
//! its place.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Scratch, copy_program, is_root_for, program, run, text};
use snapshim::table_file_name;

const STRANGER: u32 = 65534;
const VICTIM: u32 = 23456;

/// A directory that every user may make things in, as in /tmp.
fn meeting_place() -> Scratch {
    let scratch = Scratch::on_tmpfs();
    fs::set_permissions(&scratch.path, fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(scratch.file("victim"), [1; 8192]).unwrap();
    fs::set_permissions(scratch.file("victim"), fs::Permissions::from_mode(0o666)).unwrap();
    scratch
}

/// Programs and library where every user can reach them.
fn copied(scratch: &Scratch, file: &Path) -> PathBuf {
    let copy = scratch.file(file.file_name().unwrap().to_str().unwrap());
    if !copy.exists() {
        copy_program(file, &copy);
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    }
    copy
}

/// What a probe of user `uid` says with its table in `directory`.
fn probe(scratch: &Scratch, uid: u32, directory: &Path) -> String {
    let mut command = Command::new(copied(scratch, &program("common/env_probe")));
    command.args(["victim", "active", "snapshot"]).current_dir(&scratch.path);
    command.env("LD_PRELOAD", copied(scratch, &crate::common::library())).env("SNAPSHIM_DIR", directory);
    text(&run(command.uid(uid).gid(uid).groups_of(uid)))
}

trait Groups {
    /// The user's own group and no other.
    fn groups_of(&mut self, gid: u32) -> &mut Self;
}

impl Groups for Command {
    fn groups_of(&mut self, gid: u32) -> &mut Self {
        // SAFETY: setgroups(2) is async-signal-safe.
        unsafe {
            self.pre_exec(move || {
                // By then the user may have changed already: root's groups are gone then anyway.
                libc::syscall(libc::SYS_setgroups, 1, &raw const gid);
                Ok(())
            })
        }
    }
}

/// As the stranger: a shell command.
fn stranger(scratch: &Scratch, command: &str) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(&scratch.path).uid(STRANGER).gid(STRANGER);
    run(&mut shell).status.success()
}

#[test]
fn the_table_is_its_users_alone_whatever_the_creation_mask() {
    if !is_root_for("the_table_is_its_users_alone_whatever_the_creation_mask", "becoming another user needs root") {
        return;
    }
    let scratch = meeting_place();
    let directory = scratch.file("table");
    let mut command = scratch.shimmed("sh", "auto");
    let program = program("common/env_probe");
    command.args(["-c", &format!("umask 0; exec {} victim active", program.display())]).env("SNAPSHIM_DIR", &directory);
    let said = text(&run(&mut command));
    assert!(
        said.starts_with("active: 1\n") && said.lines().count() == 2 && said.contains("made the directory"),
        "{said}"
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(&directory), mode(&directory.join(table_file_name!()))), (0o700, 0o600));
    for attempt in [
        concat!("cat table/", table_file_name!()),
        concat!("echo >table/", table_file_name!()),
        concat!("rm -f table/", table_file_name!()),
        "ls table",
        "mv table other",
    ] {
        assert!(!stranger(&scratch, attempt), "{attempt}");
    }
    let said = probe(&scratch, STRANGER, &directory);
    assert!(said.contains("active: 0\nsnapshot: EACCES"), "{said}");
}

#[test]
fn nothing_that_a_stranger_made_before_is_taken() {
    if !is_root_for("nothing_that_a_stranger_made_before_is_taken", "becoming another user needs root") {
        return;
    }
    for (made, why) in [
        ("mkdir -m 700 table", "cannot be opened"),
        ("mkdir -m 755 table", "another user owns the directory"),
        ("mkdir -m 775 table", "another user owns the directory"),
        ("mkdir -m 777 table", "every user may write into the directory"),
        ("mkdir -m 755 other; ln -s other table", "cannot be opened"),
        ("ln -s /etc table", "cannot be opened"),
        ("mkfifo table", "cannot be opened"),
        // A table for all users, in a directory that looks like one shared by group.
        (
            concat!("mkdir -m 775 table; cp seed table/", table_file_name!(), "; chmod 666 table/", table_file_name!()),
            "another user owns the directory",
        ),
    ] {
        let scratch = meeting_place();
        let seed = scratch.file("own");
        let said = probe(&scratch, STRANGER, &seed);
        assert!(said.contains("active: 1\n"), "{said}");
        fs::copy(seed.join(table_file_name!()), scratch.file("seed")).unwrap();
        fs::set_permissions(scratch.file("seed"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(stranger(&scratch, made), "{made}");
        let said = probe(&scratch, VICTIM, &scratch.file("table"));
        assert!(said.contains("active: 0\nsnapshot: E") && said.contains(why), "{made}: {said}");
    }
}

#[test]
fn what_stands_in_the_tables_place_is_refused_and_left_alone() {
    if !is_root_for("what_stands_in_the_tables_place_is_refused_and_left_alone", "becoming another user needs root") {
        return;
    }
    let scratch = meeting_place();
    let directory = scratch.file("table");
    assert!(probe(&scratch, VICTIM, &directory).contains("active: 1\n"));
    let table = directory.join(table_file_name!());
    let length = fs::metadata(&table).unwrap().len();

    // A hard link of another file, as long as a table.
    fs::remove_file(&table).unwrap();
    let precious = scratch.file("precious");
    fs::File::create(&precious).unwrap().set_len(length).unwrap();
    chown(&precious, Some(VICTIM), Some(VICTIM)).unwrap();
    fs::hard_link(&precious, &table).unwrap();
    let said = probe(&scratch, VICTIM, &directory);
    assert!(said.contains("snapshot: EPROTO") && said.contains("no table"), "{said}");
    assert!(
        fs::read(&precious).unwrap().iter().all(|byte| *byte == 0) && fs::metadata(&precious).unwrap().len() == length
    );

    fs::remove_file(&table).unwrap();
    symlink("/dev/null", &table).unwrap();
    let said = probe(&scratch, VICTIM, &directory);
    assert!(said.contains("snapshot: ELOOP"), "{said}");

    fs::remove_file(&table).unwrap();
    assert!(probe(&scratch, VICTIM, &directory).contains("active: 1\n"));
    fs::set_permissions(&table, fs::Permissions::from_mode(0o666)).unwrap();
    let said = probe(&scratch, VICTIM, &directory);
    assert!(said.contains("snapshot: EACCES") && said.contains("every user may write the table"), "{said}");
}

/// A directory of one's own group, setgid: two users meet there.
#[test]
fn a_directory_shared_by_group_lets_its_members_in_and_nobody_else() {
    if !is_root_for(
        "a_directory_shared_by_group_lets_its_members_in_and_nobody_else",
        "becoming another user needs root",
    ) {
        return;
    }
    let scratch = meeting_place();
    let directory = scratch.file("table");
    fs::create_dir(&directory).unwrap();
    chown(&directory, Some(12345), Some(VICTIM)).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o2775)).unwrap();
    let said = probe(&scratch, VICTIM, &directory);
    assert!(said.contains("active: 1\n"), "{said}");
    let table = fs::metadata(directory.join(table_file_name!())).unwrap();
    assert_eq!((table.mode() & 0o777, table.gid()), (0o660, VICTIM));
    let said = probe(&scratch, STRANGER, &directory);
    assert!(said.contains("active: 0\nsnapshot: EACCES"), "{said}");
    assert!(!stranger(&scratch, concat!("cat table/", table_file_name!())));
}

//! What the environment says is obeyed or refused aloud; whatever it says, the application runs on.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use crate::common::{DISK, Scratch, WAYS, program, run, run_within, skip};
use snapshim::protocol::limits::SNAPSHOTS;
use snapshim::table_file_name;

fn scratch() -> Scratch {
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("victim"), [1; 8192]).unwrap();
    scratch
}

fn probe(scratch: &Scratch, verbs: &[&str]) -> Command {
    let mut command = scratch.shimmed(program("common/env_probe"), "auto");
    command.arg("victim").args(verbs);
    command
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A probe that waits for lines.
struct Waiting {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Waiting {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    fn go_on(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    /// What it still says, on both outputs.
    fn finish(mut self) -> (String, String) {
        drop(self.input);
        let (mut out, mut err) = (String::new(), String::new());
        self.output.read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert!(self.child.wait().unwrap().success(), "{out}{err}");
        (out, err)
    }
}

const ALL_IS_WELL: &str = "active: 1\nsnapshot: taken\ncompare: same\n";

#[test]
fn a_value_that_cannot_be_used_is_named_once_with_what_is_used_instead() {
    let cases = [
        ("SNAPSHIM_PUSH", "sideways", "auto"),
        ("SNAPSHIM_PUSH", "", "auto"),
        ("SNAPSHIM_ON_FAILURE", "explode", "break-snapshot"),
        ("SNAPSHIM_TIMEOUT_MS", "soon", "2000"),
        ("SNAPSHIM_TIMEOUT_MS", "0", "2000"),
        ("SNAPSHIM_TIMEOUT_MS", "-5", "2000"),
        ("SNAPSHIM_TIMEOUT_MS", "99999999999999999999", "2000"),
        ("SNAPSHIM_LOG", "loud", "warn"),
        ("SNAPSHIM_LOG", "loud:/dev/stderr", "warn"),
        ("SNAPSHIM_LOG", "debug:/no/such/directory/log", "standard error"),
        ("SNAPSHIM_SHARED", "lazy", "trap"),
        ("SNAPSHIM_CHUNK_KB", "2", "64"),
        ("SNAPSHIM_CHUNK_KB", "100", "64"),
        ("SNAPSHIM_CHUNK_KB", "4096", "64"),
        ("SNAPSHIM_DISABLE", "perhaps", "0"),
        ("SNAPSHIM_FILES", "[", "no"),
        ("SNAPSHIM_SHARED_FILES", "{*.npy", "no"),
        ("SNAPSHIM_KEEP", "*.[", "no"),
        ("SNAPSHIM_GUARD_FILES", "{a", "no"),
        ("SNAPSHIM_SHORT", "long", "sigbus"),
        ("SNAPSHIM_LOG", "info,xml", "warn"),
    ];
    for (name, value, instead) in cases {
        let scratch = scratch();
        let output = run(probe(&scratch, &USE).env(name, value));
        assert_eq!(out(&output), ALL_IS_WELL, "{name}={value}: {}", err(&output));
        assert_named_once(&output, name, value, instead);
    }
}

const USE: [&str; 5] = ["active", "snapshot", "write", "write", "compare"];

fn assert_named_once(output: &Output, name: &str, value: &str, instead: &str) {
    let said = err(output);
    assert!(output.status.success(), "{name}={value}: {said}");
    assert_eq!(said.matches(&format!("{name}={value}")).count(), 1, "{name}={value}: {said}");
    let line = said.lines().find(|line| line.contains(name)).unwrap();
    let (_, rest) = line.split_once(&format!("{name}={value}")).unwrap();
    assert!(rest.contains(instead), "{name}={value}: {line}");
}

/// The default is the machine's: whatever another run left there is not seen where /dev/shm is a new one.
#[test]
fn a_directory_that_cannot_be_used_is_named_once_and_the_default_used() {
    const TEST: &str = "a_directory_that_cannot_be_used_is_named_once_and_the_default_used";
    let mount = ["-m", "mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/dev/shm"];
    let can_mount = Command::new("unshare").args(mount).output().is_ok_and(|output| output.status.success());
    if !can_mount {
        skip(TEST, "a /dev/shm of one's own needs root: what the default is good for is not looked at");
    }
    for value in ["relative/path", ""] {
        let scratch = scratch();
        let mut command = probe(&scratch, &USE);
        command.env("SNAPSHIM_DIR", value);
        if can_mount {
            let output = run(&mut with_shm_of_its_own(&command, &mount));
            assert_eq!(out(&output), ALL_IS_WELL, "{value}: {}", err(&output));
            assert_named_once(&output, "SNAPSHIM_DIR", value, "default");
        } else {
            assert_named_once(&run(&mut command), "SNAPSHIM_DIR", value, "default");
        }
    }
}

/// The same command, after `unshare` with these arguments. Its directory stays what it was: it is the current one already.
fn with_shm_of_its_own(command: &Command, mount: &[&str]) -> Command {
    let mut unshared = Command::new("unshare");
    unshared.args(["-m", "sh", "-c", &format!("{} && exec env \"$@\"", mount[1..].join(" ")), "sh"]);
    for (name, value) in command.get_envs() {
        unshared.arg([name, value.unwrap()].join(OsStr::new("=")));
    }
    unshared.arg(command.get_program()).args(command.get_args());
    unshared.current_dir(command.get_current_dir().unwrap()).stdin(Stdio::null());
    unshared
}

#[test]
fn values_that_can_be_used_are_not_remarked_on() {
    let cases = [
        ("SNAPSHIM_PUSH", "direct"),
        ("SNAPSHIM_ON_FAILURE", "fail-write"),
        ("SNAPSHIM_TIMEOUT_MS", "1"),
        ("SNAPSHIM_TIMEOUT_MS", "60000"),
        ("SNAPSHIM_LOG", "error"),
        ("SNAPSHIM_LOG", "off"),
        ("SNAPSHIM_SHARED", "eager"),
        ("SNAPSHIM_CHUNK_KB", "4"),
        ("SNAPSHIM_CHUNK_KB", "2048"),
        ("SNAPSHIM_DISABLE", "0"),
        ("SNAPSHIM_DISABLE", ""),
        ("SNAPSHIM_FILES", ""),
        ("SNAPSHIM_FILES", "*.db:/data/{a,b}/*"),
        ("SNAPSHIM_SHARED_FILES", ""),
        ("SNAPSHIM_SHARED_FILES", "*.npy:/data/{a,b}/*"),
        ("SNAPSHIM_KEEP", "*.npy:/data/{a,b}/*"),
        ("SNAPSHIM_SHORT", "refuse"),
        ("SNAPSHIM_LOG", "json"),
        ("SNAPSHIM_LOG", "json,error"),
    ];
    for (name, value) in cases {
        let scratch = scratch();
        let output = run(probe(&scratch, &["active", "snapshot", "write", "compare"]).env(name, value));
        assert_eq!(out(&output), ALL_IS_WELL, "{name}={value}");
        assert_eq!(err(&output), "", "{name}={value}");
    }
}

#[test]
fn disabled_means_plain_mappings_and_no_table() {
    let scratch = scratch();
    let output = run(probe(&scratch, &["active", "snapshot", "write", "compare"]).env("SNAPSHIM_DISABLE", "1"));
    assert_eq!(out(&output), "active: 0\nsnapshot: taken\ncompare: differs\n");
    assert_eq!(err(&output), "");
    assert_eq!(fs::read_dir(scratch.table()).unwrap().count(), 0);
}

const REFUSAL: &str = "takes no part";

#[test]
fn the_log_goes_where_it_is_sent() {
    let missing = "/no/such/directory/table";
    let output = |log: &str| {
        let scratch = scratch();
        let output = run(probe(&scratch, &["active", "write"]).env("SNAPSHIM_DIR", missing).env("SNAPSHIM_LOG", log));
        assert_eq!(out(&output), "active: 0\n", "{log}");
        let file = fs::read_to_string(scratch.file("log")).unwrap_or_default();
        (err(&output), file)
    };
    assert_eq!(output("off"), (String::new(), String::new()));
    for level in ["error", "warn", "info", "debug"] {
        let (to_stderr, to_file) = output(level);
        assert_eq!(to_stderr.matches(REFUSAL).count(), 1, "{level}: {to_stderr}");
        assert!(to_file.is_empty());
    }

    let scratch = scratch();
    let log = scratch.file("log");
    let sent = format!("warn:{}", log.display());
    for times in 1..=2 {
        let output = run(probe(&scratch, &["active"]).env("SNAPSHIM_DIR", missing).env("SNAPSHIM_LOG", &sent));
        assert_eq!(err(&output), "");
        let written = fs::read_to_string(&log).unwrap();
        assert_eq!(written.matches(REFUSAL).count(), times, "lines are appended: {written}");
    }
}

/// Runs a probe with the table directory `table`: it cannot join, says so, why and what to do once, and goes on.
fn refused(table: &Path, errno: &str, why: &str) {
    let scratch = scratch();
    let mut command = probe(&scratch, &["active", "snapshot", "write", "active", "snapshot", "write"]);
    let output = run(command.env("SNAPSHIM_DIR", table));
    let said = err(&output);
    assert!(output.status.success(), "{said}");
    let snapshot = format!("active: 0\nsnapshot: {errno}\n");
    assert_eq!(out(&output), snapshot.repeat(2), "{}: {said}", table.display());
    assert_eq!(said.matches(REFUSAL).count(), 1, "{said}");
    assert!(said.contains(table.to_str().unwrap()) && said.contains(why), "{said}");
    assert_ne!(fs::read(scratch.file("victim")).unwrap(), [1; 8192], "the program still writes");
}

#[test]
fn a_directory_without_parent_is_refused() {
    refused(Path::new("/no/such/directory/table"), "ENOENT", "parent directory does not exist");
}

#[test]
fn directories_that_others_could_tamper_with_are_refused() {
    let scratch = Scratch::on_tmpfs();
    let make = |name: &str, mode| {
        let path = scratch.file(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    refused(&make("open", 0o777), "EACCES", "every user may write");
    refused(&make("sticky", 0o1777), "EACCES", "every user may write");

    let link = scratch.file("link");
    symlink(make("target", 0o700), &link).unwrap();
    refused(&link, "ENOTDIR", "cannot be opened");
    let dangling = scratch.file("dangling");
    symlink(scratch.file("nothing"), &dangling).unwrap();
    refused(&dangling, "ENOTDIR", "cannot be opened");
    assert!(!scratch.file("nothing").exists());
    fs::write(scratch.file("file"), "").unwrap();
    refused(&scratch.file("file"), "ENOTDIR", "cannot be opened");

    let foreign = make("foreign", 0o700);
    if chown(&foreign, Some(12345), Some(12345)).is_err() {
        return skip("directories_that_others_could_tamper_with_are_refused", "giving a directory away needs root");
    }
    refused(&foreign, "EACCES", "another user owns the directory");
}

/// A directory whose table has been used once.
fn used_table() -> (Scratch, PathBuf) {
    let scratch = scratch();
    assert_eq!(out(&run(&mut probe(&scratch, &["active"]))), "active: 1\n");
    let table = scratch.table().join(table_file_name!());
    assert!(table.exists());
    (scratch, table)
}

#[test]
fn what_is_no_table_is_refused() {
    for garbage in [&b""[..], b"garbage", &[0xa5; 8192]] {
        let (scratch, table) = used_table();
        fs::write(&table, garbage).unwrap();
        refused(scratch.table(), "EPROTO", "is no table");
        assert_eq!(fs::read(&table).unwrap(), garbage, "left as it was");
    }
    // As long as a table, but not one.
    let (scratch, table) = used_table();
    fs::OpenOptions::new().write(true).open(&table).unwrap().write_all(&[0; 8]).unwrap();
    refused(scratch.table(), "EPROTO", "is no table");

    let (scratch, table) = used_table();
    fs::remove_file(&table).unwrap();
    fs::create_dir(&table).unwrap();
    refused(scratch.table(), "EISDIR", "cannot be opened");

    let (scratch, table) = used_table();
    let elsewhere = scratch.file("elsewhere");
    fs::rename(&table, &elsewhere).unwrap();
    symlink(&elsewhere, &table).unwrap();
    refused(scratch.table(), "ELOOP", "cannot be opened");

    let (scratch, table) = used_table();
    fs::remove_file(&table).unwrap();
    assert!(Command::new("mkfifo").arg(&table).status().unwrap().success());
    refused(scratch.table(), "EPROTO", "is no table");
}

#[test]
fn a_table_of_another_version_is_refused() {
    let (scratch, table) = used_table();
    let file = fs::OpenOptions::new().write(true).open(&table).unwrap();
    file.set_len(fs::metadata(&table).unwrap().len() / 2).unwrap();
    refused(scratch.table(), "EPROTO", "another version");

    let (scratch, table) = used_table();
    let mut start = fs::read(&table).unwrap();
    // The word behind the magic one stands for the layout.
    start.truncate(16);
    start[8] ^= 1;
    fs::OpenOptions::new().write(true).open(&table).unwrap().write_all(&start).unwrap();
    refused(scratch.table(), "EPROTO", "another version");
}

#[test]
fn a_table_of_another_user_is_refused() {
    let (scratch, table) = used_table();
    if chown(&table, Some(12345), Some(12345)).is_err() {
        return skip("a_table_of_another_user_is_refused", "giving a file away needs root");
    }
    refused(scratch.table(), "EACCES", "another user owns the table");
}

/// A small file system, for as long as it is wanted.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let options = format!("size={size},mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_file_system_is_refused() {
    let scratch = Scratch::on_tmpfs();
    let Some(full) = Mounted::tmpfs(scratch.file("full"), "64k") else {
        return skip("a_full_file_system_is_refused", "mounting a tmpfs needs root");
    };
    refused(&full.0, "ENOSPC", "full");
    assert_eq!(fs::read_dir(&full.0).unwrap().count(), 0, "nothing is left behind");
}

/// Room for the table, but none for more processes than it has records for from the start.
#[test]
fn processes_that_a_table_on_a_full_file_system_has_no_memory_for_say_so() {
    const TEST: &str = "processes_that_a_table_on_a_full_file_system_has_no_memory_for_say_so";
    let scratch = scratch();
    let Some(small) = Mounted::tmpfs(scratch.file("small"), "64m") else {
        return skip(TEST, "mounting a tmpfs needs root");
    };
    assert_eq!(out(&run(probe(&scratch, &["active"]).env("SNAPSHIM_DIR", &small.0))), "active: 1\n");
    fill(&small);
    let mut command = scratch.shimmed(program("lifecycle/grown"), "auto");
    let output = run(command.arg("400").env("SNAPSHIM_DIR", &small.0));
    let (found, said) = (out(&output), err(&output));
    let count = |what: &str| found.lines().filter(|line| *line == what).count();
    assert!(output.status.success() && count("ENOSPC") > 0, "{found}{said}");
    assert_eq!(count("taken") + count("ENOSPC"), 400, "{found}{said}");
    assert!(
        said.contains("its table cannot grow, as its file system is full") && said.contains("free 4 MiB"),
        "{said}"
    );
}

/// Takes all that a file system has left.
fn fill(small: &Mounted) {
    let filled = Command::new("dd")
        .args(["if=/dev/zero", "bs=4096", "status=none"])
        .env("LC_ALL", "C")
        .arg(format!("of={}", small.0.join("filler").display()))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&filled.stderr).contains("No space left"));
}

/// Room for the table, but none for what writers note in it later: they preserve again what they cannot remember.
#[test]
fn snapshots_stay_exact_when_the_tables_file_system_fills_up() {
    let scratch = scratch();
    let Some(small) = Mounted::tmpfs(scratch.file("small"), "64m") else {
        return skip("snapshots_stay_exact_when_the_tables_file_system_fills_up", "mounting a tmpfs needs root");
    };
    assert_eq!(out(&run(probe(&scratch, &["active"]).env("SNAPSHIM_DIR", &small.0))), "active: 1\n");
    fill(&small);
    for way in WAYS {
        let verbs = ["active", "snapshot", "write", "compare", "write", "write", "compare"];
        let output = run(probe(&scratch, &verbs).env("SNAPSHIM_DIR", &small.0).env("SNAPSHIM_PUSH", way));
        fs::write(scratch.file("victim"), [1; 8192]).unwrap();
        assert_eq!(out(&output), format!("{ALL_IS_WELL}compare: same\n"), "{way}: {}", err(&output));
    }
}

#[test]
fn a_full_table_refuses_until_there_is_room_again() {
    let scratch = scratch();
    let verbs = ["fill", "snapshot", "write", "compare", "fill", "write", "compare"];
    let output = run_within(&mut probe(&scratch, &verbs), DISK);
    let found = out(&output);
    let expected = format!(
        "fill: {SNAPSHOTS}, then ENFILE\nsnapshot: taken\ncompare: same\nfill: {}, then ENFILE\ncompare: same\n",
        SNAPSHOTS / 2 - 1
    );
    assert_eq!(found, expected, "{}", err(&output));
    assert!(
        err(&output).contains("the table is full") && err(&output).contains("end some snapshots"),
        "{}",
        err(&output)
    );
}

#[test]
fn a_table_that_is_removed_makes_snapshots_doubtful_and_refuses_new_ones() {
    for way in WAYS {
        let scratch = scratch();
        let verbs = ["snapshot", "wait", "snapshot", "doubtful", "why", "write", "compare"];
        let mut waiting = Waiting::start(probe(&scratch, &verbs).env("SNAPSHIM_PUSH", way));
        assert_eq!(waiting.line() + &waiting.line(), "snapshot: taken\nready\n");
        fs::remove_file(scratch.table().join(table_file_name!())).unwrap();
        // Another process starts a new one there.
        assert_eq!(out(&run(&mut probe(&scratch, &["active"]))), "active: 1\n");
        waiting.go_on();
        let (out, err) = waiting.finish();
        let why = "the table was removed or replaced, and programs that start now do not see the snapshot";
        let why = format!("why: {why}; restart all programs that cooperate");
        assert_eq!(out, format!("snapshot: ESTALE\ndoubtful: yes\n{why}\ncompare: same\n"), "{way}: {err}");
        assert!(err.contains("doubtful") && err.contains("restart"), "{way}: {err}");
    }
}

/// It has no snapshot, and nothing tells it of the new table but its own look. The mapper's own write hides the other from a
/// process that looks at the file's times.
#[test]
fn a_writer_that_was_left_behind_at_a_removed_table_makes_the_next_ones_snapshots_doubtful() {
    let scratch = scratch();
    let mut writer = Waiting::start(&mut probe(&scratch, &["write", "wait", "write"]));
    assert_eq!(writer.line(), "ready\n");
    fs::remove_file(scratch.table().join(table_file_name!())).unwrap();
    let mut mapper = Waiting::start(&mut probe(&scratch, &["snapshot", "wait", "write", "doubtful"]));
    assert_eq!(mapper.line() + &mapper.line(), "snapshot: taken\nready\n");
    // A writer looks once a second.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    writer.go_on();
    let (_, said) = writer.finish();
    assert!(said.contains("is not the one that it uses") && said.contains("restart"), "{said}");
    mapper.go_on();
    let (found, said) = mapper.finish();
    assert_eq!(found, "doubtful: yes\n", "{said}");
}

/// Mistyped, it would go unnoticed that nothing else is there.
#[test]
fn a_directory_that_had_to_be_made_is_reported() {
    let scratch = scratch();
    fs::remove_dir(scratch.table()).unwrap();
    for times in [1, 0] {
        let output = run(&mut probe(&scratch, &["active", "write"]));
        assert_eq!(err(&output).matches("made the directory").count(), times, "{}", err(&output));
    }
}

#[test]
fn a_writer_that_does_not_finish_is_named() {
    let scratch = scratch();
    let mut stuck = Waiting::start(&mut probe(&scratch, &["stuck"]));
    if stuck.line() != "ready\n" {
        return skip("a_writer_that_does_not_finish_is_named", "userfaultfd(2) needs root");
    }
    let take = |timeout| run(probe(&scratch, &["snapshot"]).env("SNAPSHIM_TIMEOUT_MS", timeout));
    let refused = take("300");
    assert_eq!(out(&refused), "snapshot: ETIMEDOUT\n", "{}", err(&refused));
    let named = format!("process {} (env_probe)", stuck.child.id());
    assert!(err(&refused).contains(&named) && err(&refused).contains("300 ms"), "{}", err(&refused));
    // A file that it does not write is not concerned.
    fs::write(scratch.file("other"), [1; 4096]).unwrap();
    let other =
        run(scratch.shimmed(program("common/env_probe"), "auto").args(["other", "snapshot", "write", "compare"]));
    assert_eq!(out(&other), "snapshot: taken\ncompare: same\n", "{}", err(&other));
    stuck.go_on();
    assert_eq!(stuck.finish().0, "went on\n");
    assert_eq!(out(&take("300")), "snapshot: taken\n");
}

/// Killed in the middle of a write: no process waits for the dead.
#[test]
fn a_writer_that_was_killed_in_a_write_holds_nobody_up() {
    let scratch = scratch();
    let mut stuck = Waiting::start(&mut probe(&scratch, &["stuck"]));
    if stuck.line() != "ready\n" {
        return skip("a_writer_that_was_killed_in_a_write_holds_nobody_up", "userfaultfd(2) needs root");
    }
    stuck.child.kill().unwrap();
    stuck.child.wait().unwrap();
    let output = run(&mut probe(&scratch, &["snapshot", "write", "compare"]));
    assert_eq!(out(&output), "snapshot: taken\ncompare: same\n", "{}", err(&output));
}

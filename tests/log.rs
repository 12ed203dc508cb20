//! The log does no harm: it waits for no reader, raises no signal, and is not written into a program's data. What it says is said
//! once, with a time, and as JSON where that is asked for.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::common::{Scratch, WAYS, program, root, run, run_ok, run_within, text};

/// Runs a scenario natively and under the shim: what it says is the same.
fn is_as_natively(scenario: &str) {
    let limit = Duration::from_secs(20);
    let scratch = Scratch::on_tmpfs();
    let outcome = |mut command: Command| {
        let output = run_within(command.arg(scenario), limit);
        assert!(output.status.success(), "{scenario}: {}: {}", output.status, text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let natively = outcome(scratch.native(program("transparency/logs")));
    for way in WAYS {
        let shimmed = outcome(scratch.shimmed(program("transparency/logs"), way));
        assert_eq!(shimmed, natively, "{scenario}, {way}");
    }
}

/// Once SIGPIPE ended the program.
#[test]
fn nobody_reads_standard_error() {
    for scenario in ["pipe without reader", "socket without reader", "ignored signal", "pending signal"] {
        is_as_natively(scenario);
    }
}

/// Once the program hung, or its agent, and with it every process that asked it for something.
#[test]
fn standard_error_is_full() {
    for scenario in ["full pipe", "full socket", "full terminal", "stopped terminal"] {
        is_as_natively(scenario);
    }
    let scratch = Scratch::on_tmpfs();
    let found = run_ok(scratch.shimmed(program("transparency/logs"), "auto").arg("agent goes on"));
    assert_eq!(found, "other snapshot: at once\n");
}

#[test]
fn a_program_in_the_background_of_its_terminal_is_not_stopped() {
    is_as_natively("background");
}

/// Once SIGXFSZ ended the program.
#[test]
fn a_limit_on_the_size_of_files_ends_nobody() {
    is_as_natively("limited file");
}

/// Once a line of the log stood in the middle of the program's data.
#[test]
fn what_took_the_number_of_standard_error_is_the_programs() {
    for scenario in ["own file", "own appended", "own socket", "own pipe", "own in child"] {
        is_as_natively(scenario);
    }
}

fn provoked(scratch: &Scratch) -> Command {
    let mut command = scratch.shimmed(program("transparency/logs"), "auto");
    command.args(["provoke", "prepared"]);
    command
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8(output.stderr.clone()).unwrap()
}

const PROVOKED: &str = "can change without a system call here";

/// A FIFO that no process reads once held up every program at its start, SIGTERM blocked.
#[test]
fn a_fifo_is_no_log() {
    let scratch = Scratch::on_tmpfs();
    let fifo = scratch.file("fifo");
    run_ok(scratch.native("mkfifo").arg(&fifo));
    let refused = |output: &Output| {
        let said = said(output);
        assert_eq!(said.matches("SNAPSHIM_LOG=warn:").count(), 1, "{said}");
        assert!(said.contains("a FIFO or socket is no log") && said.contains(PROVOKED), "{said}");
    };
    let with_log = || {
        let mut command = provoked(&scratch);
        command.env("SNAPSHIM_LOG", format!("warn:{}", fifo.display()));
        command
    };
    refused(&run_within(&mut with_log(), Duration::from_secs(20)));
    let mut reader = File::options().read(true).write(true).open(&fifo).unwrap();
    // Another session: there the first run's line is news.
    let mut command = with_log();
    // SAFETY: setsid(2) may be called between fork and exec.
    unsafe { command.pre_exec(|| if libc::setsid() < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }) };
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    refused(&output);
    std::io::Write::write_all(&mut reader, b"end").unwrap();
    let mut found = [0; 16];
    assert_eq!(reader.read(&mut found).unwrap(), 3, "nothing was written there");
}

#[test]
fn a_file_that_becomes_a_fifo_is_no_log_any_more() {
    let natively = run_ok(Scratch::on_tmpfs().native(program("transparency/logs")).arg("replaced log"));
    let scratch = Scratch::on_tmpfs();
    let mut command = scratch.shimmed(program("transparency/logs"), "auto");
    command.arg("replaced log").env("SNAPSHIM_LOG", format!("warn:{}", scratch.file("log").display()));
    let output = run_within(&mut command, Duration::from_secs(20));
    assert_eq!(said(&output), "");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), natively);
}

#[test]
fn standard_error_by_its_path_is_standard_error() {
    for log in ["warn:/dev/stderr", "json:/dev/stderr"] {
        let scratch = Scratch::on_tmpfs();
        let said = said(&run(provoked(&scratch).env("SNAPSHIM_LOG", log)));
        assert!(said.lines().count() == 1 && said.contains(PROVOKED), "{log}: {said}");
    }
}

#[test]
fn a_line_has_a_time() {
    let scratch = Scratch::on_tmpfs();
    let seconds = || run_ok(Command::new("date").arg("+%s")).trim().parse::<i64>().unwrap();
    let before = seconds();
    let line = said(&run(&mut provoked(&scratch)));
    let time = line.strip_prefix("snapshim: ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    assert!(time.len() == "2026-11-30T07:01:04.123Z".len() && time.ends_with('Z'), "{line}");
    let written = run_ok(Command::new("date").args(["-u", "-d", time, "+%s"])).trim().parse::<i64>().unwrap();
    assert!((before..=seconds()).contains(&written), "{line}");
}

/// Runs a script of Python's over what was written, each line an object in `lines`.
fn check_objects(scratch: &Scratch, written: &str, checks: &str) {
    fs::write(scratch.file("written"), written).unwrap();
    let script = format!("import json\nlines = [json.loads(line) for line in open('written')]\n{checks}");
    run_ok(scratch.native("python3").args(["-c", &script]));
}

#[test]
fn lines_are_objects_where_that_is_asked_for() {
    let scratch = Scratch::on_tmpfs();
    let log = scratch.file("log");
    for value in [format!("json:{}", log.display()), format!("info,json:{}", log.display())] {
        let output = run(provoked(&scratch).env("SNAPSHIM_LOG", value).env("SNAPSHIM_PUSH", "a\"b\\"));
        assert_eq!(said(&output), "");
    }
    let checks = format!(
        "assert len(lines) == 3, lines\n\
         assert all(set(line) - {{'file', 'process'}} == {{'time', 'pid', 'program', 'level', 'message'}} for line in lines)\n\
         assert all(line['program'] == 'logs' and line['pid'] > 0 and len(line['time']) == 24 for line in lines)\n\
         assert [line['level'] for line in lines] == ['error', 'warn', 'warn'], lines\n\
         assert 'SNAPSHIM_PUSH=a\"b' in lines[0]['message'], lines\n\
         assert lines[1]['file'].startswith('inode ') and '{PROVOKED}' in lines[1]['message'], lines\n"
    );
    check_objects(&scratch, &fs::read_to_string(log).unwrap(), &checks);
}

/// A name of a program went to the terminal of the user of `snapshim status`, and could end a line of the log.
#[test]
fn control_characters_in_names_are_escaped() {
    let scratch = Scratch::on_tmpfs();
    let log = scratch.file("log");
    let mut command = scratch.shimmed(program("transparency/logs"), "auto");
    command.args(["name", "\x1b[31m\n9 \"x\\"]).env("SNAPSHIM_LOG", format!("json:{}", log.display()));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let mut status = Command::new(root().join("target/release/snapshim"));
    let listed = run_ok(status.arg("status").env("SNAPSHIM_DIR", scratch.table()));
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert!(listed.contains(r#"\x1b[31m\n9 "x\\"#), "{listed}");
    assert!(!listed.contains(|character: char| character.is_control() && character != '\n'), "{listed:?}");
    let checks = "assert len(lines) == 1 and lines[0]['program'] == '\\\\x1b[31m\\\\n9 \"x\\\\\\\\', lines";
    check_objects(&scratch, &fs::read_to_string(log).unwrap(), checks);
}

#[test]
fn a_mistyped_name_is_named_with_the_right_one() {
    let cases = [
        ("SNAPSHIM_FILE", "SNAPSHIM_FILES is one"),
        ("SNAPSHIM_SHAREDFILES", "SNAPSHIM_SHARED_FILES is one"),
        ("SNAPHSIM_LOG", "SNAPSHIM_LOG is one"),
        ("snapshim_dir", "SNAPSHIM_DIR is one"),
        ("SNAPSHIM_ABRACADABRA", "the README lists"),
    ];
    for (name, right) in cases {
        let scratch = Scratch::on_tmpfs();
        let said = said(&run(scratch.shimmed("true", "auto").env(name, "x")));
        assert_eq!(said.lines().count(), 1, "{name}: {said}");
        assert!(said.contains(&format!("{name} is no variable")) && said.contains(right), "{name}: {said}");
    }
    let scratch = Scratch::on_tmpfs();
    let mut all = scratch.shimmed("true", "auto");
    all.envs(cases.map(|(name, _)| (name, "x")));
    let said_of_all = said(&run(&mut all));
    assert_eq!(said_of_all.lines().count(), cases.len(), "{said_of_all}");
    let mut others = scratch.shimmed("true", "auto");
    others.envs([("SNAPSHOT_DIR", "x"), ("SNAPPER_FILES", "x"), ("SNAPSHIM", "x")]);
    assert_eq!(said(&run(&mut others)), "", "names of other programs");
}

#[test]
fn the_programs_of_a_pipeline_say_it_once_between_them() {
    let scratch = Scratch::on_tmpfs();
    let pipeline = "/bin/true | /bin/true | sh -c '/bin/true | /bin/true'; /bin/true";
    let mut command = scratch.shimmed("sh", "auto");
    command.args(["-c", pipeline]).envs([("SNAPSHIM_FILE", "x"), ("SNAPSHIM_PUSH", "sideways")]);
    let found = said(&run(&mut command));
    assert_eq!(found.matches("SNAPSHIM_FILE is no variable").count(), 1, "{found}");
    assert_eq!(found.matches("SNAPSHIM_PUSH=sideways").count(), 1, "{found}");
    assert_eq!(found.lines().count(), 2, "{found}");
    // Other values are news.
    let found = said(&run(command.env("SNAPSHIM_PUSH", "upwards")));
    assert_eq!(found.matches("SNAPSHIM_PUSH=upwards").count(), 1, "{found}");
}

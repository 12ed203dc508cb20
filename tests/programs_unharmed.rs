//! Programs that know nothing of the shim, and those that look closely at other programs, do under it what they do without: the
//! same output, the same exit status. Each is a script `tests/programs/real/unharmed_*.sh`.
//!
//! Shimmed they run twice: alone, and *busy*, where every process they start holds a shared mapping that another process has a
//! snapshot of.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::common::holder::Holder;
use crate::common::{
    DISK, Scratch, are_installed, compile, library, made_programs, run, run_in_this_group, run_within, skip, source,
    text,
};

const SHARED: usize = 4 * 4096;

/// Runs `play` natively, under the shim alone, and busy, each time in an empty directory of the same name.
fn three_times(play: impl Fn(&mut Command) -> Output, by: &str) -> [Output; 3] {
    let scratch = Scratch::on_tmpfs();
    let work = scratch.file("work");
    let begin = |mut command: Command| {
        let _ = fs::remove_dir_all(&work);
        fs::create_dir(&work).unwrap();
        // What is said about programs that cannot be reached (valgrind is a static one) is no output of theirs.
        play(
            command
                .current_dir(&work)
                .env("PROGRAMS", made_programs())
                .env("SOURCES", source("real"))
                .env("SNAPSHIM_LOG", "error"),
        )
    };
    let native = begin(scratch.native(by));
    let alone = begin(scratch.shimmed(by, "auto"));
    let shared = scratch.file("shared");
    fs::write(&shared, [7; SHARED]).unwrap();
    let holder = Holder::start(&scratch, "auto", &shared, "r");
    let preload =
        format!("{}:{}", library().display(), compile("real/unharmed_share", &["-shared", "-fPIC"]).display());
    let mut command = scratch.shimmed(by, "auto");
    command.env("LD_PRELOAD", preload).env("UNHARMED_SHARED", &shared);
    let busy = begin(command);
    assert_ne!(fs::read(&shared).unwrap(), [7; SHARED], "the programs did not share the file");
    holder.finish_exact("busy");
    [native, alone, busy]
}

/// Runs a script three times; `tidy` takes out what differs from run to run. Shells and debuggers hand a terminal on to groups of
/// their own making, and wait for ever if they do not have it themselves.
fn same(script: &str, tidy: impl Fn(&str) -> String) {
    let play = |command: &mut Command| run_in_this_group(command.arg(source(script)), DISK);
    let [native, alone, busy] = three_times(play, "bash");
    for (situation, shimmed) in [("alone", alone), ("busy", busy)] {
        assert_eq!(tidy(&text(&shimmed)), tidy(&text(&native)), "{script}, {situation}");
        assert_eq!(shimmed.status, native.status, "{script}, {situation}: {}", text(&native));
    }
}

/// Addresses and the ids of processes and threads differ from run to run, and so do the blanks that align them.
fn without_numbers(text: &str) -> String {
    let is_passing = |word: &str| word.contains("0x") || word.parse::<u32>().is_ok_and(|number| number > 300);
    let words = |line: &str| {
        let words = line.split_inclusive([' ', '(', ')', '[', ']', ',', ':', '=', '\'']);
        let is_same =
            |word: &&str| *word != " " && !is_passing(word.trim_end_matches(|end: char| !end.is_alphanumeric()));
        words.filter(is_same).collect::<String>()
    };
    text.lines().map(|line| words(line) + "\n").collect()
}

#[test]
fn a_shell_controls_jobs_and_pipelines() {
    if are_installed("a_shell_controls_jobs_and_pipelines", &["bash", "ps"]) {
        same("real/unharmed_jobs.sh", without_numbers);
    }
}

#[test]
fn a_program_is_built_in_parallel() {
    same("real/unharmed_make.sh", str::to_owned);
}

#[test]
fn repositories_are_cloned_and_packed() {
    if are_installed("repositories_are_cloned_and_packed", &["git"]) {
        same("real/unharmed_git.sh", str::to_owned);
    }
}

#[test]
fn a_debugger_debugs() {
    if are_installed("a_debugger_debugs", &["gdb"]) {
        compile("real/unharmed_victim", &[]);
        same("real/unharmed_gdb.sh", gdb_says);
    }
}

/// Without the numbers of threads: the shim's agent is one.
fn gdb_says(text: &str) -> String {
    let is_told = |line: &&str| !line.starts_with("[Switching to Thread");
    let tidy = |line: &str| match line.strip_prefix("Thread ") {
        Some(rest) => rest.trim_start_matches(|digit: char| digit.is_ascii_digit()).to_owned() + "\n",
        None => without_numbers(line),
    };
    text.lines().filter(is_told).map(tidy).collect()
}

#[test]
fn system_calls_are_traced() {
    if are_installed("system_calls_are_traced", &["strace"]) {
        compile("real/unharmed_victim", &[]);
        same("real/unharmed_strace.sh", without_numbers);
    }
}

#[test]
fn valgrind_finds_the_programs_errors_and_no_others() {
    if are_installed("valgrind_finds_the_programs_errors_and_no_others", &["valgrind"]) {
        compile("real/unharmed_victim", &[]);
        compile("real/unharmed_errors", &[]);
        // The shim's frames may stand above the program's where it made a call.
        same("real/unharmed_valgrind.sh", valgrind_says);
    }
}

/// Without process ids, without where in libraries, and without a guess about the stack that traps are resolved on.
fn valgrind_says(text: &str) -> String {
    let is_told = |line: &&str| {
        let passing = ["   at 0x", "   by 0x", "client switching stacks", "to suppress, use: --max-stackframe"];
        !passing.iter().any(|part| line.contains(part)) || line.contains("unharmed_")
    };
    let lines: Vec<_> = text.lines().filter(is_told).collect();
    without_numbers(&lines.join("\n"))
}

#[test]
fn the_address_sanitizer_finds_the_programs_errors_and_no_others() {
    let test = "the_address_sanitizer_finds_the_programs_errors_and_no_others";
    let has_runtime = Command::new("gcc").arg("-print-file-name=libasan.a").output().unwrap();
    if Path::new(text(&has_runtime).trim_end()).is_absolute() {
        same("real/unharmed_address.sh", without_numbers);
    } else {
        skip(test, "gcc has no address sanitizer");
    }
}

/// A Python that has its own tests.
fn python_with_tests(test: &str) -> Option<&'static str> {
    let has_tests = |python: &&str| {
        Command::new(python).args(["-c", "import test.test_mmap"]).output().is_ok_and(|output| output.status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().find(has_tests);
    if found.is_none() {
        skip(test, "no Python has its own tests (Debian: libpython3-testsuite)");
    }
    found
}

/// Runs tests of Python's own: each passes, fails or is skipped as natively.
fn same_tests(test: &str, selection: &[&str]) {
    let Some(python) = python_with_tests(test) else { return };
    let play = |command: &mut Command| {
        let within = Duration::from_secs(1200);
        let said = run_within(command.args(["-m", "test", "--junit-xml", "results"]).args(selection), within);
        let mut list = Command::new(python);
        let directory = command.get_current_dir().unwrap();
        let results = run(list.arg(source("real/unharmed_results.py")).arg(directory.join("results")));
        assert!(results.status.success(), "{}{}", text(&said), text(&results));
        results
    };
    let [native, alone, busy] = three_times(play, python);
    for (situation, shimmed) in [("alone", alone), ("busy", busy)] {
        assert_eq!(text(&shimmed), text(&native), "{selection:?}, {situation}");
    }
}

#[test]
fn python_passes_the_tests_that_it_passes_natively() {
    same_tests("python_passes_the_tests_that_it_passes_natively", &["test_mmap", "test_os"]);
}

#[test]
#[ignore = "some minutes: make soak"]
fn python_passes_all_tests_that_it_passes_natively() {
    for name in ["test_mmap", "test_io", "test_os", "test_subprocess", "test_signal", "test_threading", "test_posix"] {
        same_tests("python_passes_all_tests_that_it_passes_natively", &[name]);
    }
}

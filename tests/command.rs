//! The command: what it prints is what tests/command shows, and what it copies is of one instant.
//!
//! Each page of tests/command is run from its first line to its last in a directory of its own. A line `$ ...` is a command for the
//! shell, what follows is what it prints on both outputs, and `? N` its exit status if that is not 0. `[..]` stands for anything
//! within a line, a line `...` for any lines. `needs: root` in a page is what it cannot be run without.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::holder::Holder;
use crate::common::stamps::{Rewriter, Writer};
use crate::common::{
    Scratch, command, library, program, root, run, run_ok, run_within, skip, source, text, wait_until,
};

/// One command of a page.
struct Step<'a> {
    command: String,
    /// In whose place what it prints now can be put.
    lines: Vec<&'a str>,
    status: i32,
}

/// The commands in the blocks that show a console.
fn steps(page: &str) -> Vec<Step<'_>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_inside = false;
    for line in page.lines() {
        if line.starts_with("```") {
            is_inside = line == "```console";
        } else if !is_inside {
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command: command.to_owned(), lines: Vec::new(), status: 0 });
        } else if let Some(more) = line.strip_prefix("> ") {
            let step = steps.last_mut().expect("a command goes on");
            step.command += &format!("\n{more}");
        } else if let Some(status) = line.strip_prefix("? ") {
            steps.last_mut().expect("a status is of a command").status = status.parse().unwrap();
        } else {
            steps.last_mut().expect("lines are of a command").lines.push(line);
        }
    }
    // A block may end with an empty line, and one may stand between two commands.
    for step in &mut steps {
        let shown = step.lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
        step.lines.truncate(shown);
    }
    steps
}

/// Whether a line is as a page has it.
fn is_line(line: &str, pattern: &str) -> bool {
    let mut parts = pattern.split("[..]");
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap()) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

/// Whether lines are as a page has them.
fn are_lines(lines: &[&str], patterns: &[&str]) -> bool {
    match (lines, patterns) {
        ([], []) => true,
        (_, ["...", rest @ ..]) => (0..=lines.len()).any(|skipped| are_lines(&lines[skipped..], rest)),
        ([line, lines @ ..], [pattern, rest @ ..]) => is_line(line, pattern) && are_lines(lines, rest),
        _ => false,
    }
}

#[test]
fn a_page_is_compared_line_by_line() {
    assert!(is_line("a 12 b 3", "a [..] b [..]") && is_line("a", "a") && is_line("ab", "[..]b"));
    assert!(!is_line("a 12 c", "a [..] b") && !is_line("ab", "a") && !is_line("aXbY", "a[..]b"));
    assert!(are_lines(&["a", "x", "y", "b"], &["a", "...", "b"]) && are_lines(&["a"], &["a", "..."]));
    assert!(!are_lines(&["a", "b"], &["a"]) && !are_lines(&["a"], &["a", "b"]) && !are_lines(&["a"], &["...", "b"]));
}

/// Runs a page; what differs.
fn run_page(path: &Path) -> Vec<String> {
    let page = fs::read_to_string(path).unwrap();
    let name = path.file_stem().unwrap().to_str().unwrap();
    if page.contains("needs: root") && !rustix::process::geteuid().is_root() {
        println!("SKIPPED {name}: it needs root");
        return Vec::new();
    }
    let scratch = Scratch::new(&root().join("target/scratch"));
    let mut differences = Vec::new();
    for step in steps(&page) {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("exec 2>&1; {}", step.command)).current_dir(&scratch.path).stdin(Stdio::null());
        let path = format!("{}:{}", command().parent().unwrap().display(), std::env::var("PATH").unwrap());
        shell.env("PATH", path).env("SNAPSHIM_DIR", scratch.table()).env("LC_ALL", "C");
        shell.env("HOLD_SHARED", program("command/hold_shared")).env("SNAPSHIM_TIMEOUT_MS", "20000");
        shell.env("REFUSE", program("command/refuse"));
        shell.env("LIBRARY", library()).env("LOOK", program("common/look"));
        let output = run_within(&mut shell, Duration::from_secs(100));
        let printed = String::from_utf8_lossy(&output.stdout).replace(scratch.path.to_str().unwrap(), "[SCRATCH]");
        let status = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap());
        let is_as_shown = status == step.status && are_lines(&printed.lines().collect::<Vec<_>>(), &step.lines);
        if !is_as_shown {
            let shown = step.lines.join("\n");
            differences.push(format!(
                "{name}.md: $ {}\n--- shown ({}):\n{shown}\n--- is ({status}):\n{printed}",
                step.command, step.status
            ));
        }
    }
    // What a page leaves running in the background says so in a file.
    for entry in fs::read_dir(&scratch.path).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.extension().is_some_and(|extension| extension == "pid") {
            run(Command::new("kill").arg("-9").arg(fs::read_to_string(&entry).unwrap().trim()));
        }
    }
    differences
}

#[test]
fn what_is_printed_is_what_the_pages_show() {
    let mut pages: Vec<PathBuf> =
        fs::read_dir(root().join("tests/command")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    let chosen = std::env::var("PAGE").unwrap_or_default();
    pages.retain(|page| page.to_str().unwrap().contains(&chosen));
    let differences: Vec<String> = pages.iter().flat_map(|page| run_page(page)).collect();
    assert!(!pages.is_empty() && differences.is_empty(), "{}", differences.join("\n\n"));
}

fn check(scratch: &Scratch, blocks: &str, files: &[&str]) -> u64 {
    let last = run_ok(scratch.native(program("command/stamps")).args(["check", blocks]).args(files));
    last.trim().parse().unwrap()
}

/// 256 MiB, of which each block that the writer touches is copied before.
#[test]
fn a_copy_of_a_file_that_is_written_is_of_one_instant() {
    const BLOCKS: &str = "65536";
    let scratch = Scratch::on_tmpfs();
    let writer = Writer::start(&scratch, BLOCKS, &["file"]);
    for round in 0..3 {
        run_ok(scratch.snapshim().args(["cp", "file", "copy"]));
        let last = check(&scratch, BLOCKS, &["copy"]);
        println!("round {round}: the copy is of write {last}");
    }
    let piped = run_ok(
        Command::new("sh")
            .arg("-c")
            .arg("\"$0\" cat file >piped")
            .arg(command())
            .envs([("SNAPSHIM_DIR", scratch.table().as_os_str())])
            .current_dir(&scratch.path),
    );
    assert_eq!(piped, "");
    check(&scratch, BLOCKS, &["piped"]);
    println!("the writer wrote {} blocks a second", writer.end());
}

/// A database and its log, for one: what was written first into one file and then into the other is never the other way round.
#[test]
fn copies_of_several_files_are_of_one_instant() {
    const BLOCKS: &str = "2048";
    const FILES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let scratch = Scratch::on_tmpfs();
    fs::create_dir(scratch.file("live")).unwrap();
    let live = FILES.map(|name| format!("live/{name}"));
    let writer = Writer::start(&scratch, BLOCKS, &live.each_ref().map(String::as_str));
    for round in 0..5 {
        run_ok(scratch.snapshim().args(["cp", "-r", "live", &format!("copy{round}")]));
        let copies = FILES.map(|name| format!("copy{round}/{name}"));
        println!("round {round}: of write {}", check(&scratch, BLOCKS, &copies.each_ref().map(String::as_str)));
    }
    println!("the writer wrote {} blocks a second", writer.end());
}

/// Its snapshots leave the file at each truncation, slice by slice, while the copy gives them back from the other end: the mapping
/// of a slice that the agent has joined to another was once left as one that is being changed, which is taken for damage.
#[test]
fn copies_of_a_file_that_is_truncated_are_of_one_instant() {
    let scratch = Scratch::on_tmpfs();
    let writer = Rewriter::start(&scratch, "600", "file");
    for _ in 0..60 {
        run_ok(scratch.snapshim().args(["cp", "file", "copy"]));
        run_ok(scratch.native(program("command/rewrite")).args(["check", "copy"]));
    }
    writer.end();
}

/// The copy is stopped where all its directories are made, which is after the instant, and no name of the others is.
#[test]
fn links_and_attributes_are_as_they_were_listed() {
    let scratch = Scratch::on_tmpfs();
    let directory = scratch.file("live/in");
    fs::create_dir_all(&directory).unwrap();
    symlink("old", scratch.file("live/link")).unwrap();
    let mark = |value: &[u8]| {
        rustix::fs::setxattr(directory.to_str().unwrap(), "user.mark", value, rustix::fs::XattrFlags::empty())
    };
    if mark(b"old").is_err() {
        return skip("links_and_attributes_are_as_they_were_listed", "no attributes of users here");
    }
    // Bytes that take a while.
    fs::write(scratch.file("live/file"), vec![7; 512 << 20]).unwrap();
    let mut copy = scratch.snapshim().args(["cp", "-r", "live", "copy"]).spawn().unwrap();
    while !scratch.file("copy/in").exists() {
        assert!(copy.try_wait().unwrap().is_none(), "the copy has ended early");
    }
    // SAFETY: kill(2) of our own child, which has not been waited for.
    unsafe { libc::kill(copy.id() as i32, libc::SIGSTOP) };
    fs::remove_file(scratch.file("live/link")).unwrap();
    symlink("new", scratch.file("live/link")).unwrap();
    mark(b"new").unwrap();
    assert!(fs::symlink_metadata(scratch.file("copy/link")).is_err(), "this test came too late");
    // SAFETY: as above.
    unsafe { libc::kill(copy.id() as i32, libc::SIGCONT) };
    assert!(copy.wait().unwrap().success());
    assert_eq!(fs::read_link(scratch.file("copy/link")).unwrap(), Path::new("old"));
    let mut value = [0; 3];
    assert_eq!(rustix::fs::getxattr(scratch.file("copy/in").to_str().unwrap(), "user.mark", &mut value), Ok(3));
    assert_eq!(&value, b"old");
}

/// A process with many snapshots has a long memory map: it is read once, not once for each of them.
#[test]
fn a_look_reads_the_memory_map_of_a_mapper_once() {
    const PROGRAM: &str = "import mmap, sys\nfile = open('file')\n\
        held = [mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE | 0x01000000, mmap.PROT_READ) for _ in range(50)]\n\
        print('ready', flush=True)\nsys.stdin.read()";
    const TEST: &str = "a_look_reads_the_memory_map_of_a_mapper_once";
    if run(Command::new("sh").args(["-c", "command -v strace"])).stdout.is_empty() {
        return skip(TEST, "strace is not installed");
    }
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("file"), [1; 4096]).unwrap();
    let holder = Holder::run(scratch.shimmed("python3", "auto").args(["-c", PROGRAM]));
    let maps = format!("\"/proc/{}/maps\"", holder.pid());
    let mut look = Command::new("strace");
    look.args(["-e", "trace=open,openat", "-o", "calls"]).arg(command()).args(["status", "--json"]);
    let seen = run_ok(look.env("SNAPSHIM_DIR", scratch.table()).current_dir(&scratch.path));
    assert_eq!(seen.matches("\"program\":\"python3\"").count(), 51, "{seen}");
    let calls = fs::read_to_string(scratch.file("calls")).unwrap();
    assert_eq!(calls.matches(&maps).count(), 1, "{calls}");
    holder.finish();
}

/// Ends before it has put anything in place.
#[test]
fn an_interrupted_copy_leaves_nothing() {
    let scratch = Scratch::on_tmpfs();
    run_ok(scratch.native("dd").args(["if=/dev/urandom", "of=file", "bs=1M", "count=200", "status=none"]));
    let mut attempts = 0;
    loop {
        attempts += 1;
        let mut cp = scratch.snapshim();
        let child = cp.args(["cp", "file", "copy"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        // The target has no name: only the descriptor shows it.
        let is_writing = || {
            let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
            let mut names = links.filter_map(|link| link.to_str().map(str::to_owned));
            // With the slash: a table in the making has no name either, in a directory whose name begins the same.
            let directory = format!("{}/", scratch.path.display());
            names.any(|name| name.starts_with(&directory) && name.ends_with("(deleted)"))
        };
        let is_over = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
        wait_until("a copy under way", || is_writing() || is_over());
        // SAFETY: kill(2) of our own child, which has not been waited for.
        unsafe { libc::kill(pid as i32, libc::SIGINT) };
        let output = child.wait_with_output().unwrap();
        if output.status.success() && attempts < 20 {
            fs::remove_file(scratch.file("copy")).unwrap();
            continue;
        }
        assert_eq!(output.status.signal(), Some(libc::SIGINT), "{}", text(&output));
        assert!(text(&output).contains("error: interrupted; nothing was left behind"), "{}", text(&output));
        let left: Vec<_> = fs::read_dir(&scratch.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["file"]);
        return;
    }
}

/// It shows what is held, and is no harm to the terminal, however it ends.
#[test]
fn top_leaves_the_terminal_as_it_was() {
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("held.db"), [1; 1 << 16]).unwrap();
    let _holder = Holder::start(&scratch, "auto", &scratch.file("held.db"), "r");
    for (end, status) in [("q", 0), ("\x1b", 0), ("\x03", 0), ("SIGTERM", -libc::SIGTERM)] {
        let mut terminal = Command::new("python3");
        terminal.arg(source("command/terminal.py")).args(["held.db", end]).arg(command()).arg("top");
        terminal.env("SNAPSHIM_DIR", scratch.table()).stdin(Stdio::null());
        assert_eq!(run_ok(&mut terminal), format!("seen status {status}, the terminal is as it was\n"), "{end:?}");
    }
}

#[test]
fn pages_and_help_say_what_may_be_repeated_and_where_completions_are() {
    let scratch = Scratch::on_tmpfs();
    run_ok(Command::new(command()).arg("generate").arg(scratch.file("pages")));
    let synopsis = |page: &str| {
        let page = fs::read_to_string(scratch.file("pages/man").join(page)).unwrap();
        page.lines()
            .skip_while(|line| *line != ".SH SYNOPSIS")
            .nth(1)
            .unwrap()
            .trim_end()
            .replace("\\fI", "")
            .replace("\\fR", "")
    };
    assert!(synopsis("snapshim-cp.1").ends_with(" <SRC>... <DEST>"), "{}", synopsis("snapshim-cp.1"));
    assert!(
        synopsis("snapshim-freeze.1").ends_with(" <DIR|FILE>... \\-\\- <CMD>..."),
        "{}",
        synopsis("snapshim-freeze.1")
    );
    assert!(synopsis("snapshim-drop.1").ends_with(" [ID]..."), "{}", synopsis("snapshim-drop.1"));
    assert!(synopsis("snapshim-run.1").contains("\\-\\-keep]... "), "{}", synopsis("snapshim-run.1"));
    let help = run_ok(Command::new(command()).arg("--help"));
    assert!(help.contains("Completions for bash, zsh and fish") && help.contains("snapshim generate DIR"), "{help}");
}

#[test]
fn what_make_installs_works_without_cargo_and_is_taken_away_again() {
    let scratch = Scratch::on_tmpfs();
    run_ok(Command::new(command()).arg("generate").arg(scratch.file("pages")));
    let make = |target: &str| {
        let mut make = Command::new("make");
        make.current_dir(root()).arg(target).arg("CARGO=false").env_remove("MAKEFLAGS");
        make.arg(format!("DESTDIR={}", scratch.file("root").display()));
        make.arg(format!("PAGES={}", scratch.file("pages").display()));
        run_ok(&mut make)
    };
    make("install");
    let installed = scratch.file("root/usr/local");
    let wanted = [
        "bin/snapshim",
        "lib/libsnapshim.so",
        "include/snapshim.h",
        "share/man/man1/snapshim.1",
        "share/man/man1/snapshim-cp.1",
        "share/bash-completion/completions/snapshim",
        "share/zsh/site-functions/_snapshim",
        "share/fish/vendor_completions.d/snapshim.fish",
    ];
    wanted.iter().for_each(|name| assert!(installed.join(name).is_file(), "{name}"));
    fs::write(scratch.file("file"), "bytes").unwrap();
    let mut cp = Command::new(installed.join("bin/snapshim"));
    cp.args(["cp", "file", "copy"]).env("SNAPSHIM_DIR", scratch.table()).current_dir(&scratch.path);
    run_ok(&mut cp);
    assert_eq!(fs::read_to_string(scratch.file("copy")).unwrap(), "bytes");
    make("uninstall");
    let left = run_ok(Command::new("find").arg(scratch.file("root")).args(["-type", "f"]));
    assert_eq!(left, "");
}

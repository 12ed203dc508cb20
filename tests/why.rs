//! A snapshot that is not exact says why, in the words of the log: to its program, and to `snapshim status`, which knows what its
//! file was called and how old it is.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::holder::Holder;
use crate::common::{Scratch, command, compile, program, run, run_ok, skip, text, wait_until};

const SIZE: usize = 64 * 4096;

/// A program that holds a snapshot of `file`, and looks in the end until that is doubtful; its log goes to the file `log`.
fn hold(scratch: &Scratch, file: &Path, variables: &[(&str, &str)]) -> Holder {
    let log = fs::File::create(scratch.file("log")).unwrap();
    let mut command = scratch.shimmed(program("common/hold"), "auto");
    command.arg(file).args(["r", &SIZE.to_string(), "doubtful"]).envs(variables.iter().copied());
    Holder::run(command.stderr(Stdio::from(log)))
}

fn victim(scratch: &Scratch) -> std::path::PathBuf {
    let victim = scratch.file("victim");
    fs::write(&victim, vec![b'o'; SIZE]).unwrap();
    victim
}

fn why(found: &str) -> &str {
    found.lines().find_map(|line| line.strip_prefix("why=")).unwrap_or_else(|| panic!("no reason: {found}"))
}

fn status(scratch: &Scratch, arguments: &[&str]) -> String {
    run_ok(Command::new(command()).arg("status").args(arguments).env("SNAPSHIM_DIR", scratch.table()))
}

/// The values of a field of a JSON text, none of which holds a comma or a brace.
fn fields<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let key = format!("\"{name}\":");
    text.split(&key).skip(1).filter_map(|rest| rest.split([',', '}']).next()).collect()
}

fn ages(text: &str) -> Vec<f64> {
    fields(text, "age_seconds").into_iter().map(|age| age.parse().unwrap()).collect()
}

#[test]
fn a_foreign_change_is_told_as_the_log_tells_it() {
    let program = compile("foreign/change", &["-static"]);
    for (verb, deed) in [("write", "changed the file without the shim"), ("cut", "truncated the file without the shim")]
    {
        let scratch = Scratch::on_tmpfs();
        let holder = hold(&scratch, &victim(&scratch), &[]);
        run_ok(scratch.shimmed(&program, "auto").args(["victim", verb]));
        let log = || fs::read_to_string(scratch.file("log")).unwrap();
        wait_until("a line of the log", || log().contains("is doubtful"));
        let said = status(&scratch, &[]);
        let found = holder.finish();
        let told = why(&found);
        assert!(told.starts_with("something ") && told.contains(deed), "{verb}: {found}");
        assert!(told.contains("; run every program that writes it under the shim"), "{verb}: {found}");
        // A program that has ended meanwhile is not suspected any more.
        for part in [deed, "; run every program that writes it under the shim, on the same table"] {
            assert!(log().contains(part) && said.contains(part), "{verb}: {part}: {said}{}", log());
        }
    }
}

#[test]
fn what_the_table_does_not_vouch_for_from_the_start_is_told() {
    let test = "what_the_table_does_not_vouch_for_from_the_start_is_told";
    let scratch = Scratch::on_tmpfs();
    let place = scratch.file("ramfs");
    fs::create_dir(&place).unwrap();
    let mounted = Command::new("mount").args(["-t", "ramfs", "none"]).arg(&place).output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        return skip(test, "no ramfs can be mounted");
    }
    let file = place.join("file");
    fs::write(&file, vec![b'o'; SIZE]).unwrap();
    let mut refused = scratch.shimmed(program("common/hold"), "auto");
    let refused = text(&run(refused.arg(&file).args(["r", &SIZE.to_string()]).stdin(Stdio::null())));
    let found = hold(&scratch, &file, &[("SNAPSHIM_ANYFS", "1")]).finish();
    let unmounted = Command::new("umount").arg(&place).status();
    assert!(unmounted.unwrap().success());
    let rest = "can change without a system call here; copy the file, or keep it on ext4";
    assert!(why(&found).starts_with("files on its file system ") && why(&found).contains(rest), "{found}");
    assert!(refused.contains(rest), "{refused}");
}

#[test]
fn an_exact_snapshot_has_nothing_to_say_and_what_is_none_is_refused() {
    let scratch = Scratch::on_tmpfs();
    victim(&scratch);
    run_ok(scratch.shimmed(program("mapping/why"), "auto").arg("victim"));
}

/// The mapping has left the file, so the kernel does not name it any more.
#[test]
fn status_knows_the_age_and_the_name_of_a_snapshot_whose_file_was_renamed_or_left() {
    let scratch = Scratch::on_tmpfs();
    let file = victim(&scratch);
    let started = Instant::now();
    let holder = Holder::start(&scratch, "auto", &file, "r");
    std::thread::sleep(Duration::from_millis(1100));
    fs::rename(&file, scratch.file("renamed")).unwrap();
    let look = || status(&scratch, &["--json"]);
    let found = look();
    let (named, renamed) = (file.to_str().unwrap(), scratch.file("renamed"));
    assert_eq!(fields(&found, "taken_as"), [format!("\"{named}\"")], "{found}");
    assert_eq!(fields(&found, "file"), [format!("\"{}\"", renamed.display())], "{found}");
    let ages = ages(&found);
    assert!(ages.len() == 1 && (1.0..=started.elapsed().as_secs_f64()).contains(&ages[0]), "{found}");

    run_ok(scratch.shimmed("sh", "auto").args(["-c", ": >renamed"]));
    let found = look();
    assert_eq!(fields(&found, "taken_as"), [format!("\"{named}\"")], "{found}");
    assert_eq!(fields(&found, "file"), [format!("\"{named}\"")], "{found}");
    let said = status(&scratch, &[]);
    let line = said.lines().find(|line| line.contains(named)).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains(" exact ") && line.contains(" s "), "{said}");
    holder.finish_exact("it was left");
}

/// A child's snapshots are as old as its parent's.
#[test]
fn what_a_child_inherits_keeps_its_age() {
    let scratch = Scratch::on_tmpfs();
    let file = victim(&scratch);
    let mut command = scratch.shimmed(program("lifecycle/fork_beside"), "auto");
    let mut child = command.arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut await_line = |wanted: &str| {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_eq!(line, wanted);
    };
    await_line("ready\n");
    std::thread::sleep(Duration::from_millis(1100));
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"f").unwrap();
    await_line("forked\n");
    let found = status(&scratch, &["--json"]);
    let ages = ages(&found);
    assert!(ages.len() == 2 && ages.iter().all(|age| *age >= 1.0), "{found}");
    drop(input);
    child.wait().unwrap();
}

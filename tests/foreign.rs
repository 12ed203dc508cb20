//! Changes by programs without the shim make a snapshot doubtful, and the log says where; changes by cooperating ones, and foreign
//! ones of attributes only, never do.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::common::holder::Holder;
use crate::common::{
    DISK, Scratch, WAYS, compile, is_installed, program, run, run_ok, run_within, scratches, skip, text, wait_until,
};
use snapshim::protocol::origin::Origin;

const SIZE: usize = 200_000;

fn lay(scratch: &Scratch) {
    fs::write(scratch.file("victim"), vec![b'o'; SIZE]).unwrap();
}

/// A program that holds a snapshot of `victim` and logs into the file `log`.
fn hold(scratch: &Scratch) -> Holder {
    hold_with(scratch, &[], |_| ())
}

/// The same, that looks again and again in the end, until its snapshot is doubtful.
fn hold_to_be_doubtful(scratch: &Scratch) -> Holder {
    hold_with(scratch, &["doubtful"], |_| ())
}

fn hold_with(scratch: &Scratch, how: &[&str], change: impl Fn(&mut Command)) -> Holder {
    let log = File::create(scratch.file("log")).unwrap();
    let mut command = scratch.shimmed(program("common/hold"), "auto");
    command.arg("victim").args(["r", &SIZE.to_string()]).args(how).stderr(Stdio::from(log));
    change(&mut command);
    Holder::run(&mut command)
}

fn log(scratch: &Scratch) -> String {
    fs::read_to_string(scratch.file("log")).unwrap()
}

fn foreign(scratch: &Scratch, verb: &str) {
    let program = compile("foreign/change", &["-static"]);
    run_ok(scratch.shimmed(program, "auto").args(["victim", verb]));
}

fn assert_named_once(scratch: &Scratch, about: &str) {
    let log = log(scratch);
    let victim = scratch.file("victim");
    assert!(log.contains(victim.to_str().unwrap()) && log.contains("(hold)"), "{about}: {log}");
    assert!(log.contains("run every program that writes it under the shim"), "{about}: {log}");
    assert_eq!(log.matches("is doubtful").count(), 1, "{about}: {log}");
}

#[test]
fn a_write_by_a_program_without_the_shim_makes_the_snapshot_doubtful_and_is_said_once() {
    for scratch in scratches() {
        for verb in ["write", "cut"] {
            lay(&scratch);
            let holder = hold_to_be_doubtful(&scratch);
            foreign(&scratch, verb);
            let found = holder.finish();
            let about = format!("{verb}, {}", scratch.path.display());
            // Cut off by another process, it cannot even be compared.
            assert!(found.contains("state=1 "), "{about}: {found}");
            assert_named_once(&scratch, &about);
            let cause =
                if verb == "cut" { ("truncated the file", "cause=2\n") } else { ("changed the file", "cause=1\n") };
            assert!(log(&scratch).contains(cause.0) && found.contains(cause.1), "{about}: {found}{}", log(&scratch));
        }
    }
}

/// What the table has, as a person is told.
fn status(scratch: &Scratch) -> String {
    let mut command = Command::new(crate::common::root().join("target/release/snapshim"));
    run_ok(command.arg("status").env("SNAPSHIM_DIR", scratch.table()))
}

#[test]
fn a_program_that_was_executed_without_the_library_is_suspected_as_long_as_it_runs() {
    let scratch = Scratch::on_tmpfs();
    let linger = compile("foreign/linger", &["-static"]);
    for runs_on in [true, false] {
        lay(&scratch);
        let holder = hold_to_be_doubtful(&scratch);
        let mut shell = scratch.shimmed("sh", "auto");
        shell.env("SNAPSHIM_LOG", "off").arg("-c").arg(format!("echo >> other; {} victim; :", linger.display()));
        let lingers = Holder::run(&mut shell);
        let told = status(&scratch);
        let line = told.lines().find(|line| line.contains("linger")).unwrap_or_else(|| panic!("{told}"));
        assert!(line.contains(" alive ") && line.contains("it is statically linked"), "{told}");
        if !runs_on {
            assert_eq!(lingers.finish(), "");
            holder.finish();
            assert!(log(&scratch).contains("something changed the file"), "{}", log(&scratch));
            assert!(status(&scratch).contains(" ended "), "{}", status(&scratch));
            continue;
        }
        assert!(holder.finish().contains("state=1 "));
        let log = log(&scratch);
        assert!(log.contains("something (perhaps process ") && log.contains("statically linked) changed"), "{log}");
        lingers.finish();
    }
}

/// An agent was blamed that had done what could be done.
#[test]
fn a_foreign_truncation_is_what_a_writer_names_who_meets_it() {
    let policies = ["break-snapshot", "fail-write"];
    let changes = ["printf new | dd of=victim bs=4096 seek=20 conv=notrunc status=none", ": >victim"];
    for (scratch, way) in scratches().iter().flat_map(|scratch| WAYS.map(|way| (scratch, way))) {
        for (policy, change) in policies.iter().flat_map(|policy| changes.map(|change| (policy, change))) {
            let about = format!("{way}, {policy}, {change}, {}", scratch.path.display());
            lay(scratch);
            let holder = hold(scratch);
            foreign(scratch, "cut");
            let output = run(scratch.shimmed("sh", way).env("SNAPSHIM_ON_FAILURE", policy).args(["-c", change]));
            let said = text(&output);
            assert!(
                output.status.success() && said.contains("a program without the shim has truncated the file"),
                "{about}: {said}"
            );
            assert!(!said.contains("agent") && !said.contains("fail-write"), "{about}: {said}");
            assert!(status(scratch).contains("broken") && status(scratch).contains("truncated the file"), "{about}");
            let found = holder.finish();
            assert!(found.contains("state=2 ") && found.contains("cause=2\n"), "{about}: {found}");
            assert!(found.contains("pages of the snapshot are gone with that; run every program"), "{about}: {found}");
        }
    }
}

/// A look that found the counts moved on took the truncation for a cooperating one.
#[test]
fn a_cooperating_write_hides_no_foreign_truncation() {
    for scratch in scratches() {
        lay(&scratch);
        let holder = hold_to_be_doubtful(&scratch);
        // SAFETY: kill(2) of our own child, which has not been waited for.
        unsafe { libc::kill(holder.pid() as i32, libc::SIGSTOP) };
        foreign(&scratch, "cut");
        run_ok(scratch.shimmed("sh", "direct").args(["-c", "printf new | dd of=victim conv=notrunc status=none"]));
        // SAFETY: as above.
        unsafe { libc::kill(holder.pid() as i32, libc::SIGCONT) };
        let found = holder.finish();
        assert!(found.contains("state=1 ") && found.contains("cause=2\n"), "{}: {found}", scratch.path.display());
    }
}

/// A program that nothing was loaded into.
fn foreign_mapper(scratch: &Scratch) -> Command {
    scratch.native(compile("foreign/mapper", &["-static"]))
}

fn assert_mapping_named(scratch: &Scratch, found: &str, pid: u32) {
    let said = log(scratch);
    let about = format!("{}: {found}{said}", scratch.path.display());
    assert!(found.contains("state=1 ") && found.contains("cause=4\n"), "{about}");
    assert!(found.contains("has it mapped shared and writable without the shim"), "{about}");
    assert!(said.contains(&format!("process {pid} (")) && said.contains("mapped shared and writable"), "{about}");
    assert_eq!(said.matches("doubtful from now on").count(), 1, "{about}");
}

/// Its stores were shown, and the snapshot was called exact.
#[test]
fn a_program_without_the_shim_that_has_the_file_mapped_is_named_at_once() {
    for (scratch, how) in scratches().iter().flat_map(|scratch| ["mmap", "leaderless"].map(|how| (scratch, how))) {
        lay(scratch);
        let mapper = stores(scratch, foreign_mapper(scratch), "victim", how);
        // Looks once, right behind the making.
        let found = hold(scratch).finish();
        assert_mapping_named(scratch, &found, mapper.id());
    }
}

#[test]
fn a_program_without_the_shim_that_maps_the_file_later_is_named() {
    for scratch in scratches() {
        lay(&scratch);
        let holder = hold_to_be_doubtful(&scratch);
        let mapper = stores(&scratch, foreign_mapper(&scratch), "victim", "mmap");
        let found = holder.finish();
        assert_mapping_named(&scratch, &found, mapper.id());
        assert!(!status(&scratch).contains("exact"));
    }
}

/// As Go's runtime does, in a program that writes through libc as well.
#[test]
fn a_cooperating_program_that_maps_the_file_past_the_hooks_is_named() {
    for scratch in scratches() {
        lay(&scratch);
        let cooperating = scratch.shimmed(program("foreign/mapper"), "auto");
        let mapper = stores(&scratch, cooperating, "victim", "raw");
        let found = hold(&scratch).finish();
        assert_mapping_named(&scratch, &found, mapper.id());
    }
}

#[test]
fn mappings_by_libc_that_come_and_go_raise_no_doubt() {
    for scratch in scratches() {
        let output = run_within(scratch.shimmed(program("foreign/maps_none"), "auto").arg("victim"), DISK);
        assert_eq!(text(&output), "exact\n", "{}", scratch.path.display());
    }
}

#[test]
fn a_program_that_was_started_without_the_shim_is_found_too() {
    for scratch in scratches() {
        lay(&scratch);
        let holder = hold_to_be_doubtful(&scratch);
        run_ok(scratch.native("sh").args(["-c", "echo foreign >>victim"]));
        assert!(holder.finish().contains("state=1 "));
        assert_named_once(&scratch, "sh");
    }
}

/// The kernel's notices name a program that lives, even where a cooperating change hides it from the file's times.
#[test]
fn a_program_that_still_runs_is_named_where_the_kernel_gives_notices() {
    const TEST: &str = "a_program_that_still_runs_is_named_where_the_kernel_gives_notices";
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        return skip(TEST, "fanotify with the writer's pid needs root");
    }
    let scratch = Scratch::new(&crate::common::root().join("target/scratch"));
    lay(&scratch);
    let holder = hold_with(&scratch, &["doubtful"], |command| {
        command.env("SNAPSHIM_FANOTIFY", "1");
    });
    // Cooperating, some of them dead by the time the notice is read.
    run_ok(
        scratch.shimmed("sh", "auto").args(["-c", "echo ours >>victim; sleep 0.1 >>victim & echo ours >>victim; wait"]),
    );
    // One name all the time, whenever a process looks.
    let script = "exec 3>>victim; echo foreign >&3; read line";
    let mut culprit = scratch.native("sh").args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap();
    while !fs::read(scratch.file("victim")).unwrap().ends_with(b"foreign\n") {
        std::thread::yield_now();
    }
    run_ok(scratch.shimmed("sh", "auto").args(["-c", "echo ours >>victim"]));
    let found = holder.finish();
    let said = log(&scratch);
    culprit.kill().unwrap();
    culprit.wait().unwrap();
    assert!(found.contains("state=1 "), "{found}");
    assert!(said.contains(&format!("process {} (sh) changed the file", culprit.id())), "{said}");
}

/// The agent looks by itself.
#[test]
fn it_is_said_while_the_snapshot_is_held() {
    let scratch = Scratch::on_tmpfs();
    lay(&scratch);
    let holder = hold(&scratch);
    foreign(&scratch, "write");
    wait_until("a doubt", || log(&scratch).contains("is doubtful"));
    assert!(holder.finish().contains("state=1 "));
    assert_named_once(&scratch, "agent");
}

#[test]
fn changes_of_attributes_by_a_program_without_the_shim_raise_no_doubt() {
    for scratch in scratches() {
        lay(&scratch);
        let holder = hold(&scratch);
        foreign(&scratch, "attributes");
        holder.finish_exact("attributes");
        assert_eq!(log(&scratch), "");
    }
}

#[test]
fn thousands_of_cooperating_changes_raise_no_doubt_and_one_foreign_change_after_them_does() {
    for scratch in scratches() {
        let output = run_within(scratch.shimmed(program("foreign/none"), "auto").arg(scratch.file("victim")), DISK);
        let found = text(&output);
        assert!(found.starts_with("exact until the foreign one\n"), "{}: {found}", scratch.path.display());
        assert_eq!(found.matches("is doubtful").count(), 1, "{found}");
    }
}

#[test]
fn programs_that_set_times_raise_no_doubt() {
    let python = run_ok(Command::new("python3").args(["-c", "import sys; print(sys.executable)"]));
    let python = python.trim_end();
    let cases: [(&str, &[&str]); 7] = [
        ("cp", &["-p", "new", "victim"]),
        ("touch", &["-d", "2001-02-03", "victim"]),
        ("tar", &["-xf", "archive", "--overwrite"]),
        ("rsync", &["-a", "--inplace", "--ignore-times", "new", "victim"]),
        ("sqlite3", &["base", "insert into t values (2); delete from t; vacuum"]),
        ("perl", &["-e", "utime(1, 2, 'victim') == 1 or die; truncate('victim', 5) or die"]),
        (python, &["-c", "import os, shutil; os.utime('victim', (0, 0)); shutil.copy2('new', 'victim')"]),
    ];
    for scratch in scratches() {
        for (writer, arguments) in &cases {
            if !is_installed(writer) {
                skip("programs_that_set_times_raise_no_doubt", &format!("{writer} is not installed"));
                continue;
            }
            lay(&scratch);
            fs::write(scratch.file("new"), vec![b'n'; SIZE / 2]).unwrap();
            run_ok(scratch.native("tar").args(["-cf", "archive", "victim"]));
            let _ = fs::remove_file(scratch.file("base"));
            if *writer == "sqlite3" {
                run_ok(scratch.native("sqlite3").args(["base", "create table t(a); insert into t values (1)"]));
            }
            let held = if *writer == "sqlite3" { "base" } else { "victim" };
            let holder = Holder::start(&scratch, "auto", &scratch.file(held), "r");
            run_ok(scratch.shimmed(writer, "auto").args(*arguments));
            holder.finish_exact(&format!("{writer}, {}", scratch.path.display()));
        }
    }
}

#[test]
fn an_application_that_closes_every_descriptor_loses_the_detection_and_nothing_else() {
    let scratch = Scratch::on_tmpfs();
    lay(&scratch);
    let script = "
import ctypes, mmap, os, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
fd = os.open('victim', os.O_RDONLY)
at, looked_at = (libc.mmap(None, 200000, 1, 0x01000002, fd, 0) for _ in range(2))
for open_descriptor in os.listdir('/proc/self/fd'):
    if int(open_descriptor) > 2:
        try: os.close(int(open_descriptor))
        except OSError: pass
taken = [os.open('/dev/null', os.O_RDONLY)]
for number in range(3, 1024):
    os.dup2(taken[0], number)
assert libc.munmap(ctypes.c_void_p(looked_at), 200000) == 0
other = os.open('victim', os.O_WRONLY)
os.pwrite(other, b'n' * 100, 0)
assert ctypes.string_at(at, 200000) == b'o' * 200000
assert libc.munmap(ctypes.c_void_p(at), 200000) == 0
assert all(os.path.samefile('/proc/self/fd/%d' % number, '/dev/null') for number in range(3, 1024) if number != other)
print('kept')
";
    let python = run_ok(Command::new("python3").args(["-c", "import sys; print(sys.executable)"]));
    let output = run(scratch.shimmed(python.trim_end(), "auto").args(["-c", script]));
    assert_eq!(text(&output), "kept\n");
}

/// What is kept of an origin goes with its last snapshot.
#[test]
fn no_descriptor_is_left_when_the_snapshots_are_gone() {
    let scratch = Scratch::on_tmpfs();
    lay(&scratch);
    run_ok(scratch.shimmed(program("foreign/descriptors"), "auto").arg("victim"));
}

/// A program that maps `file` shared and writable and stores into it once.
fn stores(scratch: &Scratch, mapper: Command, file: &str, how: &str) -> Stores {
    let mut mapper = mapper;
    let mut child = mapper
        .args([file, how])
        .current_dir(&scratch.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Stores { child, output }
}

struct Stores {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Stores {
    fn store(&mut self) {
        self.child.stdin.as_ref().unwrap().write_all(b"\n").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line, "stored\n");
    }

    fn id(&self) -> u32 {
        self.child.id()
    }
}

/// A test that fails leaves no process behind.
impl Drop for Stores {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes what the dead left out of the table.
fn bury(scratch: &Scratch) {
    let mut command = Command::new(crate::common::root().join("target/release/snapshim"));
    run_ok(command.arg("recover").env("SNAPSHIM_DIR", scratch.table()));
}

/// Which counter of changes a file has in common with others.
fn counter(file: &Path) -> u64 {
    let found = fs::metadata(file).unwrap();
    Origin::file(found.dev(), found.ino()).fingerprint() >> 56
}

/// A file that does not share its counter with `victim`.
fn lay_unrelated(scratch: &Scratch) -> String {
    let names = (0..).map(|number| format!("unrelated{number}"));
    let mut laid = names.inspect(|name| fs::write(scratch.file(name), vec![b'u'; SIZE]).unwrap());
    laid.find(|name| counter(&scratch.file(name)) != counter(&scratch.file("victim"))).unwrap()
}

/// It counted as a change of every file, and a look that found the counts moved on took the foreign one for it.
#[test]
fn the_death_of_a_process_that_shares_another_file_hides_no_foreign_change() {
    for scratch in scratches() {
        lay(&scratch);
        let unrelated = lay_unrelated(&scratch);
        let holder = hold_to_be_doubtful(&scratch);
        let mapper = scratch.shimmed(program("foreign/mapper"), "auto");
        let mut sharer = stores(&scratch, mapper, &unrelated, "mmap");
        sharer.store();
        // SAFETY: kill(2) of our own children, which have not been waited for.
        unsafe { libc::kill(holder.pid() as i32, libc::SIGSTOP) };
        foreign(&scratch, "write");
        drop(sharer);
        bury(&scratch);
        // SAFETY: as above.
        unsafe { libc::kill(holder.pid() as i32, libc::SIGCONT) };
        let found = holder.finish();
        assert!(found.contains("state=1 "), "{}: {found}", scratch.path.display());
    }
}

#[test]
fn the_death_of_a_process_that_stored_into_the_file_raises_no_doubt() {
    for scratch in scratches() {
        lay(&scratch);
        let holder = hold(&scratch);
        let mapper = scratch.shimmed(program("foreign/mapper"), "auto");
        let mut sharer = stores(&scratch, mapper, "victim", "mmap");
        sharer.store();
        drop(sharer);
        bury(&scratch);
        // Behind two looks of the agent.
        std::thread::sleep(Duration::from_millis(2100));
        holder.finish_exact("a sharer that was killed");
        assert_eq!(log(&scratch), "");
    }
}

/// Its record said for ever that the file may be stored into at any time, as no process came to take it out of the table.
#[test]
fn a_process_that_had_the_file_mapped_hides_no_foreign_change_once_it_is_gone() {
    for (scratch, is_killed) in scratches().iter().flat_map(|scratch| [true, false].map(|how| (scratch, how))) {
        lay(scratch);
        let holder = hold(scratch);
        let mapper = scratch.shimmed(program("foreign/mapper"), "auto");
        let mut sharer = stores(scratch, mapper, "victim", "mmap");
        sharer.store();
        if !is_killed {
            drop(sharer.child.stdin.take());
            sharer.child.wait().unwrap();
        }
        drop(sharer);
        // The first of these may be taken for the dead one's.
        wait_until(&format!("a doubt, killed: {is_killed}, {}", scratch.path.display()), || {
            foreign(scratch, "write");
            log(scratch).contains("is doubtful")
        });
        let found = holder.finish();
        assert!(found.contains("state=1 ") && found.contains("cause=1\n"), "{found}");
    }
}

//! A program that uses no snapshot sees nothing of the library: its calls are the calls that it made, and it has the threads that
//! it started. Where a snapshot of another file exists, what its calls do is the same.

use std::fs;
use std::process::Command;
use std::time::Instant;

use crate::common::holder::Holder;
use crate::common::{Scratch, each_at_once, program, run, run_ok, skip, text, wait_until};

const SIZE: usize = 16 * 4096;

/// Runs a program natively, and under the library without and with a snapshot of another file; what it prints is the same.
fn same(test: &str, name: &str, arguments: &[&str]) {
    let outcome = |shimmed: bool, held: bool| {
        let scratch = Scratch::on_tmpfs();
        fs::write(scratch.file("held"), vec![b'o'; SIZE]).unwrap();
        let holder = held.then(|| Holder::start(&scratch, "auto", &scratch.file("held"), "r"));
        let mut command = if shimmed { scratch.shimmed(program(name), "auto") } else { scratch.native(program(name)) };
        let said = run_ok(command.args(arguments));
        if let Some(holder) = holder {
            holder.finish_exact(&format!("{arguments:?}"));
        }
        said
    };
    let natively = outcome(false, false);
    if let Some(line) = natively.lines().find(|line| line.starts_with("SKIPPED ")) {
        return skip(test, &format!("{arguments:?}: {}", &line["SKIPPED ".len()..]));
    }
    for held in [false, true] {
        assert_eq!(outcome(true, held), natively, "{arguments:?}, a snapshot of another file: {held}");
    }
}

/// Once each of these files was opened without O_TRUNC and truncated afterwards: a watcher saw one event more, and the new file
/// lost its set-id bits.
#[test]
fn a_file_opened_to_be_truncated_is_as_natively() {
    for what in ["new", "existing", "special"] {
        same("a_file_opened_to_be_truncated_is_as_natively", "transparency/opens", &[what]);
    }
}

#[test]
fn a_file_in_a_directory_of_another_group_keeps_the_mode_it_is_created_with() {
    same("a_file_in_a_directory_of_another_group_keeps_the_mode_it_is_created_with", "transparency/opens", &["setgid"]);
}

/// Some file systems do more at an open with O_TRUNC than truncate.
#[test]
fn a_file_where_there_are_no_origins_is_opened_as_asked() {
    for what in ["apart", "tracing"] {
        same("a_file_where_there_are_no_origins_is_opened_as_asked", "transparency/opens", &[what]);
    }
}

/// While no snapshot exists, the open of a FIFO is announced, and waits for the other end.
#[test]
fn a_program_that_waits_for_the_other_end_of_a_fifo_hinders_no_snapshot() {
    let ways = ["echo told >fifo", "exec tee fifo <held >/dev/null", "exec dd if=held of=fifo status=none"];
    for way in ways {
        let scratch = Scratch::on_tmpfs();
        fs::write(scratch.file("held"), vec![b'o'; SIZE]).unwrap();
        run_ok(scratch.native("mkfifo").arg("fifo"));
        let mut opener = scratch.shimmed("sh", "auto").args(["-c", way]).spawn().unwrap();
        let waits_in = format!("/proc/{}/wchan", opener.id());
        wait_until("the open of the FIFO", || fs::read_to_string(&waits_in).unwrap() == "wait_for_partner");
        let begun = Instant::now();
        let holder = Holder::start(&scratch, "auto", &scratch.file("held"), "rw");
        assert!(begun.elapsed().as_secs() < 20, "{way}: the snapshot took {:?}", begun.elapsed());
        run_ok(scratch.native("sh").args(["-c", "cat fifo >got"]));
        assert!(opener.wait().unwrap().success(), "{way}");
        assert!(!fs::read(scratch.file("got")).unwrap().is_empty(), "{way}");
        holder.finish_exact(way);
    }
}

/// Once the library's helper thread began with the mapping.
#[test]
fn a_program_that_maps_a_file_shared_has_the_threads_that_it_started() {
    let outcome = |shimmed: bool| {
        let scratch = Scratch::on_tmpfs();
        fs::write(scratch.file("file"), vec![b'o'; SIZE]).unwrap();
        let program = program("transparency/alone");
        let mut command = if shimmed { scratch.shimmed(program, "auto") } else { scratch.native(program) };
        run_ok(command.args(["counts", "file"]))
    };
    let natively = outcome(false);
    assert!(natively.contains("threads: 1\n"), "{natively}");
    assert_eq!(outcome(true), natively);
}

#[test]
fn python_does_not_warn_of_a_fork_beside_threads() {
    const TEST: &str = "python_does_not_warn_of_a_fork_beside_threads";
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("file"), vec![b'o'; SIZE]).unwrap();
    let code = "import mmap, os; m = mmap.mmap(os.open('file', os.O_RDWR), 0); m[0] = 1\n\
                p = os.fork()\nif p == 0: os._exit(0)\nprint(os.waitpid(p, 0)[1])";
    if scratch.native("python3").arg("--version").output().is_err() {
        return skip(TEST, "python3 is not installed");
    }
    let output = run(scratch.shimmed("python3", "auto").args(["-W", "always", "-c", code]));
    assert_eq!(text(&output), "0\n");
}

/// A process without an agent is asked by a signal to start one. Whatever its threads do, they do not see that.
#[test]
fn a_wait_is_not_interrupted_by_the_snapshot_of_another_process() {
    let kinds = [
        "poll",
        "numbered",
        "epoll",
        "select",
        "nanosleep",
        "sleep",
        "read",
        "child",
        "stores",
        "two-poll",
        "two-stores",
    ];
    each_at_once(kinds, |kind| {
        let scratch = Scratch::on_tmpfs();
        let file = scratch.file("file");
        fs::write(&file, vec![b'o'; SIZE]).unwrap();
        let sharer = Holder::run(scratch.shimmed(program("transparency/alone"), "auto").args(["waits", "file", kind]));
        let holder = Holder::start_at_once(&scratch, &file, "r", SIZE);
        if kind != "read" {
            std::thread::sleep(std::time::Duration::from_secs(4));
        }
        let threads = if kind.starts_with("two-") { 3 } else { 2 };
        assert_eq!(sharer.finish(), format!("0 Success\nthreads: {threads}\n"), "{kind}");
        holder.finish_exact(kind);
    });
}

/// The handler takes as long here as no thread makes it take. A handler of the program's that ran inside would be lost on the wait,
/// which is made again.
#[test]
fn a_signal_that_comes_with_the_question_for_an_agent_ends_the_wait() {
    const TEST: &str = "a_signal_that_comes_with_the_question_for_an_agent_ends_the_wait";
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("file"), vec![b'o'; SIZE]).unwrap();
    // Between the handler's last look and the wait that is made again, pause(2) misses a signal, as natively one that comes before
    // it; without the look it misses nearly each.
    for (kind, most) in [("sigsuspend", 0), ("pause", 50)] {
        let mut strace = scratch.shimmed("strace", "auto");
        strace.args(["-f", "-o", "calls", "-e", "trace=process_vm_readv"]);
        strace.args(["-e", "inject=process_vm_readv:delay_exit=2000"]);
        let program = program("transparency/alone");
        let Ok(output) = strace.arg(program).args(["wakes", "file", kind]).output() else {
            return skip(TEST, "strace is not installed");
        };
        let went_on: u32 = text(&output).trim().parse().unwrap();
        assert!(went_on <= most, "{kind}: {went_on}");
        let delayed = fs::read_to_string(scratch.file("calls")).unwrap().matches("process_vm_readv(").count();
        assert!(delayed >= 50, "{kind}: {delayed}");
    }
}

/// A signal that is pending at exec would end the next program, which has no handler for it.
#[test]
fn a_program_that_executes_another_is_not_ended_by_the_snapshot_of_another_process() {
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("file"), vec![b'o'; SIZE]).unwrap();
    let alone = program("transparency/alone");
    let mapper = Holder::run(scratch.shimmed(&alone, "auto").args(["snapshots", "file"]));
    let executers: Vec<_> =
        (0..3).map(|_| scratch.shimmed(&alone, "auto").args(["executes", "file", "60"]).spawn().unwrap()).collect();
    for mut executer in executers {
        let status = executer.wait().unwrap();
        assert!(status.success(), "{status}");
    }
    assert!(mapper.finish().starts_with("taken: "));
}

/// The system calls of each process of a command, in the order in which the processes were made: names, and the arguments of those
/// that open a file.
fn traced(scratch: &Scratch, command: &Command) -> Vec<Vec<String>> {
    let log = scratch.file("calls");
    fs::create_dir(&log).unwrap();
    let mut strace = scratch.native("strace");
    strace.args(["-ff", "-o"]).arg(log.join("of"));
    for (name, value) in command.get_envs() {
        strace.arg("-E").arg(format!("{}={}", name.to_str().unwrap(), value.unwrap().to_str().unwrap()));
    }
    run_ok(strace.arg(command.get_program()).args(command.get_args()));
    let mut logs: Vec<_> = fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path()).collect();
    logs.sort_by_key(|path| path.extension().unwrap().to_str().unwrap().parse::<u32>().unwrap());
    let calls = |log| fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect();
    let all = logs.into_iter().map(calls).collect();
    fs::remove_dir_all(&log).unwrap();
    all
}

/// A call without what differs from run to run. `None`: it is none, or it asks for the caller's identity, and touches nothing.
fn essence(line: &str) -> Option<String> {
    if line.starts_with(['-', '+']) {
        return None;
    }
    let name = line.split('(').next().unwrap();
    match name {
        "getpid" | "gettid" | "geteuid" => None,
        "openat" => Some(line.split(')').next().unwrap().to_owned()),
        _ => Some(name.to_owned()),
    }
}

/// Start-up ends when the process has joined the table, which it does at its first change: the last look at the table's path.
#[test]
fn after_start_up_a_program_makes_its_own_calls_and_no_others() {
    const TEST: &str = "after_start_up_a_program_makes_its_own_calls_and_no_others";
    if Command::new("strace").arg("-V").output().is_err() {
        return skip(TEST, "strace is not installed");
    }
    let scratch = Scratch::on_tmpfs();
    let words = ["-c", "echo x > f; cat f"];
    let (mut native, mut shimmed) = (scratch.native("sh"), scratch.shimmed("sh", "auto"));
    let natively = traced(&scratch, native.args(words));
    let found = traced(&scratch, shimmed.args(words));
    assert_eq!(found.len(), natively.len());
    let table = scratch.table().to_str().unwrap().to_owned();
    for (own, natives) in found.iter().zip(&natively) {
        let joined = own.iter().rposition(|line| line.contains(&table)).expect("each process joins");
        let calls = own[joined + 1..].iter().filter_map(|line| essence(line));
        // The join ends when signals are open again.
        let calls: Vec<_> = calls.skip_while(|call| call == "rt_sigprocmask").collect();
        let natives: Vec<_> = natives.iter().filter_map(|line| essence(line)).collect();
        assert!(natives.ends_with(&calls), "{calls:#?}, natively {natives:#?}");
        let changes = |call: &String| call.contains("O_TRUNC") || ["write", "copy_file_range"].contains(&call.as_str());
        assert!(calls.iter().any(changes), "{calls:#?}");
    }
}

//! Any process may be stopped at any instruction, for longer than other processes wait. They go on, or are told which process keeps
//! them waiting. When the stopped process goes on, nothing is wrong, of its own or of the others'.
//!
//! Each operation is done again and again, and stopped, as by SIGSTOP, at one point after the other: see [`crate::common::tracer`].

#![cfg(target_arch = "x86_64")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};

use crate::common::aftermath::{assert_recovered, use_by_others};
use crate::common::scene::{MANY, Scene};
use crate::common::tracer::{Stopped, Target, stop_at};
use crate::common::{Scratch, program, root};

/// How long the stopped process and those beside it wait for each other.
const TIMEOUT_MS: &str = "200";
/// Why a snapshot is broken whose process was slow.
const NO_ANSWER: &str = "did not answer";
/// How often a point is tried where a process that runs was slow to answer, and so is named in place of the stopped one, or has
/// lost a snapshot: on a busy machine that happens once, and hardly again and again.
const TRIES: usize = 5;

/// Stops the operation everywhere; how many points there were, and what became of it.
fn stop_everywhere(scene: &Scene) -> Outcomes {
    let scratch = Scratch::on_tmpfs();
    let file = scratch.file("file");
    let mut outcomes = Outcomes::default();
    for number in (number("SNAPSHIM_STOP_FIRST").unwrap_or(0)..MANY).step_by(every()) {
        let mut tries = 0;
        loop {
            if scene.is_without_table {
                scratch.forget_table();
            }
            if !stop(scene, &scratch, &file, number, &mut outcomes) {
                return outcomes;
            }
            let Some(misnamed) = outcomes.misnamed.take() else { break };
            tries += 1;
            assert!(tries < TRIES, "{misnamed}");
            println!("again: {misnamed}");
        }
        outcomes.points += 1;
    }
    panic!("{}: more than {MANY} points", scene.operation);
}

/// False: there is no such point.
fn stop(scene: &Scene, scratch: &Scratch, file: &Path, number: usize, outcomes: &mut Outcomes) -> bool {
    let witness = scene.set(scratch, file);
    let forker = scene.is_forked_beside.then(|| Forker::start(scratch, file));
    let mut command = scene.command(scratch, file);
    if !scene.is_recovery() {
        command.arg("stopped").env("SNAPSHIM_TIMEOUT_MS", TIMEOUT_MS);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (child, stopped) = stop_at(&mut command, scene.target, !scene.is_recovery(), number);
    let mut victim = Victim::new(child);
    let about = format!("{} {} stopped at {number}", scene.operation, scene.way);
    let is_stopped = match stopped {
        Ok((stopped, point)) => {
            let about = format!("{about}: {point:?}");
            let forked = forker.map(Forker::fork);
            live_on(scene, scratch, file, stopped, &mut victim, outcomes, &about);
            if let Some(forker) = forked {
                forker.finish_exact(&about);
            }
            true
        }
        Err(_) => {
            drop(forker);
            false
        }
    };
    victim.finish(&about, is_stopped, outcomes);
    if let Some(witness) = witness {
        let found = witness.finish();
        if found.contains("state=2 ") && found.contains(NO_ANSWER) && !found.contains("DIFFERS") {
            outcomes.misnamed = Some(format!("{about}: {found}"));
        } else {
            assert!(found.contains("same\n") && found.contains("state=0 "), "{about}: {found}");
        }
    }
    assert_recovered(scratch, &about);
    is_stopped
}

/// What happens beside the stopped process, and when it goes on.
fn live_on(
    scene: &Scene,
    scratch: &Scratch,
    file: &Path,
    stopped: Stopped,
    victim: &mut Victim,
    outcomes: &mut Outcomes,
    about: &str,
) {
    let pid = stopped.pid;
    let others = ["break-snapshot", "fail-write"].map(|policy| Other::start(scene, scratch, file, policy, about));
    stopped.go_on();
    if !scene.is_recovery() {
        victim.wait_until_done(scene.speakers, about);
    }
    use_by_others(scratch, file, about);
    victim.end_input();
    for other in others {
        // A process that asked the stopped one for something is kept by it from going on.
        let name = if scene.operation.starts_with("asked") { "(kill_point)" } else { &*format!("process {pid} (") };
        match other.finish(name, about) {
            Answer::Had => {}
            Answer::Refused => outcomes.refused += 1,
            Answer::Misnamed(why) => outcomes.misnamed = Some(why),
        }
    }
}

/// A process that has a snapshot and forks.
struct Forker {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Forker {
    fn start(scratch: &Scratch, file: &Path) -> Self {
        let mut command = scratch.shimmed(program("lifecycle/fork_beside"), "direct");
        command.arg(file).env("SNAPSHIM_TIMEOUT_MS", TIMEOUT_MS).env("SNAPSHIM_LOG", "error");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut forker = Self { child, output };
        forker.await_line("ready\n");
        forker
    }

    fn await_line(&mut self, wanted: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line, wanted);
    }

    fn fork(mut self) -> Self {
        self.child.stdin.as_mut().unwrap().write_all(b"f").unwrap();
        self.await_line("forked\n");
        self
    }

    /// Neither it nor its child shows anything newer; the child may show nothing.
    fn finish_exact(mut self, about: &str) {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.output.read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success() && said.is_empty(), "{about}: {said}");
    }
}

#[derive(Debug, Default)]
struct Outcomes {
    points: usize,
    /// How often another process, that was stopped, or that came to its end with it, could not have what it wanted.
    refused: usize,
    broken: usize,
    /// The process that was refused something at this point without being told which one is stopped.
    misnamed: Option<String>,
}

/// What a process beside a stopped one got.
enum Answer {
    Had,
    /// And has heard because of whom.
    Refused,
    Misnamed(String),
}

/// The process that was stopped, and those that it started.
struct Victim {
    child: Child,
    output: BufReader<ChildStdout>,
    said: String,
}

impl Victim {
    fn new(mut child: Child) -> Self {
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output, said: String::new() }
    }

    fn wait_until_done(&mut self, speakers: usize, about: &str) {
        while self.said.lines().filter(|line| *line == "done").count() < speakers {
            let count = self.output.read_line(&mut self.said).unwrap();
            if count == 0 {
                let errors = errors_of(&mut self.child);
                panic!("{about}: {:?}: {}{errors}", self.child.wait(), self.said);
            }
        }
    }

    fn end_input(&mut self) {
        drop(self.child.stdin.take());
    }

    fn finish(mut self, about: &str, has_lived: bool, outcomes: &mut Outcomes) {
        self.end_input();
        self.output.read_to_string(&mut self.said).unwrap();
        let errors = errors_of(&mut self.child);
        // The tracer has waited already for the process that came to its end.
        let is_well = self.child.wait().is_ok_and(|status| status.success());
        assert!(!self.said.contains("WRONG"), "{about}: {}{errors}", self.said);
        assert!(!has_lived || is_well, "{about}: {}{errors}", self.said);
        outcomes.broken += self.said.matches("faults").count();
        if self.said.contains("faults") {
            println!("{about}: {}{errors}", self.said);
        }
    }
}

/// A process that does what it wants beside the stopped one.
struct Other {
    child: Child,
    is_refused: bool,
}

impl Other {
    fn start(scene: &Scene, scratch: &Scratch, file: &Path, policy: &str, about: &str) -> Self {
        let mut command = scratch.shimmed(program("lifecycle/beside_stopped"), "auto");
        command
            .arg(file)
            .arg(if policy == "fail-write" { "3" } else { "2" })
            .args(scene.is_truncated_beside.then_some("cut"));
        command.env("SNAPSHIM_TIMEOUT_MS", TIMEOUT_MS).env("SNAPSHIM_ON_FAILURE", policy);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.ends_with("ready\n") {
            if output.read_line(&mut said).unwrap() == 0 {
                let errors = errors_of(&mut child);
                panic!("{about}: {policy}: {:?}: {said}{errors}", child.wait());
            }
        }
        Self { child, is_refused: said.contains("refused") }
    }

    /// Its snapshot, if it has one, still is what it was.
    fn finish(mut self, name: &str, about: &str) -> Answer {
        drop(self.child.stdin.take());
        let errors = errors_of(&mut self.child);
        assert!(self.child.wait().unwrap().success(), "{about}: beside it: {errors}");
        match self.is_refused {
            false => Answer::Had,
            true if errors.contains(name) => Answer::Refused,
            true => Answer::Misnamed(format!("{about}: {name} is not named: {errors}")),
        }
    }
}

/// What a process whose output has ended said besides.
fn errors_of(child: &mut Child) -> String {
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    errors
}

/// Of so many points one is taken: `make soak` takes every one, which takes minutes.
fn every() -> usize {
    number("SNAPSHIM_STOP_EVERY").unwrap_or(25)
}

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

fn stop_all(scenes: &[(Scene, usize)]) {
    assert!(root().join("target/release/libsnapshim.so").exists());
    for (scene, least) in scenes {
        let started = std::time::Instant::now();
        let outcomes = stop_everywhere(scene);
        println!("{} ({}, {:?}): {outcomes:?}, {:?}", scene.operation, scene.way, scene.target, started.elapsed());
        assert!(outcomes.points * every() >= *least, "{}: {outcomes:?}", scene.operation);
    }
}

#[test]
fn who_is_stopped_while_it_joins_or_writes_harms_nobody() {
    stop_all(&[
        (Scene { is_without_table: true, ..Scene::new("attach") }, 10),
        (Scene { is_witnessed: true, ..Scene::new("attach") }, 10),
        (Scene { is_witnessed: true, ..Scene::new("announce") }, 5),
        (Scene::new("end_thread"), 10),
    ]);
}

#[test]
fn who_is_stopped_in_a_creation_has_one_instant_or_none() {
    stop_all(&[
        (Scene::new("create"), 20),
        (Scene { is_witnessed: true, ..Scene::new("create_fixed") }, 20),
        (Scene { is_witnessed: true, ..Scene::new("create_group") }, 20),
        (Scene { has_dead: true, is_witnessed: true, ..Scene::new("create") }, 20),
    ]);
}

#[test]
fn who_is_stopped_while_it_changes_its_snapshot_keeps_it() {
    stop_all(&[
        (Scene::new("retire"), 5),
        (Scene::new("divide"), 10),
        (Scene { is_truncated_beside: true, ..Scene::new("divide") }, 10),
    ]);
}

#[test]
fn who_is_stopped_while_it_preserves_writes_nothing_into_a_later_snapshot() {
    let preserve = || Scene { is_witnessed: true, ..Scene::new("preserve") };
    stop_all(&[
        (preserve(), 10),
        (Scene { way: "agent", ..preserve() }, 10),
        (Scene { is_truncated_beside: true, ..preserve() }, 10),
        (Scene { is_witnessed: true, ..Scene::new("relocate") }, 10),
        (Scene { is_witnessed: true, way: "agent", ..Scene::new("relocate") }, 10),
    ]);
}

#[test]
fn a_mapper_that_is_stopped_while_others_want_it_to_preserve_keeps_its_snapshot() {
    let asked = |operation| Scene { way: "agent", speakers: 2, ..Scene::new(operation) };
    stop_all(&[(asked("asked_to_preserve"), 10), (asked("asked_to_relocate"), 10)]);
}

#[test]
fn who_is_stopped_while_it_arms_stores_into_no_snapshot() {
    stop_all(&[
        (Scene { is_witnessed: true, ..Scene::new("arm") }, 20),
        (Scene { speakers: 2, ..Scene::new("asked_to_arm") }, 10),
    ]);
}

#[test]
fn a_fork_that_is_stopped_on_either_side_is_exact_or_faults() {
    let fork = || Scene { speakers: 2, is_witnessed: true, ..Scene::new("fork") };
    stop_all(&[
        (fork(), 20),
        (Scene { is_truncated_beside: true, is_witnessed: false, ..fork() }, 20),
        (Scene { target: Target::ForkedChild, ..fork() }, 5),
    ]);
}

#[test]
fn a_fork_beside_a_writer_that_is_stopped_is_exact_or_faults() {
    stop_all(&[(Scene { is_forked_beside: true, ..Scene::new("announce") }, 10)]);
}

#[test]
fn a_recovery_that_is_stopped_takes_nothing_from_who_came_meanwhile() {
    stop_all(&[
        (Scene { has_dead: true, ..Scene::new("recover") }, 10),
        (Scene { has_dead: true, ..Scene::new("attach") }, 10),
    ]);
}

//! Any process may die at any instruction: any other takes out what it leaves in the table, twice and in parallel.
//!
//! Each operation is done again and again, and ended by SIGKILL at one point after the other: in front of and behind every store to
//! the table, and behind every system call that changes something. Then other processes use the table, [`use_by_others`], while
//! the dead are taken out, and at the end the table must be as empty as a new one ([`assert_recovered`]).

#![cfg(target_arch = "x86_64")]

use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use crate::common::aftermath::{assert_recovered, use_by_others};
use crate::common::scene::{MANY, Scene};
use crate::common::tracer::{Ended, Point, Target, run_to};
use crate::common::{Scratch, root};

/// Kills at every point of the operation; the points there were.
fn kill_everywhere(scene: &Scene) -> Vec<Point> {
    let scratch = Scratch::on_tmpfs();
    let file = scratch.file("file");
    let mut points = Vec::new();
    for number in (0..MANY).step_by(every()) {
        if scene.is_without_table {
            scratch.forget_table();
        }
        match kill(scene, &scratch, &file, number) {
            Ended::Reached(point) => points.push(point),
            Ended::Whole | Ended::Replaced => return points,
        }
    }
    panic!("{}: more than {MANY} points", scene.operation);
}

fn kill(scene: &Scene, scratch: &Scratch, file: &Path, number: usize) -> Ended {
    let witness = scene.set(scratch, file);
    let mut command = scene.command(scratch, file);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let (mut victim, ended) = run_to(&mut command, scene.target, !scene.is_recovery(), number);
    let about = format!("{} {} killed at {number}: {ended:?}", scene.operation, scene.way);
    if scene.is_quiet {
        assert_recovered(scratch, &about);
    }
    use_by_others(scratch, file, &about);
    if scene.operation == "exec" {
        // The process lives on, as another image.
        assert_recovered(scratch, &about);
    }
    // What is left of the program, if anything.
    drop(victim.stdin.take());
    let mut said = String::new();
    victim.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!said.contains("WRONG"), "{about}: {said}");
    if let Some(witness) = witness {
        witness.finish_exact(&about);
    }
    assert_recovered(scratch, &about);
    let _ = victim.wait();
    ended
}

/// Of so many points one is taken: `make soak` takes every one, which takes minutes.
fn every() -> usize {
    std::env::var("SNAPSHIM_KILL_EVERY").map_or(6, |value| value.parse().expect("a number"))
}

/// Kills at every point of every scene; each has to have at least so many.
fn kill_all(scenes: &[(Scene, usize)]) {
    assert!(root().join("target/release/libsnapshim.so").exists());
    for (scene, least) in scenes {
        let started = std::time::Instant::now();
        let points = kill_everywhere(scene);
        println!(
            "{} ({}, {:?}): {} points, {:?}",
            scene.operation,
            scene.way,
            scene.target,
            points.len(),
            started.elapsed()
        );
        assert!(points.len() * every() >= *least, "{}: only {points:?}", scene.operation);
    }
}

#[test]
fn attach_and_claim_can_be_killed_anywhere() {
    kill_all(&[
        (Scene { is_without_table: true, is_quiet: true, ..Scene::new("attach") }, 10),
        (Scene { is_witnessed: true, ..Scene::new("attach") }, 10),
        (Scene::new("end_thread"), 10),
    ]);
}

#[test]
fn a_write_can_be_killed_anywhere() {
    kill_all(&[(Scene::new("announce"), 5), (Scene { is_witnessed: true, ..Scene::new("announce") }, 5)]);
}

#[test]
fn a_creation_can_be_killed_anywhere() {
    kill_all(&[
        (Scene::new("create"), 20),
        (Scene { is_witnessed: true, ..Scene::new("create_fixed") }, 20),
        (Scene { is_witnessed: true, ..Scene::new("create_group") }, 20),
        (Scene::new("retire"), 5),
    ]);
}

#[test]
fn preserving_can_be_killed_anywhere() {
    let preserve = || Scene { is_witnessed: true, ..Scene::new("preserve") };
    kill_all(&[
        (preserve(), 10),
        (Scene { way: "agent", ..preserve() }, 10),
        (Scene { is_witnessed: true, way: "agent", ..Scene::new("relocate") }, 10),
        (Scene { is_witnessed: true, ..Scene::new("relocate") }, 10),
        (Scene::new("divide"), 10),
    ]);
}

/// Of a mapper while another process changes the file: its agent is at work, or it is reached without.
#[test]
fn preserving_for_others_can_be_killed_anywhere_in_the_mapper() {
    let asked = |operation| Scene { is_witnessed: true, way: "agent", ..Scene::new(operation) };
    kill_all(&[(asked("asked_to_preserve"), 10), (asked("asked_to_relocate"), 10)]);
}

#[test]
fn arming_can_be_killed_anywhere() {
    kill_all(&[
        (Scene { is_witnessed: true, ..Scene::new("arm") }, 20),
        (Scene { is_witnessed: true, ..Scene::new("arm_in_threads") }, 20),
        (Scene { is_witnessed: true, ..Scene::new("asked_to_arm") }, 10),
    ]);
}

#[test]
fn a_fork_can_be_killed_anywhere_in_the_parent_and_in_the_child() {
    kill_all(&[
        (Scene { is_witnessed: true, ..Scene::new("fork") }, 20),
        (Scene { target: Target::ForkedChild, is_witnessed: true, ..Scene::new("fork") }, 5),
        (Scene::new("exec"), 0),
    ]);
}

#[test]
fn recovery_can_be_killed_anywhere() {
    kill_all(&[
        (Scene { has_dead: true, ..Scene::new("recover") }, 10),
        (Scene { has_dead: true, is_quiet: true, ..Scene::new("recover") }, 10),
        (Scene { has_dead: true, ..Scene::new("attach") }, 10),
        (Scene { has_dead: true, is_witnessed: true, ..Scene::new("create") }, 10),
    ]);
}

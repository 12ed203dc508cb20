//! `snapshim status`: the processes in the table, the snapshots that they hold, and what holds others back, one line each.

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anstream::println;

use crate::cli::Status;
use crate::failure::Outcome;
use crate::interrupt;
use crate::number;
use crate::overview::age;
use crate::survey::{Delay, Process, Snapshot, Survey, Unreached};
use crate::table::Watched;

/// How often a person wants to see it.
const PERIOD: Duration = Duration::from_secs(1);

pub fn run(arguments: &Status) -> Outcome<ExitCode> {
    interrupt::end_with_the_reader();
    let mut watched = Watched::new()?;
    if !arguments.watch {
        print(arguments, &mut watched)?;
        return Ok(ExitCode::SUCCESS);
    }
    interrupt::catch();
    while !interrupt::is_caught() {
        if stdout().is_terminal() {
            // To the upper left corner, and nothing behind it.
            println!("\x1b[H\x1b[J");
        }
        print(arguments, &mut watched)?;
        std::thread::sleep(PERIOD);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(arguments: &Status, watched: &mut Watched) -> Outcome {
    let survey = Survey::of(watched.table()?);
    if arguments.json {
        println!("{}", survey.as_json());
    } else {
        print_text(&survey);
    }
    Ok(())
}

fn print_text(survey: &Survey) {
    println!("{:>8}  {:<16}  {:<8}  {:>9}", "pid", "program", "state", "snapshots");
    survey.processes.iter().for_each(print_process);
    if !survey.delays.is_empty() {
        println!();
        println!("{:>8}  {:<16}  {:>8}  {:>10}  holds back", "pid", "program", "thread", "seconds");
        survey.delays.iter().for_each(print_delay);
    }
    println!();
    println!(
        "{:>13}  {:>8}  {:<32}  {:<8}  {:>8}  {:>12}  {:>10}  file",
        "id", "pid", "origin", "state", "age", "pages", "preserved"
    );
    survey.snapshots.iter().for_each(print_snapshot);
    if !survey.unreached.is_empty() {
        println!();
        println!("{:>8}  {:<16}  {:<8}  {:>9}  executed without the library", "pid", "program", "state", "seconds");
        survey.unreached.iter().for_each(print_unreached);
    }
}

fn print_process(process: &Process) {
    let or_none = |number: Option<usize>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let pid = or_none(process.pid.map(|pid| pid as usize));
    println!("{pid:>8}  {:<16}  {:<8}  {:>9}", process.program, process.state, or_none(process.snapshots));
}

fn print_delay(delay: &Delay) {
    let Delay { pid, program, thread, seconds, what, why } = delay;
    println!("{pid:>8}  {program:<16}  {thread:>8}  {seconds:>10.1}  {what}: {why}");
}

fn print_snapshot(snapshot: &Snapshot) {
    let Snapshot { pid, origin, state, pages, preserved, .. } = snapshot;
    let file = snapshot.file.as_deref().unwrap_or("-");
    let age = age(snapshot.age);
    let id = number::shown(snapshot.id);
    println!("{id:>13}  {pid:>8}  {origin:<32}  {state:<8}  {age:>8}  {pages:>12}  {preserved:>10}  {file}");
    if let Some(why) = &snapshot.why {
        println!("{:>10}{why}", "");
    }
}

fn print_unreached(unreached: &Unreached) {
    let Unreached { pid, program, is_running, seconds, why } = unreached;
    let state = if *is_running { "alive" } else { "ended" };
    println!("{pid:>8}  {program:<16}  {state:<8}  {seconds:>9}  {why}");
}

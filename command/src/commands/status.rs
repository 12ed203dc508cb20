//! `snapshim status`: the processes in the table, and the snapshots that they hold, one line each.

use std::process::ExitCode;

use anstream::println;

use snapshim::cooperate::liveness::{self, Liveness};
use snapshim::protocol::delay::Cause;
use snapshim::protocol::process_id::ProcessId;
use snapshim::protocol::snapshot::{FOREIGN_CHANGE, FOREIGN_MAPPING, FOREIGN_TRUNCATION, SegmentFlags, State, View};
use snapshim::sys::escaped::Escaped;
use snapshim::sys::raw;
use snapshim::table::Table;

use crate::failure::Outcome;
use crate::processes;
use crate::table;

/// Prints which processes are attached, and which snapshots they hold. The dead are taken out first, so none of them is listed.
pub fn run() -> Outcome<ExitCode> {
    let attached = table::attached()?;
    let table = attached.table;
    table.reap_the_dead();
    println!("{:>8}  {:<16}  {:<8}  {:>9}", "pid", "program", "state", "snapshots");
    for (index, record) in table.processes_used().iter().enumerate() {
        let Some(id) = record.id() else { continue };
        let owner = id.owner_word(index as u32);
        let held = table.over_splits(|walk| walk.owned_by(owner).count());
        let state = match liveness::of(record, id) {
            Liveness::Alive => "alive",
            Liveness::Dead => "dead",
            Liveness::Unknown => "unknown",
        };
        println!("{:>8}  {:<16}  {state:<8}  {held:>9}", id.pid(), name(id));
    }
    for who in table.unseen().named() {
        println!("{:>8}  {:<16}  {:<8}  {:>9}", who.pid, processes::program(who.pid), "unseen", "-");
    }
    if table.unseen().has_nameless() {
        println!("{:>8}  {:<16}  {:<8}  {:>9}", "-", "(other pids)", "unseen", "-");
    }
    print_delays(table);
    table.doubt_if_unseen();
    println!();
    println!("{:>8}  {:<32}  {:<8}  {:>12}  {:>10}", "pid", "origin", "state", "pages", "preserved");
    // A single walk: each line is about one record.
    for (index, view) in table.walk_once().live() {
        print_snapshot(table, index, &view);
    }
    print_unreached(table);
    Ok(ExitCode::SUCCESS)
}

/// Prints which programs were executed last without the library: those that may change files unseen.
fn print_unreached(table: &Table) {
    for (at, unreached) in table.unreached().programs().enumerate() {
        if at == 0 {
            println!();
            println!("{:>8}  {:<16}  {:<8}  {:>9}  executed without the library", "pid", "program", "state", "seconds");
        }
        let seconds = raw::now().saturating_sub(unreached.time) / 1_000_000_000;
        let state = if unreached.is_running() { "alive" } else { "ended" };
        let name = Escaped(unreached.name()).to_string();
        println!("{:>8}  {name:<16}  {state:<8}  {seconds:>9}  {}", unreached.pid, unreached.why.text());
    }
}

/// Prints which processes hold snapshots back that others want to make: what they do, to which file, and since when a snapshot waits
/// for it.
fn print_delays(table: &Table) {
    for (at, (id, delay)) in table.delays().enumerate() {
        if at == 0 {
            println!();
            println!("{:>8}  {:<16}  {:>8}  {:>10}  holds back", "pid", "program", "thread", "seconds");
        }
        let seconds = raw::now().saturating_sub(delay.since) as f64 / 1e9;
        let what =
            delay.origin.map_or_else(|| "a fork with snapshots".into(), |origin| format!("snapshots of {origin}"));
        let why = match delay.cause {
            Cause::Write(_, descriptor) => format!(
                "it writes to {}",
                processes::open_file(id.pid(), delay.thread, descriptor).unwrap_or_else(|| "a file".into())
            ),
            Cause::Mapping => "it may have that mapped shared, and does not answer".into(),
            Cause::DirectWrite => "it has direct writes under way".into(),
        };
        println!("{:>8}  {:<16}  {:>8}  {seconds:>10.1}  {what}: {why}", id.pid(), name(id), delay.thread);
    }
}

fn print_snapshot(table: &Table, index: u32, view: &View) {
    let pid = table.owner(view.meta.owner).map_or(0, |(_, _, id)| id.pid());
    let state = match view.head.state() {
        State::Exact if view.is_guarded() => "live",
        State::Exact => "exact",
        State::Doubtful => "doubtful",
        _ => "broken",
    };
    let covered = view.covered_pages();
    let preserved = table.preserved_pages(index, view);
    let origin = view.meta.origin.to_string();
    let why = if view.head.state() == State::Exact { "" } else { why(view.flags) };
    println!("{pid:>8}  {origin:<32}  {state:<8}  {:>12}  {preserved:>10}{why}", covered.end - covered.start);
}

fn why(flags: SegmentFlags) -> &'static str {
    if flags.contains(FOREIGN_TRUNCATION) {
        "  a program without the shim truncated the file"
    } else if flags.contains(FOREIGN_CHANGE) {
        "  a program without the shim changed the file"
    } else if flags.contains(FOREIGN_MAPPING) {
        "  a program without the shim had the file mapped shared and writable"
    } else {
        ""
    }
}

fn name(id: ProcessId) -> String {
    processes::program(id.pid())
}

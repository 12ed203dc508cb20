//! `snapshim status`: the processes in the table, and the snapshots that they hold, one line each.

use std::fs;

use snapshim::cooperate::liveness::{self, Liveness};
use snapshim::protocol::process_id::ProcessId;
use snapshim::protocol::snapshot::{FOREIGN_CHANGE, FOREIGN_MAPPING, FOREIGN_TRUNCATION, SegmentFlags, State, View};
use snapshim::sys::escaped::Escaped;
use snapshim::table::Table;
use snapshim::table::attach::Attached;

/// Prints which processes are attached, and which snapshots they hold. The dead are taken out first, so none of them is listed.
pub fn run(attached: &Attached) {
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
        println!("{:>8}  {:<16}  {:<8}  {:>9}", who.pid, program(who.pid), "unseen", "-");
    }
    if table.unseen().has_nameless() {
        println!("{:>8}  {:<16}  {:<8}  {:>9}", "-", "(other pids)", "unseen", "-");
    }
    table.doubt_if_unseen();
    println!();
    println!("{:>8}  {:<32}  {:<8}  {:>12}  {:>10}", "pid", "origin", "state", "pages", "preserved");
    // A single walk: each line is about one record.
    for (index, view) in table.walk_once().live() {
        print_snapshot(table, index, &view);
    }
}

fn print_snapshot(table: &Table, index: u32, view: &View) {
    let pid = table.owner(view.meta.owner).map_or(0, |(_, _, id)| id.pid());
    let state = match view.head.state() {
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
    program(id.pid())
}

fn program(pid: u32) -> String {
    // The kernel ends the name with a newline of its own.
    fs::read(format!("/proc/{pid}/comm"))
        .map_or_else(|_| "?".into(), |name| Escaped(name.strip_suffix(b"\n").unwrap_or(&name)).to_string())
}

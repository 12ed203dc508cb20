//! What stands in the table at this moment, with names: the processes, the snapshots, and which process holds a snapshot back.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use serde_json::{Value, json};
use snapshim::cooperate::liveness::{self, Liveness};
use snapshim::cooperate::locate;
use snapshim::protocol::delay::Cause;
use snapshim::protocol::origin::{Origin, Target};
use snapshim::protocol::process::Agent;
use snapshim::protocol::snapshot::{State, View};
use snapshim::sys::escaped::Escaped;
use snapshim::sys::raw;
use snapshim::table::Table;

use crate::maps::{self, Mapping};
use crate::snapshot::PAGE;
use crate::{number, processes};

/// A process that takes part, or cannot.
pub struct Process {
    /// `None`: processes of another pid namespace.
    pub pid: Option<u32>,
    pub program: String,
    pub state: &'static str,
    /// `None`: it cannot take part.
    pub snapshots: Option<usize>,
    /// Its threads that are writers to the table: they have changed a file, or asked other processes for something.
    pub threads: Option<usize>,
    /// Whether it has an agent.
    pub agent: &'static str,
    /// Whether it has files mapped shared and writable, or may have.
    pub shares: bool,
}

/// A process that holds snapshots back which others want to make.
pub struct Delay {
    pub pid: u32,
    pub program: String,
    pub thread: u32,
    pub seconds: f64,
    pub what: String,
    pub why: String,
}

/// A segment of a snapshot.
pub struct Snapshot {
    /// All segments of one mapping have it, those that a child has inherited as well.
    pub id: u64,
    pub pid: u32,
    pub program: String,
    /// The file as its mapper's memory map names it, else as it was called when a snapshot of it was taken last; `None`: neither is
    /// known.
    pub file: Option<String>,
    /// What the file was called when a snapshot of it was taken last.
    pub taken_as: Option<String>,
    /// Since the snapshot was taken.
    pub age: Duration,
    pub origin: String,
    pub state: &'static str,
    /// Why it is doubtful or broken.
    pub why: Option<String>,
    pub offset: u64,
    pub pages: u64,
    pub preserved: u64,
    /// Memory that it costs.
    pub held: u64,
}

impl Snapshot {
    /// Whether writers preserve pages for it.
    pub fn wants_pages(&self) -> bool {
        matches!(self.state, "exact" | "doubtful")
    }
}

/// A program that was executed without the library, and may change files unseen.
pub struct Unreached {
    pub pid: u32,
    pub program: String,
    pub is_running: bool,
    pub seconds: u64,
    pub why: &'static str,
}

pub struct Survey {
    pub processes: Vec<Process>,
    pub delays: Vec<Delay>,
    pub snapshots: Vec<Snapshot>,
    pub unreached: Vec<Unreached>,
}

impl Survey {
    /// Looks at all of the table. The dead are taken out first, so that none of them is listed.
    pub fn of(table: &Table) -> Self {
        table.reap_the_dead();
        let processes = processes(table);
        let delays = delays(table);
        table.doubt_if_unseen();
        let mut mappers = HashMap::new();
        // A single walk: each entry is about one record.
        let snapshots =
            table.walk_once().live().map(|(index, view)| snapshot(table, index, &view, &mut mappers)).collect();
        let unreached = table.unreached().programs().map(|it| Unreached {
            pid: it.pid,
            program: Escaped(it.name()).to_string(),
            is_running: it.is_running(),
            seconds: raw::now().saturating_sub(it.time) / 1_000_000_000,
            why: it.why.text(),
        });
        Self { processes, delays, snapshots, unreached: unreached.collect() }
    }

    pub fn as_json(&self) -> Value {
        let process = |it: &Process| {
            json!({
                "pid": it.pid, "program": it.program, "state": it.state, "snapshots": it.snapshots, "threads": it.threads,
                "agent": it.agent, "shares": it.shares,
            })
        };
        let delay = |it: &Delay| {
            json!({
                "pid": it.pid, "program": it.program, "thread": it.thread, "seconds": it.seconds, "what": it.what, "why": it.why,
            })
        };
        let snapshot = |it: &Snapshot| {
            json!({
                "id": number::shown(it.id), "pid": it.pid, "program": it.program, "file": it.file, "taken_as": it.taken_as,
                "origin": it.origin, "state": it.state, "why": it.why, "age_seconds": it.age.as_secs_f64(), "offset": it.offset,
                "bytes": it.pages * PAGE, "preserved_bytes": it.preserved * PAGE, "held_bytes": it.held,
            })
        };
        let unreached = |it: &Unreached| {
            json!({
                "pid": it.pid, "program": it.program, "is_running": it.is_running, "seconds": it.seconds, "why": it.why,
            })
        };
        json!({
            "unreached": self.unreached.iter().map(unreached).collect::<Vec<_>>(),
            "processes": self.processes.iter().map(process).collect::<Vec<_>>(),
            "delays": self.delays.iter().map(delay).collect::<Vec<_>>(),
            "snapshots": self.snapshots.iter().map(snapshot).collect::<Vec<_>>(),
        })
    }
}

fn processes(table: &Table) -> Vec<Process> {
    let mut found = Vec::new();
    for (index, record) in table.processes_used().iter().enumerate() {
        let Some(id) = record.id() else { continue };
        let owner = id.owner_word(index as u32);
        let held = table.over_splits(|walk| walk.owned_by(owner).count());
        let state = match liveness::of(record, id) {
            Liveness::Alive => "alive",
            Liveness::Dead => "dead",
            Liveness::Unknown => "unknown",
        };
        let program = processes::program(id.pid());
        let writers = table.writers_used().iter().filter(|slot| slot.lease().process() == owner);
        let (threads, shares) = (Some(writers.count()), record.sharing.is_any());
        let agent = agent(record.agent(id));
        found.push(Process { pid: Some(id.pid()), program, state, snapshots: Some(held), threads, agent, shares });
    }
    let unseen = |pid, program| Process {
        pid,
        program,
        state: "unseen",
        snapshots: None,
        threads: None,
        agent: "-",
        shares: false,
    };
    found.extend(table.unseen().named().map(|who| unseen(Some(who.pid), processes::program(who.pid))));
    if table.unseen().has_nameless() {
        found.push(unseen(None, "(other pids)".to_owned()));
    }
    found
}

const fn agent(agent: Agent) -> &'static str {
    match agent {
        Agent::Thread(_) => "runs",
        Agent::NotYet => "not yet",
        Agent::None => "none",
    }
}

/// Which processes hold snapshots back that others want to make: what they do, to which file, and since when a snapshot waits for
/// it.
fn delays(table: &Table) -> Vec<Delay> {
    let describe = |(id, delay): (snapshim::protocol::process_id::ProcessId, snapshim::protocol::delay::Delay)| {
        let seconds = raw::now().saturating_sub(delay.since) as f64 / 1e9;
        let what =
            delay.origin.map_or_else(|| "a fork with snapshots".into(), |origin| format!("snapshots of {origin}"));
        let why = match delay.cause {
            Cause::Write(_, descriptor) => {
                let file = processes::open_file(id.pid(), delay.thread, descriptor);
                format!("it writes to {}", file.unwrap_or_else(|| "a file".into()))
            }
            Cause::Mapping => "it may have that mapped shared, and does not answer".into(),
            Cause::DirectWrite => "it has direct writes under way".into(),
        };
        Delay { pid: id.pid(), program: processes::program(id.pid()), thread: delay.thread, seconds, what, why }
    };
    table.delays().map(describe).collect()
}

/// A process with snapshots, as /proc shows it: read once for all of them.
struct Mapper {
    program: String,
    maps: Vec<Mapping>,
}

impl Mapper {
    fn of(pid: u32) -> Self {
        Self { program: processes::program(pid), maps: maps::of(pid).unwrap_or_default() }
    }
}

fn snapshot(table: &Table, index: u32, view: &View, mappers: &mut HashMap<u32, Mapper>) -> Snapshot {
    let pid = table.owner(view.meta.owner).map_or(0, |(_, _, id)| id.pid());
    let mapper = mappers.entry(pid).or_insert_with(|| Mapper::of(pid));
    let state = match view.head.state() {
        State::Exact if view.is_guarded() => "live",
        State::Exact => "exact",
        State::Doubtful => "doubtful",
        _ => "broken",
    };
    let covered = view.covered_pages();
    let preserved = table.preserved_pages(index, view);
    let taken_as = table.name_of(view.meta.origin).map(|name| shown_name(name.bytes()));
    let bookkeeping = table.blocks_for(index).taken(view.head.incarnation());
    Snapshot {
        id: view.meta.mapping,
        pid,
        program: mapper.program.clone(),
        file: maps::file_at(&mapper.maps, view.extent.address).or_else(|| taken_as.clone()),
        taken_as,
        age: Duration::from_millis(raw::since_boot().saturating_sub(view.meta.taken_at())),
        origin: view.meta.origin.to_string(),
        state,
        why: view.head.cause().map(|cause| table.why(cause).to_string()),
        offset: view.extent.first * PAGE,
        pages: covered.end - covered.start,
        preserved,
        held: (preserved + bookkeeping) * PAGE,
    }
}

/// A name as the table keeps it: of a long one it has the end.
fn shown_name(name: &[u8]) -> String {
    let before = if name.starts_with(b"/") { "" } else { "..." };
    format!("{before}{}", Escaped(name))
}

/// A file or a block device, as the table names it.
pub fn origin(file: &File) -> Option<Origin> {
    match locate::target_of_descriptor(file.as_raw_fd() as u32) {
        Target::Origin(origin) => Some(origin),
        Target::Unknown | Target::Elsewhere => None,
    }
}

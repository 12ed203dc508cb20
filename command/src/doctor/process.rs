//! A process: whether the library is in it, which table it uses, and what it can change.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use snapshim::table::Table;

use super::standing::{self, Standing};
use super::{Finding, Grade, Report};
use crate::failure::{Failure, Outcome, shown};
use crate::maps::Mapping;
use crate::{processes, table};

/// So many names are listed.
const MOST: usize = 5;

/// The number of the process that starts all others.
const FIRST: u32 = 1;

pub fn report(pid: u32) -> Outcome<Report> {
    if !PathBuf::from(format!("/proc/{pid}")).exists() {
        return Err(Failure::failed(format!("there is no process {pid}"), "check the number; ps(1) lists them"));
    }
    let (standing, maps) = standing::of(pid);
    let attached = table::attached_or_none()?;
    let is_in_table = processes::cooperating(attached.as_ref().map(|attached| attached.table)).contains(&pid);
    let mut findings = vec![
        if is_in_table && standing == Standing::Hidden {
            Finding::well("library", "it takes part in this table; this user may not look at more of it")
        } else {
            taking_part(pid, &standing, &maps)
        },
        state(pid),
    ];
    findings.extend(writable(pid, &standing));
    findings.extend(shared(pid, &standing, &maps));
    match attached {
        Some(attached) => findings.extend(in_table(attached.table, pid)),
        None => findings.push(
            Finding::new("table", Grade::NoTable, "there is no table: no program has a snapshot")
                .helped_by("start programs by `snapshim run -- PROGRAM`, or set SNAPSHIM_DIR to where their table is"),
        ),
    }
    Ok(Report { subject: format!("process {pid} ({})", processes::program(pid)), findings })
}

/// What to do about a process that takes no part.
fn remedy(pid: u32, standing: &Standing) -> &'static str {
    match standing {
        Standing::Without(_) if pid == FIRST => {
            "it is not started again; the services that it starts can be: set LD_PRELOAD and SNAPSHIM_DIR in their units"
        }
        _ => standing.remedy(),
    }
}

fn taking_part(pid: u32, standing: &Standing, maps: &[Mapping]) -> Finding {
    if standing.is_seen() {
        let library = standing::library_in(maps).filter(|library| library.is_deleted);
        let found = Finding::well("library", standing.words());
        return match library {
            None => found,
            Some(library) => Finding::new(
                "library",
                Grade::Note,
                format!("{}, by a library whose file was replaced since ({})", standing.words(), shown(library.path())),
            )
            .helped_by("start it again, to have the newer one"),
        };
    }
    let (grade, meaning) = match standing {
        Standing::Hidden => (Grade::Partly, "whether it takes part is not known"),
        Standing::Kernel => (Grade::Note, "what it changes for others is in no exact snapshot"),
        _ => (Grade::Partly, "what it writes is in no exact snapshot"),
    };
    Finding::new("library", grade, format!("{}: {meaning}", standing.words())).helped_by(remedy(pid, standing))
}

/// A stopped process cannot let go of what it is about to write.
fn state(pid: u32) -> Finding {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or_default().trim();
    match state.chars().next() {
        Some('T' | 't') => Finding::new(
            "state",
            Grade::Note,
            "it is stopped: snapshots of a file that it is writing wait for it, and fail",
        )
        .helped_by(format!("continue it: kill -CONT {pid}")),
        Some('Z' | 'X') | None => Finding::new("state", Grade::Note, "it has ended"),
        Some(_) => Finding::well("state", "it runs"),
    }
}

/// What is open for writing in a process that is not seen.
fn writable(pid: u32, standing: &Standing) -> Option<Finding> {
    if standing.is_seen() || *standing == Standing::Hidden {
        return None;
    }
    let files = processes::files_open_for_writing(pid);
    (!files.is_empty()).then(|| {
        Finding::new("open", Grade::Partly, format!("it has open for writing, unseen: {}", list(&files)))
            .helped_by(remedy(pid, standing))
    })
}

/// The files that its stores change without a call.
fn shared(pid: u32, standing: &Standing, maps: &[Mapping]) -> Option<Finding> {
    let is_table = |mapping: &Mapping| super::tables::used_by(std::slice::from_ref(mapping)).is_some();
    let changing = maps.iter().filter(|mapping| mapping.changes_file() && !is_table(mapping));
    let files: BTreeSet<PathBuf> = changing.map(|mapping| mapping.path().to_owned()).collect();
    if files.is_empty() {
        return None;
    }
    let files: Vec<_> = files.into_iter().collect();
    let what = format!("it has mapped shared and writable: {}", list(&files));
    Some(if standing.is_seen() {
        Finding::well("shared", format!("{what}; its first store into each part traps while there is a snapshot"))
    } else {
        Finding::new("shared", Grade::Partly, format!("{what}; a snapshot of them is doubtful"))
            .helped_by(remedy(pid, standing))
    })
}

fn list(files: &[PathBuf]) -> String {
    let names: Vec<String> = files.iter().take(MOST).map(|file| shown(file)).collect();
    let more = files.len().saturating_sub(MOST);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    names.join(", ") + &more
}

/// What the table knows of the process.
fn in_table(table: &Table, pid: u32) -> Vec<Finding> {
    let mut findings = Vec::new();
    if table.unseen().named().any(|who| who.pid == pid) {
        findings.push(
            Finding::new(
                "unseen",
                Grade::Doubtful,
                "it could not join the table: all snapshots are doubtful while it lives",
            )
            .helped_by("its log says why it could not; start it again where it can"),
        );
    }
    let used = table.processes_used().iter().enumerate();
    let Some(owner) = used.filter_map(|(index, record)| Some((record.id()?, index))).find(|(id, _)| id.pid() == pid)
    else {
        return findings;
    };
    let owner = owner.0.owner_word(owner.1 as u32);
    let states = table.over_splits(|walk| walk.owned_by(owner).map(|(_, view)| view.head.state()).collect::<Vec<_>>());
    let inexact = states.iter().filter(|state| **state != snapshim::protocol::snapshot::State::Exact).count();
    findings.push(match (states.len(), inexact) {
        (0, _) => Finding::well("snapshots", "it holds no snapshot"),
        (all, 0) => Finding::well("snapshots", format!("its {all} snapshots are exact")),
        (all, inexact) => Finding::new(
            "snapshots",
            Grade::Doubtful,
            format!("{inexact} of its {all} snapshots are doubtful or broken"),
        )
        .helped_by("`snapshim status` says which, and why"),
    });
    findings
}

/// A process number, if that is what was typed.
pub fn number(argument: &str) -> Option<u32> {
    argument.parse().ok().filter(|_| !PathBuf::from(argument).exists())
}

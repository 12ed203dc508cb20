//! `snapshim drop`: ends snapshots of other processes by hand.

use std::process::ExitCode;

use anstream::println;
use serde_json::{Value, json};

use crate::cli::Drop;
use crate::failure::{Code, Failure, Outcome};
use crate::library::{Library, Undropped};
use crate::survey::{Snapshot, Survey};
use crate::{number, processes, table};

pub fn run(arguments: &Drop) -> Outcome<ExitCode> {
    table::attached()?;
    let library = Library::enter()?;
    let held = Survey::of(table::attached()?.table).snapshots;
    let wanted = if arguments.all { all(&held) } else { named(&arguments.snapshots)? };
    let (mut dropped, mut failures) = (Vec::new(), Vec::new());
    for id in &wanted {
        match library.drop_mapping(*id) {
            Ok(()) => dropped.push(*id),
            // It has ended by itself.
            Err(Undropped { error, .. }) if arguments.all && error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(why) => failures.push(not_dropped(*id, &why)),
        }
    }
    say(arguments, &dropped, &held);
    failures.iter().for_each(Failure::say);
    Ok(match (failures.is_empty(), dropped.is_empty()) {
        (true, _) => ExitCode::SUCCESS,
        (false, true) => Code::Failed.into(),
        (false, false) => Code::Partly.into(),
    })
}

/// The numbers of all snapshots that can be dropped, each once.
fn all(held: &[Snapshot]) -> Vec<u64> {
    let mut ids: Vec<u64> = held.iter().filter(|it| it.wants_pages()).map(|it| it.id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn named(names: &[String]) -> Outcome<Vec<u64>> {
    let read = |name: &String| {
        number::read(name).ok_or_else(|| {
            Failure::new(Code::Usage, format!("{name:?} is no number of a snapshot"))
                .helped_by("`snapshim status` shows the numbers, in the column `id`")
        })
    };
    names.iter().map(read).collect()
}

fn say(arguments: &Drop, dropped: &[u64], held: &[Snapshot]) {
    let of = |id: &u64| held.iter().filter(|it| it.id == *id).collect::<Vec<_>>();
    if arguments.json {
        let one = |id: &u64| {
            let holders: Vec<Value> = of(id).iter().map(|it| json!({ "pid": it.pid, "program": it.program })).collect();
            json!({ "id": number::shown(*id), "file": of(id).first().and_then(|it| it.file.clone()), "held_by": holders })
        };
        println!("{}", json!({ "dropped": dropped.iter().map(one).collect::<Vec<_>>() }));
        return;
    }
    for id in dropped {
        let holders: Vec<String> = of(id).iter().map(|it| format!("process {} ({})", it.pid, it.program)).collect();
        let file = of(id).first().and_then(|it| it.file.clone()).unwrap_or_else(|| "a file".to_owned());
        println!("dropped {}: of {file}, held by {}", number::shown(*id), holders.join(", "));
    }
    if arguments.all && dropped.is_empty() {
        println!("no snapshot is held");
    }
}

fn not_dropped(id: u64, why: &Undropped) -> Failure {
    let id = number::shown(id);
    let process = format!("process {} ({})", why.pid, processes::program(why.pid));
    match why.error.raw_os_error() {
        Some(libc::ENOENT) => Failure::failed(
            format!("there is no snapshot {id}, or it has ended, or is broken already"),
            "`snapshim status` lists those that are held",
        ),
        Some(libc::EOPNOTSUPP) => Failure::failed(
            format!("{id} is a guarded mapping of {process}: no snapshot, and no writer preserves for it"),
            "end the program, to end it",
        ),
        Some(libc::ETIMEDOUT) => Failure::failed(
            format!("snapshot {id} stays as it was: {process} does not answer (it may be stopped)"),
            format!("continue it (kill -CONT {}), or end it: its snapshots end with it", why.pid),
        ),
        _ => Failure::failed(
            format!("snapshot {id} stays as it was: {}", crate::failure::words(&why.error)),
            "the library's log above says more",
        ),
    }
}

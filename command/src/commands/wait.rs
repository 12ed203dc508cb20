//! `snapshim wait`: until no snapshot of a file is held.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use snapshim::protocol::origin::Origin;
use snapshim::table::Table;

use crate::cli::Wait;
use crate::failure::{Code, Failure, Outcome, shown};
use crate::table::Watched;
use crate::{interrupt, processes, survey};

/// How often the table is looked at.
const PERIOD: Duration = Duration::from_millis(50);

pub fn run(arguments: &Wait) -> Outcome<ExitCode> {
    let path = &arguments.file;
    let file = File::open(path).map_err(|error| Failure::of_file("read", path, &error))?;
    let origin = survey::origin(&file).ok_or_else(|| {
        Failure::failed(
            format!("cannot wait for {}: it is neither a file nor a block device", shown(path)),
            "name a regular file or a block device",
        )
    })?;
    let until = arguments.timeout.map(|seconds| Instant::now() + seconds);
    interrupt::catch();
    let mut watched = Watched::new()?;
    loop {
        let holders = holders(watched.table()?, origin);
        if holders.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        if interrupt::is_caught() {
            return Err(Failure::new(
                Code::Failed,
                format!("interrupted; snapshots of {} are still held", shown(path)),
            ));
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(still_held(path, &holders));
        }
        std::thread::sleep(PERIOD);
    }
}

/// The processes that hold snapshots of the file.
fn holders(table: &Table, origin: Origin) -> BTreeSet<u32> {
    table.reap_the_dead();
    table.over_splits(|walk| {
        let snapshots = walk.of(origin).filter(|(_, view)| !view.is_guarded());
        snapshots.map(|(_, view)| table.owner(view.meta.owner).map_or(0, |(_, _, id)| id.pid())).collect()
    })
}

fn still_held(path: &Path, holders: &BTreeSet<u32>) -> Failure {
    let failure = Failure::new(Code::Failed, format!("snapshots of {} are still held", shown(path)));
    let note = |failure: Failure, pid: &u32| failure.noting(format!("by process {pid} ({})", processes::program(*pid)));
    holders
        .iter()
        .fold(failure, note)
        .helped_by("wait longer, end these programs, or end the snapshots (`snapshim status`, `snapshim drop`)")
}

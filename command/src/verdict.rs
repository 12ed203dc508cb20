//! What a snapshot is worth, and which program is why.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::Duration;

use crate::failure::{Code, Failure, Outcome, shown};
use crate::library::{DOUBTFUL, EXACT, Stat};
use crate::processes;
use crate::snapshot::{Snapshot, Source};
use crate::table;

/// SNAPSHIM_FOREIGN_CHANGE and its kin, in words.
const CAUSES: [(i32, &str); 3] = [
    (2, "a program without the library truncated it"),
    (1, "a program without the library changed it"),
    (4, "a program without the library had it mapped shared and writable"),
];

/// How often processes are looked at for one that has a file open for writing, before it is said that there is none.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// The statistics of an exact snapshot; a failure of code [`Code::Inexact`] for any other.
pub fn exact(source: &Source, snapshot: &Snapshot) -> Outcome<Stat> {
    match snapshot.check(source) {
        Some(stat) if stat.state == EXACT => Ok(stat),
        stat => Err(inexact(source, snapshot, stat)),
    }
}

/// Whether a snapshot is as promised.
pub fn is_exact(source: &Source, snapshot: &Snapshot) -> bool {
    snapshot.check(source).is_some_and(|stat| stat.state == EXACT)
}

fn inexact(source: &Source, snapshot: &Snapshot, stat: Option<Stat>) -> Failure {
    let is_doubtful = stat.is_some_and(|stat| stat.state == DOUBTFUL);
    let state = if is_doubtful { "doubtful" } else { "broken" };
    let cause = stat.map_or(0, |stat| stat.cause);
    let foreign = CAUSES.iter().find(|(flag, _)| cause & flag != 0).map(|(_, words)| (*words).to_owned());
    let why = foreign.or_else(|| snapshot.why()).unwrap_or_else(|| "the library's log says why".to_owned());
    let mut failure = Failure::new(Code::Inexact, format!("the snapshot of {} is {state}: {why}", shown(&source.path)));
    let writers = writers(source);
    for pid in &writers {
        let name = processes::program(*pid);
        failure = failure
            .noting(format!("process {pid} ({name}) has it open for writing and does not run under the library"));
    }
    if cause != 0 && writers.is_empty() {
        failure = failure.noting("no such program that this user may look at has it open any more");
    }
    failure.helped_by(match (cause != 0, is_doubtful) {
        (true, _) => "start that program by `snapshim run -- PROGRAM`, or end it, and copy again",
        (false, true) => "`snapshim doctor FILE` looks for what changes it",
        (false, false) => "free some memory, or copy again",
    })
}

/// A program that opens the file again and again has it by another number each moment, and a look may miss it.
fn writers(source: &Source) -> Vec<u32> {
    let Ok(found) = source.file.metadata() else { return Vec::new() };
    let (device, inode) =
        if found.file_type().is_block_device() { (found.rdev(), 0) } else { (found.dev(), found.ino()) };
    // Once for all looks: nothing unmaps the table, and a look takes long enough as it is.
    let cooperating = processes::cooperating(table::attached().ok().map(|attached| attached.table));
    let look = |number| {
        if number > 0 {
            std::thread::sleep(BETWEEN_LOOKS);
        }
        Some(processes::foreign_writers(&cooperating, device, inode)).filter(|writers| !writers.is_empty())
    };
    (0..LOOKS).find_map(look).unwrap_or_default()
}

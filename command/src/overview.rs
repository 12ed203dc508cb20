//! What the table holds, summed up: how full it is, and what each file costs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use snapshim::protocol::limits::{BLOCKS, PROCESSES, SNAPSHOTS, WRITERS};
use snapshim::table::Table;

use crate::survey::Snapshot;

/// How much of each part of the table is used, and how much there is.
#[derive(Debug)]
pub struct Fill {
    pub parts: [(&'static str, usize, usize); 4],
}

impl Fill {
    pub fn of(table: &Table) -> Self {
        let processes = table.processes_used().iter().filter(|record| record.id().is_some()).count();
        let threads = table.writers_used().iter().filter(|slot| !slot.lease().is_vacant()).count();
        let segments = table.walk_once().live().count();
        Self {
            parts: [
                ("processes", processes, PROCESSES),
                ("threads", threads, WRITERS),
                ("segments", segments, SNAPSHOTS),
                ("blocks", table.blocks_in_use(), BLOCKS),
            ],
        }
    }
}

/// A file or a device that snapshots are of.
#[derive(Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its name, where one is known.
    pub file: String,
    pub segments: usize,
    pub mappers: usize,
    /// Segments that are doubtful or broken.
    pub inexact: usize,
    /// Bytes.
    pub held: u64,
}

/// The origins of snapshots, those first that cost most.
pub fn origins(snapshots: &[Snapshot]) -> Vec<Origin> {
    let mut by_origin: BTreeMap<&str, Vec<&Snapshot>> = BTreeMap::new();
    for snapshot in snapshots {
        by_origin.entry(&snapshot.origin).or_default().push(snapshot);
    }
    let sum = |(name, all): (&str, Vec<&Snapshot>)| Origin {
        file: all.iter().find_map(|it| it.file.clone()).unwrap_or_else(|| name.to_owned()),
        segments: all.len(),
        mappers: all.iter().map(|it| it.pid).collect::<BTreeSet<_>>().len(),
        inexact: all.iter().filter(|it| !matches!(it.state, "exact" | "live")).count(),
        held: all.iter().map(|it| it.held).sum(),
    };
    let mut origins: Vec<Origin> = by_origin.into_iter().map(sum).collect();
    origins.sort_by_key(|origin| Reverse(origin.held));
    origins
}

/// An age in the largest unit of which it has two at least: `7 s`, `3 min`, `26 h`, `5 d`.
pub fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let units = [(86400, "d"), (3600, "h"), (60, "min")];
    let (unit, name) = units.into_iter().find(|(unit, _)| seconds >= 2 * unit).unwrap_or((1, "s"));
    format!("{} {name}", seconds / unit)
}

/// Bytes as people say them: `12 KiB`, `3.4 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(size < 10.0 && size.fract() > 0.05);
    format!("{size:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_told_in_a_unit_that_fits() {
        let told = [0, 119, 120, 7199, 7200, 172_799, 172_800].map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(told, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d"]);
    }

    #[test]
    fn sizes_are_said_in_a_unit_that_fits() {
        let said = [0, 1023, 1024, 1536, 10 << 20, 5 << 30, u64::MAX].map(size);
        assert_eq!(said, ["0 B", "1023 B", "1 KiB", "1.5 KiB", "10 MiB", "5 GiB", "16384 PiB"]);
    }
}

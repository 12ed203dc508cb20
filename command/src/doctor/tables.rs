//! Tables in /proc/PID/maps: which one a process uses.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use snapshim::table::{Table, attach};

use super::{Finding, Grade};
use crate::failure::shown;
use crate::maps::{self, Mapping};
use crate::overview::Fill;
use crate::{processes, table};

/// A table that a process has mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// Where it is, or was.
    pub directory: PathBuf,
    pub is_ours: bool,
    /// No path leads to it any more, so that no process finds it.
    pub is_removed: bool,
}

/// The table that a process uses; `None`: none so far.
pub fn used_by(maps: &[Mapping]) -> Option<Used> {
    let may_be_table = |mapping: &&Mapping| mapping.changes_file() && is_name(mapping);
    let table = maps.iter().find(may_be_table)?;
    let directory = table.path().parent()?.to_owned();
    let ours = table::directory().0.join(OsStr::from_bytes(attach::FILE_NAME.to_bytes()));
    let is_ours = fs::metadata(&ours).is_ok_and(|found| found.ino() == table.inode && found.dev() == table.device);
    let is_removed = !is_ours && !is_named_in(&directory, table.inode);
    Some(Used { directory, is_ours, is_removed })
}

/// Whether a file may be a table by its name, which has the version in it. In the process that made it, before it had that name,
/// it is called by a number.
fn is_name(mapping: &Mapping) -> bool {
    let name = mapping.path().file_name().unwrap_or_default().as_bytes();
    let number = name.strip_prefix(b"table-").or_else(|| name.strip_prefix(b"#").filter(|_| mapping.is_deleted));
    number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

/// Whether a table of that inode is in a directory.
fn is_named_in(folder: &Path, inode: u64) -> bool {
    let is_it = |entry: fs::DirEntry| entry.ino() == inode && entry.file_name().as_bytes().starts_with(b"table-");
    fs::read_dir(folder).is_ok_and(|entries| entries.flatten().any(is_it))
}

/// Processes of our directory that use a table which was removed, or that is of another version.
pub fn strays() -> Vec<Finding> {
    let directory = table::directory().0;
    let directory = directory.canonicalize().unwrap_or(directory);
    let stray = |pid: u32| {
        let used = used_by(&maps::of(pid).ok()?)?;
        if used.is_ours || used.directory != directory {
            return None;
        }
        let is = if used.is_removed { "a table that was removed" } else { "a table of another version" };
        let what = format!("process {pid} ({}) uses {is}, in {}", processes::program(pid), shown(&used.directory));
        Some(
            Finding::new("strays", Grade::Doubtful, what)
                .helped_by("start it again: until then neither sees what the other changes"),
        )
    };
    processes::all().into_iter().filter_map(stray).collect()
}

/// What our table says of itself.
pub fn own(table: &Table, is_current: bool) -> Vec<Finding> {
    table.reap_the_dead();
    let mut findings = vec![if is_current {
        Finding::well("table", "the table is in its place, and of this version")
    } else {
        Finding::new("table", Grade::NoTable, "the table was removed or replaced while it was looked at")
            .helped_by("start the programs that cooperate again")
    }];
    findings.extend(Fill::of(table).parts.map(|(part, used, room)| fill(part, used, room)));
    let unseen = table.unseen();
    let names: Vec<String> =
        unseen.named().map(|who| format!("process {} ({})", who.pid, processes::program(who.pid))).collect();
    if !names.is_empty() || unseen.has_nameless() {
        let who = if names.is_empty() { "a process of another pid namespace".to_owned() } else { names.join(", ") };
        findings.push(
            Finding::new(
                "unseen",
                Grade::Doubtful,
                format!("{who} takes no part: all snapshots are doubtful while it lives"),
            )
            .helped_by("its log says why it could not join; start it again where it can"),
        );
    }
    findings
}

/// How full an array of the table is.
fn fill(check: &'static str, used: usize, room: usize) -> Finding {
    let what = format!("{used} of {room} {check} in the table");
    if used * 10 < room * 9 {
        return Finding::well(check, what);
    }
    Finding::new(check, Grade::Note, format!("{what}: soon there is no room for more"))
        .helped_by("`snapshim status` shows which programs have how many; `snapshim gc` takes out what the dead left")
}

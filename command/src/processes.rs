//! Other processes, as /proc shows them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use snapshim::sys::escaped::Escaped;
use snapshim::table::Table;

use crate::maps::{self, Mapping};

/// A program by its name; `?` if it is gone.
pub fn program(pid: u32) -> String {
    // The kernel ends the name with a newline of its own.
    fs::read(format!("/proc/{pid}/comm"))
        .map_or_else(|_| "?".into(), |name| Escaped(name.strip_suffix(b"\n").unwrap_or(&name)).to_string())
}

/// Where a thread has a file open at a number, by its path.
pub fn open_file(pid: u32, thread: u32, descriptor: u32) -> Option<String> {
    let path = fs::read_link(format!("/proc/{pid}/task/{thread}/fd/{descriptor}")).ok()?;
    Some(Escaped(path.as_os_str().as_bytes()).to_string())
}

/// Numbers of all processes that /proc shows.
pub fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// The processes that are in the table, if there is one.
pub fn cooperating(table: Option<&Table>) -> BTreeSet<u32> {
    let records = table.map_or(&[][..], Table::processes_used);
    records.iter().filter_map(|record| Some(record.id()?.pid())).collect()
}

/// The processes that can write the file of this device and inode, and are none of the cooperating.
pub fn foreign_writers(cooperating: &BTreeSet<u32>, device: u64, inode: u64) -> Vec<u32> {
    let own = std::process::id();
    let strangers = all().into_iter().filter(|pid| *pid != own && !cooperating.contains(pid));
    strangers.filter(|pid| writes(*pid, device, inode)).collect()
}

/// Whether a process has the file of this device and inode open for writing; of inode 0, the block device.
pub fn writes(pid: u32, device: u64, inode: u64) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|entry| {
        // The others are not asked for: a file of a view, for one, is answered for by a process that may be the one that asks.
        is_open_for_writing(pid, &entry.file_name().to_string_lossy())
            && fs::metadata(entry.path()).is_ok_and(|found| {
                (found.dev(), found.ino()) == (device, inode)
                    || (found.rdev() != 0 && found.rdev() == device && inode == 0)
            })
    })
}

/// What keeps a mount busy: which processes, and how. The mount is known by its path, its number and its device.
pub fn users_of_mount(place: &Path, number: u64, device: u64) -> Vec<(u32, &'static str)> {
    let own = std::process::id();
    let others = all().into_iter().filter(|pid| *pid != own);
    others.filter_map(|pid| Some((pid, use_of_mount(pid, place, number, device)?))).collect()
}

/// How a process uses a mount. No file system but that one is asked for anything: another one may not answer.
fn use_of_mount(pid: u32, place: &Path, number: u64, device: u64) -> Option<&'static str> {
    let leads_there = |name: &str| {
        let link = format!("/proc/{pid}/{name}");
        fs::read_link(&link).is_ok_and(|path| path.starts_with(place))
            && fs::metadata(&link).is_ok_and(|found| found.dev() == device)
    };
    let is_mapped = || {
        let is_of_it = |mapping: &Mapping| mapping.device == device && mapping.path().starts_with(place);
        maps::of(pid).is_ok_and(|maps| maps.iter().any(is_of_it))
    };
    if has_open_in_mount(pid, number) {
        Some("has a file of it open")
    } else if leads_there("cwd") {
        Some("has its working directory in it")
    } else if leads_there("root") {
        Some("has its root directory in it")
    } else {
        is_mapped().then_some("has a file of it mapped")
    }
}

fn has_open_in_mount(pid: u32, number: u64) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let mut texts = descriptors.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts.any(|text| {
        let own = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
        own.is_some_and(|own| own.trim() == number.to_string())
    })
}

/// Whether this user may not see what a process has open.
pub fn is_hidden(pid: u32) -> bool {
    fs::read_dir(format!("/proc/{pid}/fd")).is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}

/// The regular files and block devices that a process has open for writing, by their paths.
pub fn files_open_for_writing(pid: u32) -> Vec<PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = descriptors
        .filter(|entry| {
            let kind = || fs::metadata(entry.path()).map(|found| found.file_type());
            is_open_for_writing(pid, &entry.file_name().to_string_lossy())
                && kind().is_ok_and(|kind| kind.is_file() || kind.is_block_device())
        })
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .collect();
    files.sort();
    files.dedup();
    files
}

fn is_open_for_writing(pid: u32, descriptor: &str) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    flags
        .and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok())
        .is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
}

//! Other processes, as /proc shows them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use snapshim::sys::escaped::Escaped;
use snapshim::table::Table;

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
        let is_file = fs::metadata(entry.path()).is_ok_and(|found| {
            (found.dev(), found.ino()) == (device, inode) || (found.rdev() != 0 && found.rdev() == device && inode == 0)
        });
        is_file && is_open_for_writing(pid, &entry.file_name().to_string_lossy())
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
            let kind = fs::metadata(entry.path()).map(|found| found.file_type());
            kind.is_ok_and(|kind| kind.is_file() || kind.is_block_device())
                && is_open_for_writing(pid, &entry.file_name().to_string_lossy())
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

//! `SNAPSHIM_FANOTIFY=1`: the kernel's events (fanotify(7)) of writes to a watched origin name the process that wrote it without
//! the shim.
//!
//! The events are a help and not a proof. An event names a process only if that still lives when the agent reads the event, up to
//! a second later, and events are lost with the descriptor. No event carries an open file (FAN_REPORT_FID): the close of such a
//! file would drop the program's own locks.

use core::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use snapshim::sys::procfs::ProcPath;
use snapshim::sys::{permission, raw};
use snapshim::table::Table;
use syscalls::{Sysno, syscall};

use crate::base::file_mappings::maps_of;
use crate::process::log::{Level, say};

const FAN_CLOEXEC: u32 = 0x1;
const FAN_NONBLOCK: u32 = 0x2;
const FAN_REPORT_FID: u32 = 0x200;
const FAN_MARK_ADD: u32 = 0x1;
const FAN_MODIFY: u64 = 0x2;

/// The events of one file from now on. The kernel gives them, with the writer's pid, to a process with CAP_SYS_ADMIN.
pub fn of(file: BorrowedFd<'_>) -> Option<OwnedFd> {
    begin(file).inspect_err(|error| log_refused(*error)).ok()
}

fn begin(file: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    if permission::forbids_any(&[Sysno::fanotify_init, Sysno::fanotify_mark, Sysno::capget]) {
        return Err(Errno::PERM);
    }
    if !rustix::thread::capabilities(None)?.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN) {
        return Err(Errno::PERM);
    }
    let path = ProcPath::thread_self("fd").slash(file.as_raw_fd() as u32);
    // SAFETY: the arguments are values and a C string that outlives the call; the descriptor is new, and owned here alone.
    unsafe {
        let flags = FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_FID;
        let group = syscall!(Sysno::fanotify_init, flags, OFlags::RDONLY.bits()).map_err(raw::errno)?;
        let group = raw::adopt_fd(group as i32);
        let here = rustix::fs::CWD.as_raw_fd();
        let mark = (group.as_raw_fd(), FAN_MARK_ADD, FAN_MODIFY, path.as_c_str().as_ptr());
        syscall!(Sysno::fanotify_mark, mark.0, mark.1, mark.2, here, mark.3).map_err(raw::errno)?;
        raw::move_up(group)
    }
}

fn log_refused(error: Errno) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        say!(
            Level::Warn,
            "process {}: SNAPSHIM_FANOTIFY=1 has no effect for some file (errno {}): the kernel gives no events here; they need \
             CAP_SYS_ADMIN and a file system that can be exported. Foreign changes are found by the time of modification alone",
            raw::own_pid(),
            error.raw_os_error()
        );
    }
}

/// Whether descriptor `number` is a group of fanotify. The application has hardly ever one of its own at so high a number.
pub fn is_group(number: u32) -> bool {
    let mut buffer = [const { core::mem::MaybeUninit::uninit() }; 32];
    let link = ProcPath::thread_self("fd").slash(number);
    let target: Result<_, Errno> = rustix::fs::readlinkat_raw(rustix::fs::CWD, link.as_c_str(), &mut buffer);
    target.is_ok_and(|(target, _)| target == b"anon_inode:[fanotify]")
}

/// The bytes of an event without what follows it.
const EVENT: usize = 24;

/// Reads the events that have come; the first process among them that wrote without the shim and still lives.
pub fn read_offender(group: BorrowedFd<'_>, table: &Table) -> Option<u32> {
    let mut buffer = [0u8; 960];
    let mut offender = None;
    while let Ok(count) = rustix::io::read(group, &mut buffer) {
        if count == 0 {
            break;
        }
        let mut events = &buffer[..count];
        // struct fanotify_event_metadata: event_len at 0, pid at 20.
        while let Some(length) =
            word_at(events, 0).filter(|length| (EVENT..=events.len()).contains(&(*length as usize)))
        {
            let pid = word_at(events, 20).filter(|pid| *pid != 0);
            offender = offender.or_else(|| pid.filter(|pid| is_foreign(*pid, table)));
            events = &events[length as usize..];
        }
    }
    offender
}

fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Whether the process lives and has no shim. Its mappings are asked as well: a process with the shim may have no record in the
/// table.
fn is_foreign(pid: u32, table: &Table) -> bool {
    let is_known = table.processes_used().iter().any(|record| record.id().is_some_and(|id| id.pid() == pid));
    !is_known && has_library(pid) == Some(false)
}

const LIBRARY: &[u8] = b"libsnapshim";

/// Whether the process has the preload library mapped; `None`: it cannot be found out.
fn has_library(pid: u32) -> Option<bool> {
    names_library(&maps_of(pid).ok()?)
}

/// Whether an open /proc/PID/maps names the preload library; `None`: it cannot be found out.
///
/// The text is searched in segments and not line by line: the library's name stands at the end of a path of any length.
pub fn names_library(maps: &OwnedFd) -> Option<bool> {
    let mut buffer = [0u8; 960];
    let (mut carried, mut any) = (0, false);
    let mut position = 0;
    loop {
        let count = rustix::io::pread(maps, &mut buffer[carried..], position).ok()?;
        position += count as u64;
        if count == 0 {
            // The file of a dead process is empty, and says nothing.
            return any.then_some(false);
        }
        any = true;
        let filled = carried + count;
        if buffer[..filled].windows(LIBRARY.len()).any(|part| part == LIBRARY) {
            return Some(true);
        }
        carried = filled.min(LIBRARY.len() - 1);
        buffer.copy_within(filled - carried..filled, 0);
    }
}

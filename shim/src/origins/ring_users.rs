//! Processes that have a ring of io_uring (`SNAPSHIM_IO_URING=allow`). What a ring writes is not announced, so a snapshot of a file
//! that such a process has open for writing is doubtful.
//!
//! A snapshot is compared with them when it is made, and once a second; a process that makes a ring looks for the snapshots that
//! there are. A ring may have files of its own, which are in no descriptor table (io_uring_register(2)): then it may write any.

use core::sync::atomic::{Ordering, fence};

use rustix::fs::OFlags;
use snapshim::cooperate::locate::target_of_stat;
use snapshim::protocol::cause::Cause;
use snapshim::protocol::origin::{Origin, Target};
use snapshim::protocol::snapshot::{State, View};
use snapshim::sys::procfs::{self, ProcPath};
use snapshim::sys::raw;
use snapshim::table;

use super::doubt::doubt_snapshots_of;
use crate::process::identity::ThisProcess;
use crate::process::log::{Level, Program, say};
use crate::process::membership;

/// Notes that this process is about to make a ring, and makes the snapshots doubtful of what it has open for writing.
pub fn note_ring() {
    // A process that cannot join says so in the table by itself.
    let Ok(own) = membership::join() else { return };
    membership::note_ring(&own);
    if !own.table.gate().active.is_raised() {
        return;
    }
    let mut doubted = 0;
    own.table.over_splits(|walk| {
        let is_exact = |view: &View| view.head.state() == State::Exact;
        for (index, view) in walk.live().filter(|(_, view)| is_exact(view)) {
            let is_written = may_write(raw::own_pid(), view.meta.origin);
            doubted += usize::from(is_written && table::doubt(own.table, index, view.head.incarnation(), Cause::Ring));
        }
    });
    if doubted > 0 {
        say!(
            Level::Warn,
            "{doubted} snapshots are doubtful from now on: of each, {}",
            Cause::Ring.of(Program(raw::own_pid())).in_full()
        );
    }
}

/// A process that has a ring and may write `origin`.
fn writer_of(own: &ThisProcess, origin: Origin) -> Option<u32> {
    // SeqCst: pairs with the fence in `Process::note_rings`: the snapshot before the look at the notes.
    fence(Ordering::SeqCst);
    own.table.processes_used().iter().enumerate().find_map(|(index, record)| {
        let id = record.id().filter(|id| record.has_rings(*id))?;
        let writes = !own.table.reap_if_dead(id.owner_word(index as u32)) && may_write(id.pid(), origin);
        writes.then_some(id.pid())
    })
}

/// Makes this process's snapshots of `origin` doubtful if a ring may write it. `when`: since when they are.
pub fn doubt_if_written(own: &ThisProcess, origin: Origin, when: &str) {
    if let Some(writer) = writer_of(own, origin)
        && doubt_snapshots_of(own, origin, Cause::Ring) > 0
    {
        say!(
            Level::Warn,
            file = origin, process = writer;
            "snapshot of {} in {} is doubtful {when}: {}",
            origin,
            Program(raw::own_pid()),
            Cause::Ring.of(Program(writer)).in_full()
        );
    }
}

/// Whether a process has `origin` open for writing, or may have: its descriptors cannot be looked at, or a ring has files of its
/// own.
fn may_write(pid: u32, origin: Origin) -> bool {
    let thread = procfs::thread_with_descriptors(pid);
    let Ok(descriptors) = raw::open(thread.with("/fd").as_c_str(), OFlags::DIRECTORY | OFlags::RDONLY) else {
        return true;
    };
    procfs::any_entry(&descriptors, |name| name.parse().is_ok_and(|number| writes_by(&thread, number, origin)))
}

/// The same of one descriptor of a thread.
fn writes_by(thread: &ProcPath, number: u32, origin: Origin) -> bool {
    let Ok(stat) = rustix::fs::stat(thread.with("/fd").slash(number).as_c_str()) else { return false };
    let information = thread.with("/fdinfo").slash(number);
    if target_of_stat(&stat) == Target::Origin(origin) {
        let flags = procfs::find_line(information.as_c_str(), |line| number_behind(line, b"flags:", 8));
        return flags.is_ok_and(|flags| flags.is_none_or(|flags| flags & libc::O_ACCMODE as u32 != 0));
    }
    const NO_KIND: u32 = 0;
    if stat.st_mode & libc::S_IFMT != NO_KIND {
        return false;
    }
    let files = procfs::find_line(information.as_c_str(), |line| number_behind(line, b"UserFiles:", 10));
    matches!(files, Ok(Some(1..)))
}

fn number_behind(line: &[u8], start: &[u8], radix: u32) -> Option<u32> {
    let number = core::str::from_utf8(line.strip_prefix(start)?).ok()?;
    u32::from_str_radix(number.trim(), radix).ok()
}

/// Whether any process has said so far that it has a ring. A look that costs little.
pub fn are_any(own: &ThisProcess) -> bool {
    own.table.processes_used().iter().any(|record| record.id().is_some_and(|id| record.has_rings(id)))
}

//! Whether the process behind a record still lives: dead, alive, or unknown.
//!
//! The verdict follows from pid, start time, state, what the kernel says of an exec ([`executing`](crate::protocol::executing)),
//! and a word in the process's memory that only this image has. No descriptor is held. A process that cannot be looked at (another
//! user, another mount of /proc) is unknown, and unknown is treated as alive.

use rustix::io::Errno;

use super::shared_mm::is_memory_in_use;
use crate::protocol::process::Process;
use crate::protocol::process_id::ProcessId;
use crate::sys::procfs::{self, ProcPath, ProcStat};
use crate::sys::raw::{read_remote_word, test_process};

/// The three answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Its image is gone. Nothing that it had under way will ever happen.
    Dead,
    /// It runs, or is stopped, or a child still acts in its memory.
    Alive,
    /// That cannot be told.
    Unknown,
}

/// Judges the image `id` that has `record`. A child that acts in its memory keeps it alive when the process is gone.
pub fn of(record: &Process, id: ProcessId) -> Liveness {
    match of_image(record, id) {
        Liveness::Dead if is_memory_in_use(record, id) => Liveness::Alive,
        judged => judged,
    }
}

/// Judges the process alone: whether there still is a process that sees its snapshots.
pub fn of_image(record: &Process, id: ProcessId) -> Liveness {
    if id.pid() == 0 || id.pid() > i32::MAX as u32 {
        return Liveness::Unknown;
    }
    // The mark is read before the state: a first thread that was killed in exec is exiting by then, and other threads may still be
    // at work.
    let was_replaced = record.executing.is_marked(id);
    match ProcStat::read(&ProcPath::of(id.pid(), "stat")) {
        Ok(stat) if stat.is_over() || record.is_start(id, stat.start) == Some(false) => return Liveness::Dead,
        // The kernel lets what is left of io_submit(2) land first (exit_aio, fs/aio.c).
        Ok(stat) if (stat.is_ending() || was_replaced && !stat.is_exiting()) && !record.has_queues(id) => {
            return Liveness::Dead;
        }
        Ok(_) => {}
        // /proc may hide the process or not be mounted, so the kernel is asked as well.
        Err(_) if test_process(id.pid()) == Err(Errno::SRCH) => return Liveness::Dead,
        Err(_) => return Liveness::Unknown,
    }
    let Some(cookie) = record.cookie(id) else { return Liveness::Alive };
    match read_remote_word(id.pid(), cookie) {
        Ok(word) if word == id.to_word() => Liveness::Alive,
        // Another image (exec).
        Ok(_) => Liveness::Dead,
        // The page is not there any more; or it is there and could not be read in.
        Err(Errno::FAULT) if procfs::is_mapped(id.pid(), cookie) == Some(false) => Liveness::Dead,
        Err(_) => Liveness::Alive,
    }
}

/// Whether thread `tid` of the image `id` is certainly gone, and no child makes its calls in its place.
pub fn is_thread_gone(record: &Process, id: ProcessId, tid: u32) -> bool {
    if tid == 0 {
        return false;
    }
    let is_gone = match ProcStat::read(&ProcPath::of(id.pid(), "task").slash(tid).then("/stat")) {
        Ok(stat) => matches!(stat.state, b'Z' | b'X' | b'x'),
        // Believed only if /proc shows the process itself.
        Err(Errno::NOENT | Errno::SRCH) => ProcStat::read(&ProcPath::of(id.pid(), "stat")).is_ok(),
        Err(_) => false,
    };
    is_gone && !is_memory_in_use(record, id)
}

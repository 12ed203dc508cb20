//! Whether the process behind a record still lives: dead, alive, or unknown.
//!
//! Judged from pid, start time, state, what the kernel says of an exec ([`executing`](crate::protocol::executing)), and a word in its memory
//! that only this image has; no descriptor is held. Who cannot be looked at (another user, another mount of /proc) is unknown, and
//! unknown is treated as alive.

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::lending::is_memory_in_use;
use crate::protocol::process::Process;
use crate::protocol::process_id::ProcessId;
use crate::sys::procfs::{ProcPath, Stat};
use crate::sys::raw::read_remote_word;

/// The three answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Its image is gone; nothing it had under way will ever happen.
    Dead,
    /// It runs, or is stopped, or somebody still acts in its memory.
    Alive,
    /// It cannot be told.
    Unknown,
}

/// Judges the image `id` that has `record`. Who acts in its memory when it is gone lives for it.
pub fn of(record: &Process, id: ProcessId) -> Liveness {
    match of_image(record, id) {
        Liveness::Dead if is_memory_in_use(record, id) => Liveness::Alive,
        judged => judged,
    }
}

/// Judges the process alone: whether there still is somebody to see its snapshots.
pub fn of_image(record: &Process, id: ProcessId) -> Liveness {
    let Some(pid) = Pid::from_raw(id.pid() as i32) else { return Liveness::Unknown };
    // Before its state: a first thread that was killed in exec is exiting by then, and others may be at work still.
    let was_replaced = record.executing.is_marked(id);
    match Stat::read(&ProcPath::of(id.pid(), "stat")) {
        Ok(stat) if stat.is_over() || record.is_start(id, stat.start) == Some(false) => return Liveness::Dead,
        // The kernel lets what is left of io_submit(2) land first (exit_aio, fs/aio.c).
        Ok(stat) if (stat.is_ending() || was_replaced && !stat.is_exiting()) && !record.has_queues(id) => {
            return Liveness::Dead;
        }
        Ok(_) => {}
        // /proc may hide the process or not be mounted, so the kernel is asked as well.
        Err(_) if test_kill_process(pid) == Err(Errno::SRCH) => return Liveness::Dead,
        Err(_) => return Liveness::Unknown,
    }
    let Some(cookie) = record.cookie(id) else { return Liveness::Alive };
    match read_remote_word(id.pid(), cookie) {
        Ok(word) if word == id.to_word() => Liveness::Alive,
        // Another image (exec).
        Ok(_) => Liveness::Dead,
        // The page is not there any more, or it is and could not be brought in.
        Err(Errno::FAULT) if is_mapped(id.pid(), cookie) == Some(false) => Liveness::Dead,
        Err(_) => Liveness::Alive,
    }
}

/// Whether anything is mapped at `address` in the process (proc_pid_maps(5)); `None` if it cannot be told.
fn is_mapped(pid: u32, address: u64) -> Option<bool> {
    let file = crate::sys::raw::open(ProcPath::of(pid, "maps").as_c_str(), rustix::fs::OFlags::RDONLY).ok()?;
    let mut buffer = [0u8; 512];
    // The number under way, the numbers of this line, and whether the line's range has been read.
    let (mut number, mut start, mut in_range, mut lines) = (0u64, 0u64, true, 0u32);
    loop {
        let count = rustix::io::read(&file, &mut buffer).ok()?;
        if count == 0 {
            // An empty file says nothing: a zombie leader's is.
            return (lines > 0).then_some(false);
        }
        for byte in &buffer[..count] {
            match byte {
                b'\n' => (number, start, in_range, lines) = (0, 0, true, lines + 1),
                _ if !in_range => {}
                b'-' => (start, number) = (number, 0),
                b' ' if (start..number).contains(&address) => return Some(true),
                b' ' => in_range = false,
                digit => number = number << 4 | u64::from((*digit as char).to_digit(16)?),
            }
        }
    }
}

/// Whether thread `tid` of the image `id` is certainly gone, and nobody makes its calls in its place.
pub fn is_thread_gone(record: &Process, id: ProcessId, tid: u32) -> bool {
    if tid == 0 {
        return false;
    }
    let is_gone = match Stat::read(&ProcPath::of(id.pid(), "task").slash(tid).then("/stat")) {
        Ok(stat) => matches!(stat.state, b'Z' | b'X' | b'x'),
        // Believed only if /proc shows the process itself.
        Err(Errno::NOENT | Errno::SRCH) => Stat::read(&ProcPath::of(id.pid(), "stat")).is_ok(),
        Err(_) => false,
    };
    is_gone && !is_memory_in_use(record, id)
}

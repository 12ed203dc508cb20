//! Whether the process behind a record still lives: dead, alive, or unknown.
//!
//! Judged from pid, start time, state, what the kernel says of an exec ([`executing`](super::executing)), and a word in its memory
//! that only this image has; no descriptor is held. Who cannot be looked at (another user, another mount of /proc) is unknown, and
//! unknown is treated as alive.

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::lending::is_memory_in_use;
use super::process::{Process, ProcessId};
use crate::raw::{ProcPath, read_file, read_remote_word};
use crate::time_space;

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

/// PF_EXITING, PF_FORKNOEXEC and PF_KTHREAD (linux/sched.h).
const EXITING: u64 = 4;
const NEVER_EXECUTED: u64 = 0x40;
const OF_THE_KERNEL: u64 = 0x20_0000;

/// What /proc/PID/stat says of a process or thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Field 3.
    pub state: u8,
    /// Field 9.
    pub flags: u64,
    /// Field 20.
    pub threads: u64,
    /// Field 22, clock ticks after boot, as the initial time namespace has it.
    pub start: u64,
}

impl Stat {
    /// Reads and parses a `stat` file.
    pub fn read(path: &ProcPath) -> Result<Self, Errno> {
        let mut buffer = [0u8; 512];
        let stat = Self::parse(read_file(path.as_c_str(), &mut buffer)?).ok_or(Errno::INVAL)?;
        Ok(Self { start: time_space::start(stat.start), ..stat })
    }

    /// proc_pid_stat(5): the command name is in parentheses and may itself contain any byte.
    fn parse(text: &[u8]) -> Option<Self> {
        let end_of_name = text.iter().rposition(|byte| *byte == b')')?;
        let fields = core::str::from_utf8(text.get(end_of_name + 2..)?).ok()?;
        let mut fields = fields.split_ascii_whitespace();
        let state = fields.next()?.bytes().next()?;
        let flags = fields.nth(5)?.parse().ok()?;
        let threads = fields.nth(10)?.parse().ok()?;
        let start = fields.nth(1)?.parse().ok()?;
        Some(Self { state, flags, threads, start })
    }

    pub(crate) fn is_over(&self) -> bool {
        // A leader that exited stays a zombie while its other threads run.
        matches!(self.state, b'Z' | b'X' | b'x') && self.threads <= 1
    }

    /// On the way to that: it makes no step of its own any more, and has no memory left that could be looked at.
    fn is_ending(&self) -> bool {
        self.is_exiting() && self.threads <= 1
    }

    /// Whether the thread is past its last step: set before it leaves its address space (do_exit, kernel/exit.c).
    #[must_use]
    pub fn is_exiting(&self) -> bool {
        self.flags & EXITING != 0
    }

    /// Whether the process still has the memory that it was made with (begin_new_exec, fs/exec.c).
    pub(super) fn has_first_memory(&self) -> bool {
        self.flags & (NEVER_EXECUTED | OF_THE_KERNEL) == NEVER_EXECUTED
    }

    /// Whether the process has memory of its own making.
    #[must_use]
    pub fn has_executed(&self) -> bool {
        self.flags & NEVER_EXECUTED == 0
    }

    /// Whether the thread waits, or is stopped, and so not for a child of vfork(2): only its end interrupts that (wait_for_vfork_done,
    /// kernel/fork.c).
    #[must_use]
    pub fn is_no_vfork(&self) -> bool {
        matches!(self.state, b'S' | b'T' | b't')
    }
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
    let file = crate::raw::open(ProcPath::of(pid, "maps").as_c_str(), rustix::fs::OFlags::RDONLY).ok()?;
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

/// The start time of process `pid`, 0 if /proc does not say.
#[must_use]
pub fn start_of(pid: u32) -> u64 {
    Stat::read(&ProcPath::of(pid, "stat")).map_or(0, |stat| stat.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_and_spaces_is_no_field() {
        let text = b"4711 (a) R (b c) S 1 4711 4711 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 987654 1 2 3";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.flags, stat.threads, stat.start), (b'S', 4_194_304, 3, 987_654));
        assert!(!stat.is_over());
    }

    #[test]
    fn a_zombie_leader_with_other_threads_is_not_over() {
        let stat = |threads| Stat { state: b'Z', flags: 0, threads, start: 1 };
        assert!(stat(1).is_over());
        assert!(!stat(2).is_over());
    }

    #[test]
    fn what_is_cut_short_is_not_believed() {
        assert_eq!(Stat::parse(b"4711 (name) S 1 2 3"), None);
        assert_eq!(Stat::parse(b""), None);
    }
}

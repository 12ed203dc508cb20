//! What /proc says of processes and threads, read into fixed buffers (proc(5)).

use core::ffi::CStr;
use core::mem::MaybeUninit;

use rustix::fd::AsFd;
use rustix::fs::{OFlags, RawDir};
use rustix::io::Errno;

use super::{clock, raw};

/// A `/proc/<pid>/...` path, built without allocation.
#[derive(Debug)]
pub struct ProcPath {
    bytes: [u8; 64],
    length: usize,
}

impl ProcPath {
    /// `/proc/<pid>/<rest>`.
    #[must_use]
    pub fn of(pid: u32, rest: &str) -> Self {
        let mut path = Self { bytes: [0; 64], length: 0 };
        path.text("/proc/");
        path.number(pid);
        path.text("/");
        path.text(rest);
        path
    }

    /// `/proc/thread-self/<rest>`: the caller's own, even where its process's first thread has ended.
    #[must_use]
    pub fn own(rest: &str) -> Self {
        let mut path = Self { bytes: [0; 64], length: 0 };
        path.text("/proc/thread-self/");
        path.text(rest);
        path
    }

    /// Appends `/<number>`.
    #[must_use]
    pub fn slash(mut self, number: u32) -> Self {
        self.text("/");
        self.number(number);
        self
    }

    /// Appends `text`.
    #[must_use]
    pub fn then(mut self, text: &str) -> Self {
        self.text(text);
        self
    }

    fn text(&mut self, text: &str) {
        // The last byte stays NUL; a path that does not fit is cut and then simply not found.
        for byte in text.bytes().take(self.bytes.len() - 1 - self.length) {
            self.bytes[self.length] = byte;
            self.length += 1;
        }
    }

    fn number(&mut self, number: u32) {
        let mut divisor = 1;
        while number / divisor >= 10 {
            divisor *= 10;
        }
        while divisor > 0 {
            let digit = [b'0' + (number / divisor % 10) as u8];
            self.text(core::str::from_utf8(&digit).unwrap_or(""));
            divisor /= 10;
        }
    }

    /// As a C string.
    #[must_use]
    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }
}

/// Reads a small file into `buffer`; what fits of it.
pub fn read_file<'a>(path: &CStr, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let file = raw::open(path, OFlags::RDONLY)?;
    let mut length = 0;
    while length < buffer.len() {
        match rustix::io::read(&file, &mut buffer[length..])? {
            0 => break,
            count => length += count,
        }
    }
    Ok(&buffer[..length])
}

/// Whether `wanted` finds what it looks for among the names in a directory.
pub fn any_entry(directory: impl AsFd, mut wanted: impl FnMut(&str) -> bool) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 512];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) if wanted(name) => return true,
            Ok(_) => {}
        }
    }
    false
}

/// Whether a child would be in the pid namespace of its parent (unshare(2), setns(2)); yes where /proc does not say.
#[must_use]
pub fn are_children_in_own_namespace() -> bool {
    let inode = |name| rustix::fs::stat(ProcPath::own(name).as_c_str()).map(|stat| stat.st_ino);
    inode("ns/pid_for_children") == inode("ns/pid")
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
        Ok(Self { start: clock::start(stat.start), ..stat })
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
    pub(crate) fn is_ending(&self) -> bool {
        self.is_exiting() && self.threads <= 1
    }

    /// Whether the thread is past its last step: set before it leaves its address space (do_exit, kernel/exit.c).
    #[must_use]
    pub fn is_exiting(&self) -> bool {
        self.flags & EXITING != 0
    }

    /// Whether the process still has the memory that it was made with (begin_new_exec, fs/exec.c).
    pub(crate) fn has_first_memory(&self) -> bool {
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

/// The start time of process `pid`, 0 if /proc does not say.
#[must_use]
pub fn start_of(pid: u32) -> u64 {
    Stat::read(&ProcPath::of(pid, "stat")).map_or(0, |stat| stat.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_proc_are_built_and_cut() {
        assert_eq!(ProcPath::of(0, "stat").as_c_str(), c"/proc/0/stat");
        let path = ProcPath::of(u32::MAX, "task").slash(12).then("/fd").slash(100);
        assert_eq!(path.as_c_str(), c"/proc/4294967295/task/12/fd/100");
        let long = ProcPath::of(1, "x").then("0123456789012345678901234567890123456789012345678901234567890123456789");
        assert_eq!(long.as_c_str().to_bytes().len(), 63);
    }

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

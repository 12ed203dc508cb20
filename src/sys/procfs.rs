//! What /proc says of processes and threads, read into fixed buffers (proc(5)).

use core::ffi::CStr;
use core::fmt::{self, Write};
use core::mem::MaybeUninit;

use rustix::fd::AsFd;
use rustix::fs::{OFlags, RawDir};
use rustix::io::Errno;

use super::stack_str::StackStr;
use super::{clock, raw};

/// A path in `/proc`. One that does not fit is cut, and names no file there.
#[derive(Debug)]
pub struct ProcPath(StackStr<64>);

impl ProcPath {
    /// `/proc/<pid>/<rest>`.
    #[must_use]
    pub fn of(pid: u32, rest: &str) -> Self {
        Self(StackStr::new()).and(format_args!("/proc/{pid}/{rest}"))
    }

    /// `/proc/thread-self/<rest>`: the caller's own, even where its process's first thread has ended.
    #[must_use]
    pub fn thread_self(rest: &str) -> Self {
        Self(StackStr::new()).and(format_args!("/proc/thread-self/{rest}"))
    }

    /// Appends `/<number>`.
    #[must_use]
    pub fn slash(self, number: u32) -> Self {
        self.and(format_args!("/{number}"))
    }

    /// `text` behind it.
    #[must_use]
    pub fn with(&self, text: &str) -> Self {
        Self(self.0.clone()).then(text)
    }

    /// Appends `text`.
    #[must_use]
    pub fn then(self, text: &str) -> Self {
        self.and(format_args!("{text}"))
    }

    fn and(mut self, parts: fmt::Arguments<'_>) -> Self {
        let _ = self.0.write_fmt(parts);
        self
    }

    /// As a C string.
    #[must_use]
    pub fn as_c_str(&self) -> &CStr {
        self.0.as_c_str()
    }
}

/// Reads a small file into `buffer`. The result is what fits of it.
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

/// Bytes of a line that are looked at; what is longer is left out.
const LONGEST_LINE: usize = 300;

/// What `take` finds in the lines of a file, the first that it gives.
pub fn find_line<T>(path: &CStr, take: impl FnMut(&[u8]) -> Option<T>) -> Result<Option<T>, Errno> {
    find_line_in(raw::open(path, OFlags::RDONLY)?, take)
}

/// The same from where an open file stands.
pub fn find_line_in<T>(file: impl AsFd, take: impl FnMut(&[u8]) -> Option<T>) -> Result<Option<T>, Errno> {
    find_line_by(|buffer| rustix::io::read(&file, buffer), take)
}

/// The same where `read` says how the file is read: it fills the buffer with what follows, and says with how many bytes.
pub fn find_line_by<T>(
    mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>,
    mut take: impl FnMut(&[u8]) -> Option<T>,
) -> Result<Option<T>, Errno> {
    let (mut line, mut length) = ([0u8; LONGEST_LINE], 0);
    let mut buffer = [0u8; 256];
    loop {
        let count = read(&mut buffer)?;
        if count == 0 {
            return Ok(None);
        }
        for byte in &buffer[..count] {
            match byte {
                b'\n' => {
                    let found = take(&line[..length]);
                    if found.is_some() {
                        return Ok(found);
                    }
                    length = 0;
                }
                _ if length < line.len() => {
                    line[length] = *byte;
                    length += 1;
                }
                _ => {}
            }
        }
    }
}

/// Calls `take` with each line of a file, as far as the file can be read.
pub fn each_line(path: &CStr, mut take: impl FnMut(&[u8])) {
    let _ = find_line(path, |line| {
        take(line);
        None::<()>
    });
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

/// Whether `wanted` is true of one of the numbers that name entries of a directory: of the processes in /proc, of the threads in a
/// `task`. False if it cannot be opened.
pub fn any_number(directory: &CStr, mut wanted: impl FnMut(u32) -> bool) -> bool {
    let Ok(directory) = raw::open(directory, OFlags::DIRECTORY | OFlags::RDONLY) else { return false };
    any_entry(directory, |name| name.parse().is_ok_and(&mut wanted))
}

/// A thread of process `pid` that is not the first one.
#[must_use]
pub fn other_thread(pid: u32) -> Option<u32> {
    let mut other = None;
    any_number(ProcPath::of(pid, "task").as_c_str(), |thread| {
        other = (thread != pid).then_some(thread);
        other.is_some()
    });
    other
}

/// /proc/PID/task/TID of a thread that has the process's descriptors: the first one, unless that has ended (exit_files,
/// kernel/exit.c).
#[must_use]
pub fn thread_with_descriptors(pid: u32) -> ProcPath {
    let has_ended = ProcStat::read(&ProcPath::of(pid, "stat")).is_ok_and(|stat| stat.state == b'Z');
    ProcPath::of(pid, "task").slash(has_ended.then(|| other_thread(pid)).flatten().unwrap_or(pid))
}

/// Whether a child would be in the pid namespace of its parent (unshare(2), setns(2)). Yes where /proc does not say.
#[must_use]
pub fn are_children_in_own_namespace() -> bool {
    let inode = |name| rustix::fs::stat(ProcPath::thread_self(name).as_c_str()).map(|stat| stat.st_ino);
    inode("ns/pid_for_children") == inode("ns/pid")
}

/// PF_EXITING, PF_FORKNOEXEC and PF_KTHREAD (linux/sched.h).
const EXITING: u64 = 4;
const NEVER_EXECUTED: u64 = 0x40;
const OF_THE_KERNEL: u64 = 0x20_0000;

/// What /proc/PID/stat says of a process or thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcStat {
    /// Field 3.
    pub state: u8,
    /// Field 9.
    pub flags: u64,
    /// Field 20.
    pub threads: u64,
    /// Field 22, clock ticks after boot, as the initial time namespace has it.
    pub start: u64,
}

/// The place of the exit code in a `stat` file, from 1 on (proc(5)).
const EXIT_CODE: usize = 52;

impl ProcStat {
    /// Reads and parses a `stat` file.
    pub fn read(path: &ProcPath) -> Result<Self, Errno> {
        let mut buffer = [0u8; 512];
        let stat = Self::parse(read_file(path.as_c_str(), &mut buffer)?).ok_or(Errno::INVAL)?;
        Ok(Self { start: clock::start(stat.start), ..stat })
    }

    /// How the first thread of the calling process, which has ended, did so: as wait(2) would say it (field 52).
    #[must_use]
    pub fn own_exit_code() -> Option<u32> {
        let mut buffer = [0u8; 512];
        let text = read_file(c"/proc/self/stat", &mut buffer).ok()?;
        fields_behind_name(text)?.nth(EXIT_CODE - 3)?.parse().ok()
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut fields = fields_behind_name(text)?;
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

    /// Whether the process is about to be over: it makes no step of its own any more, and has no memory left that could be looked
    /// at.
    pub(crate) fn is_ending(&self) -> bool {
        self.is_exiting() && self.threads <= 1
    }

    /// Whether the thread is past its last step: set before it leaves its address space (do_exit, kernel/exit.c).
    #[must_use]
    pub fn is_exiting(&self) -> bool {
        self.flags & EXITING != 0
    }

    /// Whether the process still has the memory that it was made with: that of its parent, or a copy (begin_new_exec, fs/exec.c).
    pub(crate) fn has_first_memory(&self) -> bool {
        self.flags & (NEVER_EXECUTED | OF_THE_KERNEL) == NEVER_EXECUTED
    }

    /// Whether the process has executed a program: its memory is no copy of its parent's.
    #[must_use]
    pub fn has_executed(&self) -> bool {
        self.flags & NEVER_EXECUTED == 0
    }

    /// Whether the thread certainly does not wait for a child of vfork(2): a thread that sleeps interruptibly or is stopped does
    /// not, because only the child's end interrupts that wait (wait_for_vfork_done, kernel/fork.c).
    #[must_use]
    pub fn is_no_vfork(&self) -> bool {
        matches!(self.state, b'S' | b'T' | b't')
    }
}

/// The effective user of process `pid` (proc_pid_status(5), Uid: the real one, then the effective one). `None`: it cannot be told.
#[must_use]
pub fn effective_user(pid: u32) -> Option<u32> {
    find_line(ProcPath::of(pid, "status").as_c_str(), |line| {
        let line = core::str::from_utf8(line.strip_prefix(b"Uid:")?).ok()?;
        line.split_ascii_whitespace().nth(1)?.parse().ok()
    })
    .ok()?
}

/// The system call that a thread waits in (proc_pid_syscall(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitingCall {
    /// Its number (Sysno).
    pub number: u64,
    /// Six arguments, the stack pointer and the instruction behind the call.
    pub registers: [u64; 8],
}

impl WaitingCall {
    /// That of `thread` of process `pid`. `None`: it waits in none, or the kernel does not say. It says so to a process that may
    /// trace the thread.
    #[must_use]
    pub fn of(pid: u32, thread: u32) -> Option<Self> {
        let mut buffer = [0u8; 256];
        let path = ProcPath::of(pid, "task").slash(thread).then("/syscall");
        Self::parse(core::str::from_utf8(read_file(path.as_c_str(), &mut buffer).ok()?).ok()?)
    }

    /// "running", or the call's number (-1 outside of one), its arguments, the stack pointer and the program counter.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let number = words.next()?.parse().ok()?;
        let mut registers = [0; 8];
        for register in &mut registers {
            *register = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
        }
        Some(Self { number, registers })
    }

    /// The stack pointer says nothing of a call further up: the thread may be in a handler on another stack.
    #[must_use]
    pub fn stack(&self) -> u64 {
        self.registers[6]
    }
}

/// The command name of a process (proc_pid_comm(5)); `None` if it is gone.
pub fn command_name(pid: u32, buffer: &mut [u8; 32]) -> Option<&[u8]> {
    let name = read_file(ProcPath::of(pid, "comm").as_c_str(), buffer).ok()?;
    // The kernel ends the name with a newline of its own; others are the program's.
    Some(name.strip_suffix(b"\n").unwrap_or(name))
}

/// Whether `thread` of process `pid` waits in a function of the kernel that is `wanted` (proc_pid_wchan(5)). False where the kernel
/// does not say.
#[must_use]
pub fn is_waiting_in(pid: u32, thread: u32, wanted: impl FnOnce(&[u8]) -> bool) -> bool {
    let mut buffer = [0u8; 64];
    let path = ProcPath::of(pid, "task").slash(thread).then("/wchan");
    read_file(path.as_c_str(), &mut buffer).is_ok_and(|place| !place.is_empty() && wanted(place))
}

/// Whether anything is mapped at `address` in process `pid` (proc_pid_maps(5)). `None`: it cannot be told.
#[must_use]
pub fn is_mapped(pid: u32, address: u64) -> Option<bool> {
    // An empty file says nothing: that of a zombie, whose other threads may be alive, is empty.
    let mut is_empty = true;
    let found = find_line(ProcPath::of(pid, "maps").as_c_str(), |line| {
        is_empty = false;
        match mapped_range(line) {
            Some(range) => range.contains(&address).then_some(Some(true)),
            None => Some(None),
        }
    });
    found.ok()?.unwrap_or((!is_empty).then_some(false))
}

/// The range at the beginning of a line of /proc/PID/maps.
#[must_use]
pub fn mapped_range(line: &[u8]) -> Option<core::ops::Range<u64>> {
    let range = line.split(|byte| *byte == b' ').next()?;
    let (start, end) = core::str::from_utf8(range).ok()?.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

/// The fields of a `stat` file from field 3 on (proc_pid_stat(5)): the command name is in parentheses and may itself contain any
/// byte.
fn fields_behind_name(text: &[u8]) -> Option<core::str::SplitAsciiWhitespace<'_>> {
    let end_of_name = text.iter().rposition(|byte| *byte == b')')?;
    Some(core::str::from_utf8(text.get(end_of_name + 2..)?).ok()?.split_ascii_whitespace())
}

/// The signals up to 31 that a thread of process `pid` blocks (proc_pid_stat(5), field 32). `None`: it cannot be told.
#[must_use]
pub fn blocked_signals(pid: u32, thread: u32) -> Option<u64> {
    const BLOCKED: usize = 32;
    let mut buffer = [0u8; 512];
    let path = ProcPath::of(pid, "task").slash(thread).then("/stat");
    fields_behind_name(read_file(path.as_c_str(), &mut buffer).ok()?)?.nth(BLOCKED - 3)?.parse().ok()
}

/// Whether a thread of process `pid` has a handler for a signal, and does not block it (proc_pid_status(5)). `None`: it cannot be
/// told.
#[must_use]
pub fn handles_signal(pid: u32, thread: u32, signal: u32) -> Option<bool> {
    let has = |line: &[u8], start: &[u8]| {
        let mask = core::str::from_utf8(line.strip_prefix(start)?).ok()?;
        Some(u64::from_str_radix(mask.trim(), 16).ok()? >> (signal - 1) & 1 == 1)
    };
    let mut is_blocked = None;
    find_line(ProcPath::of(pid, "task").slash(thread).then("/status").as_c_str(), |line| {
        is_blocked = is_blocked.or_else(|| has(line, b"SigBlk:"));
        // This line comes after the other.
        Some(has(line, b"SigCgt:")? && is_blocked == Some(false))
    })
    .ok()?
}

/// The start time of process `pid`, 0 if /proc does not say.
#[must_use]
pub fn start_of(pid: u32) -> u64 {
    ProcStat::read(&ProcPath::of(pid, "stat")).map_or(0, |stat| stat.start)
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
        let stat = ProcStat::parse(text).unwrap();
        assert_eq!((stat.state, stat.flags, stat.threads, stat.start), (b'S', 4_194_304, 3, 987_654));
        assert!(!stat.is_over());
    }

    #[test]
    fn a_zombie_leader_with_other_threads_is_not_over() {
        let stat = |threads| ProcStat { state: b'Z', flags: 0, threads, start: 1 };
        assert!(stat(1).is_over());
        assert!(!stat(2).is_over());
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel")]
    fn a_process_says_who_it_is() {
        assert_eq!(effective_user(raw::own_pid()), Some(rustix::process::geteuid().as_raw()));
        assert_eq!(effective_user(u32::MAX), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel")]
    fn what_is_mapped_is_found() {
        let here = 0u8;
        assert_eq!(is_mapped(raw::own_pid(), (&raw const here).addr() as u64), Some(true));
        assert_eq!(is_mapped(raw::own_pid(), 0), Some(false));
        assert_eq!(is_mapped(u32::MAX, 0), None);
        assert_eq!(mapped_range(b"7f00-8f0f r-xp 00000000 00:00 0  /a-b c"), Some(0x7f00..0x8f0f));
        assert_eq!(mapped_range(b"7f00"), None);
    }

    #[test]
    fn what_is_cut_short_is_not_believed() {
        assert_eq!(ProcStat::parse(b"4711 (name) S 1 2 3"), None);
        assert_eq!(ProcStat::parse(b""), None);
    }
}

//! Where a line of the log goes, and how it gets there without harm.
//!
//! A write never waits for a reader: into a pipe, a terminal or a connection that is full, the line is lost. It raises no signal.
//! It goes to standard error only while that is the file that it was when the process started. It passes no gate, so it does not go
//! to an origin of a snapshot, nor into the middle of a file.

use core::ffi::CStr;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::SendFlags;
use snapshim::sys::procfs::ProcPath;
use snapshim::sys::raw;
use snapshim::sys::signal_block::{SignalsBlocked, pending_signals};
use syscalls::{Sysno, syscall};

use super::{fd_table, identity};
use crate::base::config::{is_log, open_log};
use crate::base::standard_error;

/// Writes a line to the file at `path`, or to standard error.
pub fn write(path: Option<&CStr>, line: &[u8]) {
    let signals = SignalsHeld::new();
    match path {
        Some(path) => {
            let _ = open_log(path).map(|file| write_to(file.as_fd(), is_log, line, &signals));
        }
        None => {
            standard_error::note();
            let _ = fd_table::stream(2).map(|file| write_to(file.as_fd(), standard_error::is_it, line, &signals));
        }
    }
}

fn write_to(file: BorrowedFd<'_>, is_right: impl Fn(&Stat) -> bool, line: &[u8], signals: &SignalsHeld) {
    let Ok(stat) = rustix::fs::fstat(file) else { return };
    let Ok(flags) = rustix::fs::fcntl_getfl(file) else { return };
    if !is_right(&stat) || flags & OFlags::ACCMODE == OFlags::RDONLY {
        return;
    }
    let written = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => write_at_end(file, &stat, flags, line),
        FileType::Socket => rustix::net::send(file, line, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
        FileType::Fifo | FileType::CharacterDevice => write_at_once(file, flags, line),
        _ => Ok(0),
    };
    if let Err(error) = written {
        signals.take_signal_of(error);
    }
}

/// Appends to a regular file, unless it is an origin, or its end is not where the file position is.
fn write_at_end(file: BorrowedFd<'_>, stat: &Stat, flags: OFlags, line: &[u8]) -> Result<usize, Errno> {
    let is_at_end = || rustix::fs::tell(file).is_ok_and(|position| position >= stat.st_size as u64);
    if !(flags.contains(OFlags::APPEND) || is_at_end()) || identity::is_origin_in_use(stat) {
        return Ok(0);
    }
    rustix::io::write(file, line)
}

/// Writes what the file takes at once. O_NONBLOCK belongs to the open file, which others may share, so it is not set there: the
/// kernel is told for this one write, or the file is opened once more.
fn write_at_once(file: BorrowedFd<'_>, flags: OFlags, line: &[u8]) -> Result<usize, Errno> {
    if flags.contains(OFlags::NONBLOCK) {
        return rustix::io::write(file, line);
    }
    match write_nowait(file, line) {
        // The kernel does not take RWF_NOWAIT for such a file: a terminal, or a pipe before Linux 6.5.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
        written => return written,
    }
    let anew = ProcPath::thread_self("fd").slash(file.as_raw_fd() as u32);
    let file = raw::open(anew.as_c_str(), OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK)?;
    rustix::io::write(&file, line)
}

/// pwritev2(2) with RWF_NOWAIT, at the file position.
fn write_nowait(file: BorrowedFd<'_>, line: &[u8]) -> Result<usize, Errno> {
    const RWF_NOWAIT: usize = 8;
    const AT_THE_POSITION: usize = usize::MAX;
    let vector = [line.as_ptr() as usize, line.len()];
    // SAFETY: the vector names `line`, which is only read.
    let written = unsafe {
        syscall!(Sysno::pwritev2, file.as_raw_fd(), vector.as_ptr(), 1, AT_THE_POSITION, AT_THE_POSITION, RWF_NOWAIT)
    };
    written.map_err(raw::errno)
}

const SIGPIPE: i32 = 13;
const SIGXFSZ: i32 = 25;

/// All signals blocked, and what was pending before. A blocked SIGTTOU also lets a process in the background write to its terminal
/// without being stopped (__tty_check_change, drivers/tty/tty_jobctrl.c).
pub(super) struct SignalsHeld {
    pending: u64,
    _blocked: SignalsBlocked,
}

impl SignalsHeld {
    pub(super) fn new() -> Self {
        let blocked = SignalsBlocked::new();
        Self { pending: pending_signals(), _blocked: blocked }
    }

    /// Takes the signal that the kernel sent the thread for a write which failed so: no reader, or a limit on files. One that was
    /// pending before is the program's, and stays.
    pub(super) fn take_signal_of(&self, error: Errno) {
        let signal = match error {
            Errno::PIPE => SIGPIPE,
            Errno::FBIG => SIGXFSZ,
            _ => return,
        };
        let set = 1u64 << (signal - 1);
        if self.pending & set == 0 {
            let at_once = [0u64; 2];
            let nowhere = core::ptr::null::<u8>();
            // SAFETY: the set has eight bytes, the time is a timespec of zeros, and no siginfo is wanted.
            let _ = unsafe { syscall!(Sysno::rt_sigtimedwait, &raw const set, nowhere, at_once.as_ptr(), 8) };
        }
    }
}

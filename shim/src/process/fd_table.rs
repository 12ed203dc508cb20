//! The agent's own descriptor table, and how the agent reaches the application's descriptors.
//!
//! A program may count on getting the lowest free number. An agent that opened files in the program's table would take that number
//! away for a moment, so the agent has a table of its own. No file of the application's stays open in it: what the application
//! closes is closed, and record locks, which belong to a table, stay in the application's (filp_close, fs/open.c).
//!
//! A filter of seccomp(2) may end the process for a call that it does not know. Where a filter is in force, the agent shares the
//! application's table.

use core::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::thread::{SecureComputingMode, secure_computing_mode};
use snapshim::preserve::holes;
use snapshim::sys::procfs::{self, ProcPath, ProcStat};
use snapshim::sys::{permission, raw};

use crate::base::agent_stack;

/// Whether the agent has a table of its own.
static HAS_OWN_TABLE: AtomicBool = AtomicBool::new(false);

/// Gives the calling thread, an agent that starts, a table of its own. False: it shares the application's.
pub fn begin() -> bool {
    let has_own_table = !may_be_filtered() && raw::take_empty_table();
    // Relaxed: the same thread reads it.
    HAS_OWN_TABLE.store(has_own_table, Ordering::Relaxed);
    has_own_table
}

/// Whether a filter of seccomp(2) may be in force.
pub fn may_be_filtered() -> bool {
    if permission::is_any() {
        return true;
    }
    // EINVAL: the kernel has no filters.
    !matches!(secure_computing_mode(), Ok(SecureComputingMode::Disabled) | Err(Errno::INVAL))
}

/// Whether the calling thread is an agent with a table of its own, where numbers of the application's mean nothing.
fn has_own_table() -> bool {
    HAS_OWN_TABLE.load(Ordering::Relaxed) && agent_stack::is_caller()
}

/// An open file of the application's, as the calling thread can use it.
pub enum AppFd {
    /// The thread has the application's table: the application's own number.
    Borrowed(BorrowedFd<'static>),
    /// The thread is the agent: a copy in its own table.
    Copied(OwnedFd),
}

impl AsFd for AppFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Borrowed(file) => *file,
            Self::Copied(file) => file.as_fd(),
        }
    }
}

impl AppFd {
    /// Its number in the calling thread's table.
    pub fn number(&self) -> u32 {
        self.as_fd().as_raw_fd() as u32
    }
}

/// The open file that the application has at `number`. EBADF: it has none there; any other error: it is not known.
pub fn open_file(number: u32) -> Result<AppFd, Errno> {
    if has_own_table() { copy(number) } else { Ok(AppFd::Borrowed(raw::borrow(number))) }
}

/// The same for a caller that only asks which file it is (O_PATH).
pub fn file(number: u32) -> Result<AppFd, Errno> {
    if has_own_table() { reopen(number, OFlags::PATH).or_else(|_| copy(number)) } else { open_file(number) }
}

/// The same for writing. A pipe or terminal that cannot be copied is opened anew.
pub fn stream(number: u32) -> Result<AppFd, Errno> {
    open_file(number).or_else(|error| {
        let is_stream = file(number).and_then(rustix::fs::fstat).is_ok_and(|found| {
            matches!(FileType::from_raw_mode(found.st_mode), FileType::Fifo | FileType::CharacterDevice)
        });
        let anew = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK;
        if is_stream { reopen(number, anew) } else { Err(error) }
    })
}

/// The regular file that the application has at `number`, opened anew to look for its holes. EBADF where the thread has the
/// application's table, and for a file that has as many blocks as bytes.
///
/// The open does not wait for a holder of a lease (fcntl(2), F_SETLEASE). The close may take long: when a file was emptied and
/// written anew, ext4, xfs and btrfs write all its pages at a close (ext4_release_file, fs/ext4/file.c).
pub fn open_anew(number: u32) -> Result<OwnedFd, Errno> {
    if !has_own_table() {
        return Err(Errno::BADF);
    }
    let file = reopen(number, OFlags::PATH)?;
    let found = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile || !holes::is_sparse(&found) {
        return Err(Errno::BADF);
    }
    raw::open(ProcPath::thread_self("fd").slash(file.number()).as_c_str(), OFlags::RDONLY | OFlags::NONBLOCK)
}

fn copy(number: u32) -> Result<AppFd, Errno> {
    if may_be_filtered() {
        return Err(Errno::PERM);
    }
    raw::copy_descriptor(application_thread(), number).map(AppFd::Copied)
}

fn reopen(number: u32, flags: OFlags) -> Result<AppFd, Errno> {
    let path = ProcPath::of(raw::own_pid(), "task").slash(application_thread()).then("/fd").slash(number);
    raw::open(path.as_c_str(), flags).map(AppFd::Copied)
}

/// A thread that has the application's table: the first, or another one if that has ended.
fn application_thread() -> u32 {
    let (process, agent) = (raw::own_pid(), raw::own_tid());
    let is_ending = |thread: u32| {
        let stat = ProcStat::read(&ProcPath::of(process, "task").slash(thread).then("/stat"));
        stat.is_ok_and(|stat| stat.is_exiting())
    };
    let mut found = process;
    if is_ending(process) {
        procfs::any_number(ProcPath::of(process, "task").as_c_str(), |thread| {
            let is_one = thread != agent && !is_ending(thread);
            if is_one {
                found = thread;
            }
            is_one
        });
    }
    found
}

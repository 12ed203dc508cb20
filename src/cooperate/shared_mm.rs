//! Memory that outlives its process: a child of vfork(2) or posix_spawn(3) acts in it until it executes its program. It goes on
//! with that when its parent is killed, or when another thread of the parent calls exec.

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::protocol::process::Process;
use crate::protocol::process_id::ProcessId;
use crate::sys::procfs::{self, ProcPath, ProcStat};
use crate::sys::raw;

impl Process {
    /// From now on a child may act in the memory of `id`, for the user that the caller acts for. So the end of the process is not
    /// the end of its calls. The kernel does not say when the child leaves that memory.
    pub fn note_shared_mm(&self, id: ProcessId) {
        self.set_lender(id, rustix::process::geteuid().as_raw(), true);
    }

    /// The same until [`Process::end_spawn`]: posix_spawn(3) returns when the child has executed its program, or has ended
    /// (CLONE_VFORK, clone(2)).
    pub fn begin_spawn(&self, id: ProcessId) {
        self.set_lender(id, rustix::process::geteuid().as_raw(), false);
    }
}

/// Whether a process other than `id`'s may still act in the memory of that image.
pub fn is_memory_in_use(record: &Process, id: ProcessId) -> bool {
    let Some(user) = record.mm_sharer(id) else { return false };
    // Without a cookie the process has not attached wholly, and has announced nothing.
    let Some(cookie) = record.cookie(id) else { return false };
    let image = Image { cookie, word: id.to_word(), start: record.earliest_start(id), user };
    let acts = |pid: u32| pid != id.pid() && image.may_be_memory_of(pid);
    let Ok(all) = raw::open(c"/proc", OFlags::DIRECTORY | OFlags::RDONLY) else { return true };
    procfs::any_entry(all, |name| name.parse().is_ok_and(acts))
}

/// What is known of the memory of an image whose process may be gone.
struct Image {
    cookie: u64,
    word: u64,
    start: u64,
    user: u32,
}

impl Image {
    /// Whether process `pid` may have this memory.
    ///
    /// A process that has executed a program has another memory, which is not read: process_vm_readv(2) can block on a process that
    /// is stuck.
    fn may_be_memory_of(&self, pid: u32) -> bool {
        match ProcStat::read(&ProcPath::of(pid, "stat")) {
            Ok(stat) if !stat.has_first_memory() || stat.is_over() || stat.start < self.start => return false,
            Err(Errno::NOENT | Errno::SRCH) => return false,
            Ok(_) | Err(_) => {}
        }
        match raw::read_remote_word(pid, self.cookie) {
            Ok(found) => found == self.word,
            // Nothing is mapped there, or the process is gone.
            Err(Errno::FAULT | Errno::SRCH) => false,
            Err(_) => procfs::effective_user(pid).is_none_or(|user| user == self.user),
        }
    }
}

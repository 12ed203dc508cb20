//! Memory that outlives its process: a child of vfork(2) or posix_spawn(3) acts in it until it executes its program, and goes on
//! with that when its parent is killed, or when another thread of the parent calls exec.

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::liveness::Stat;
use super::process::{Process, ProcessId};
use crate::raw::{self, ProcPath};

/// Whether a process other than `id`'s may still act in the memory of that image.
pub fn is_memory_in_use(record: &Process, id: ProcessId) -> bool {
    if !record.has_lent(id) {
        return false;
    }
    // Without it the process has told nobody of anything.
    let Some(cookie) = record.cookie(id) else { return false };
    let acts = |pid: u32| pid != id.pid() && may_act(pid, cookie, id.to_word());
    let Ok(all) = raw::open(c"/proc", OFlags::DIRECTORY | OFlags::RDONLY) else { return true };
    raw::any_entry(all, |name| name.parse().is_ok_and(acts))
}

/// The memory of those who have executed their program is another, and is left alone: one that is stuck would have us wait with it.
fn may_act(pid: u32, cookie: u64, word: u64) -> bool {
    match Stat::read(&ProcPath::of(pid, "stat")) {
        Ok(stat) if !stat.has_first_memory() || stat.is_over() => return false,
        Err(Errno::NOENT | Errno::SRCH) => return false,
        Ok(_) | Err(_) => {}
    }
    match raw::read_remote_word(pid, cookie) {
        Ok(found) => found == word,
        // Nothing is there, or nobody.
        Err(Errno::FAULT | Errno::SRCH) => false,
        // Another user's, or one that nobody may look into.
        Err(_) => true,
    }
}

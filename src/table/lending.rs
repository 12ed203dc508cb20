//! Memory that outlives its process: a child of vfork(2) or posix_spawn(3) acts in it until it executes its program, and goes on
//! with that when its parent is killed, or when another thread of the parent calls exec.

use rustix::fs::OFlags;

use super::process::{Process, ProcessId};
use crate::raw;

/// Whether a process other than `id`'s still acts in the memory of that image.
pub fn is_memory_in_use(record: &Process, id: ProcessId) -> bool {
    if !record.has_lent(id) {
        return false;
    }
    // Without it the process has told nobody of anything.
    let Some(cookie) = record.cookie(id) else { return false };
    let acts = |pid: u32| pid != id.pid() && raw::read_remote_word(pid, cookie) == Ok(id.to_word());
    let Ok(all) = raw::open(c"/proc", OFlags::DIRECTORY | OFlags::RDONLY) else { return false };
    raw::any_entry(all, |name| name.parse().is_ok_and(acts))
}

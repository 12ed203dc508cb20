//! Memory that outlives its process: a child of vfork(2) or posix_spawn(3) acts in it until it executes its program, and goes on
//! with that when its parent is killed, or when another thread of the parent calls exec.

use core::mem::MaybeUninit;

use rustix::fs::{OFlags, RawDir};

use super::process::{Process, ProcessId};
use crate::raw;

/// Whether a process other than `id`'s still acts in the memory of that image.
pub fn is_memory_in_use(record: &Process, id: ProcessId) -> bool {
    if !record.has_lent(id) {
        return false;
    }
    // Without it the process has told nobody of anything.
    let Some(cookie) = record.cookie(id) else { return false };
    any_process(|pid| pid != id.pid() && raw::read_remote_word(pid, cookie) == Ok(id.to_word()))
}

fn any_process(mut is_it: impl FnMut(u32) -> bool) -> bool {
    let Ok(all) = raw::open(c"/proc", OFlags::DIRECTORY | OFlags::RDONLY) else { return false };
    let mut buffer = [MaybeUninit::uninit(); 1000];
    let mut entries = RawDir::new(all, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let number = entry.file_name().to_str().ok().and_then(|name| name.parse().ok());
        if number.is_some_and(&mut is_it) {
            return true;
        }
    }
    false
}

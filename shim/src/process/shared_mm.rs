//! Memory that a child shares: after vfork(2) while the calling thread waits, after clone(2) with CLONE_VM beside it.

use core::sync::atomic::Ordering;

use snapshim::sys::{permission, raw};

use super::identity::{SHARES_MM, attached, image_page, note_time_space, table};
use super::{first_thread, thread};

/// Notes, before the call, that a child will share this memory. It may do so when this process is gone already. `is_beside`: the
/// calling thread is not stopped meanwhile.
pub fn note_shared_mm(is_concurrent: bool) {
    thread::note_shared_mm(is_concurrent);
    SHARES_MM.store(true, Ordering::Relaxed);
    // Without a record now, `membership` says so when there is one.
    if let Some(own) = attached()
        && let Some(record) = own.record()
    {
        record.note_shared_mm(own.id);
    }
}

/// Notes which process this memory belongs to. The constructor and a forked child do that, before a vfork child can be the first
/// to use the memory.
pub fn note_pid() {
    first_thread::note();
    thread::forget_shared_mm();
    if table().is_some() && !permission::is_confined() {
        note_time_space();
    }
    if let Some(image) = image_page() {
        image.pid.store(raw::own_pid(), Ordering::Relaxed);
    }
}

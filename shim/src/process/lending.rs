//! Memory that is lent: a child acts in it after vfork(2), or beside the calling thread after clone(2) with CLONE_VM.

use core::sync::atomic::Ordering;

use snapshim::sys::raw;

use super::identity::{LENDS, attached, identity_page, note_time_space, table};
use super::thread;

/// A child may act in this memory from now on, and go on with that when this process is gone; beside the calling thread, if that is
/// not stopped meanwhile.
pub fn note_lending(is_beside: bool) {
    thread::note_lending(is_beside);
    LENDS.store(true, Ordering::Relaxed);
    // Else once there is a record.
    if let Some(own) = attached()
        && let Some(record) = own.record()
    {
        record.note_lending(own.id);
    }
}

/// Notes whose memory this is, in the constructor and in a forked child, before a vfork child can be the first to use it.
pub fn note_pid() {
    thread::forget_lending();
    if table().is_some() {
        note_time_space();
    }
    if let Some(identity) = identity_page() {
        identity.pid.store(raw::own_pid(), Ordering::Relaxed);
    }
}

//! The counts of changes to the descriptor table: another process that looks a writer's descriptor up sees by them whether the
//! number still leads to the same file.
//!
//! In some processes no other one can tell: the kernel shows their descriptors to none, or a process with a table of counts of its
//! own shares the descriptors. There each call looks its descriptor up by itself, before and after.

use core::ffi::c_int;
use core::sync::atomic::{AtomicU32, Ordering};

use rustix::process::DumpableBehavior;
use snapshim::protocol::process::{Process, distrusted};

use super::identity;

/// Makes `change`, after which `fd` may mean another file, and counts it. A process without a record has no writer whose descriptor
/// is looked up.
///
/// Holds nothing that needs dropping while the change is made: close(2) is a cancellation point.
#[inline]
pub fn changing<T>(fd: c_int, change: impl FnOnce() -> T) -> T {
    let record = identity::attached().and_then(|own| own.record());
    if let Some(record) = record {
        record.begin_change(fd as u32);
    }
    let result = change();
    if let Some(record) = record {
        record.end_change(fd as u32);
    }
    result
}

/// The same for the numbers from `first` to `last`.
pub fn changing_all<T>(first: u32, last: u32, change: impl FnOnce() -> T) -> T {
    let record = identity::attached().and_then(|own| own.record());
    if let Some(record) = record {
        record.change_range(first, last, Process::begin_change);
    }
    let result = change();
    if let Some(record) = record {
        record.change_range(first, last, Process::end_change);
    }
    result
}

/// Why other processes cannot tell where a descriptor of this one leads: bits.
static OBSCURE: AtomicU32 = AtomicU32::new(0);
/// The kernel does not show the descriptors to the user's other processes (PR_SET_DUMPABLE).
const HIDDEN: u32 = 1;
/// A process that is no thread of this one has the same descriptor table (CLONE_FILES).
const SHARED: u32 = 2;

/// Whether each call has to look its descriptor up by itself.
#[inline]
pub fn are_obscure() -> bool {
    // Relaxed: a call that another thread makes at the same time may go by the old answer.
    OBSCURE.load(Ordering::Relaxed) != 0
}

/// The generation that a call of such a process notes, given the one that it reads: one that is never found unchanged where changes
/// are not counted here.
pub fn generation_for_call(read: u32) -> u32 {
    if OBSCURE.load(Ordering::Relaxed) & SHARED != 0 { distrusted(read) } else { read }
}

/// Notes that another process gets the same descriptor table: this one does not see that process's changes.
pub fn note_sharer() {
    OBSCURE.fetch_or(SHARED, Ordering::Relaxed);
}

/// Notes whether the user's other processes may look at the descriptors.
pub fn note_hidden(are_hidden: bool) {
    if are_hidden {
        OBSCURE.fetch_or(HIDDEN, Ordering::Relaxed);
    } else {
        OBSCURE.fetch_and(!HIDDEN, Ordering::Relaxed);
    }
}

/// The same, asking the kernel.
pub fn find_out_whether_hidden() {
    note_hidden(rustix::process::dumpable_behavior() != Ok(DumpableBehavior::Dumpable));
}

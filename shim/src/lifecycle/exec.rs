//! exec: the process's record says that this image is about to be replaced, and the kernel stores there when it has been
//! (`snapshim::protocol::executing`).
//!
//! No writer preserves by itself in a process that calls exec. A writer that finds the announcement asks the agent instead, which
//! ends with the image. Writers that came before it are waited for here.

use core::mem::offset_of;
use core::sync::atomic::AtomicU32;

use snapshim::protocol::process::Process;
use snapshim::sys::raw;
use snapshim::sys::wait::Backoff;

use crate::address_space::lock::{self, EVERYWHERE};
use crate::base::config::config;
use crate::base::robust_list::RobustListHead;
use crate::base::user_memory::read_value;
use crate::process::identity::{self, ThisProcess};
use crate::process::ptracer;

/// Makes `call`, which returns only if exec fails.
pub fn announced<R>(call: impl FnOnce() -> R) -> R {
    // A vfork child ends its own image alone, which the table does not know.
    let Some(own) = identity::attached().filter(|_| !identity::is_vfork_child()) else { return call() };
    let Some(record) = own.record() else { return call() };
    record.executing.begin(own.id);
    await_pushers(&own);
    await_summoner(record);
    // Yama keeps the permission across exec, and the new program has not asked for it. Another thread may be making a snapshot.
    if ptracer::is_asked(&own) {
        let _mappings = lock::hold(own);
        ptracer::take_back(&own);
    }
    let list = RobustList::of_this_thread().filter(|list| list.begin(record.executing.futex()));
    let failed = call();
    if let Some(list) = list {
        list.end();
    }
    if own.image.is_mapper() {
        let _mappings = lock::hold(own);
        ptracer::allow(&own);
    }
    record.executing.end();
    failed
}

/// Waits for the writers that preserve in this process at the moment, until the usual deadline. A writer that is stopped in the
/// middle may go on later: that changes no byte (`preserve::unshare`).
fn await_pushers(own: &ThisProcess) {
    let deadline = raw::now() + config().timeout;
    if own.image.is_mapper() {
        lock::find_segment(own, &EVERYWHERE, |index, _| !own.table.await_pushers(index, false, deadline));
    }
}

/// Waits until a process that is about to send this one a signal has done so: the next image has no handler. The signal comes
/// before the next system call of the thread that it goes to.
fn await_summoner(record: &Process) {
    const LONGEST_WAIT: u64 = 50_000_000;
    let until = raw::now() + LONGEST_WAIT;
    let mut backoff = Backoff::default();
    while record.is_summoned() && raw::now() < until {
        backoff.pause();
    }
}

/// The address of the head of this thread's robust list. It is read and written through the kernel: an address that the program
/// registered need not be memory.
struct RobustList(u64);

impl RobustList {
    fn of_this_thread() -> Option<Self> {
        RobustListHead::of_thread(0).map(Self)
    }

    fn pending_at(&self) -> u64 {
        self.0.wrapping_add(offset_of!(RobustListHead, pending) as u64)
    }

    fn read(&self, field: usize) -> Option<u64> {
        read_value(self.0.wrapping_add(field as u64))
    }

    /// Enters `word` as the lock that this thread is about to take, so that the kernel marks it when the image ends. False: the
    /// list is unusable, or a handler interrupted a thread that has an entry of its own there.
    fn begin(&self, word: &AtomicU32) -> bool {
        let (Some(offset), Some(0)) =
            (self.read(offset_of!(RobustListHead, offset)), self.read(offset_of!(RobustListHead, pending)))
        else {
            return false;
        };
        let entry = (core::ptr::from_ref(word) as u64).wrapping_sub(offset);
        // The lowest bit would mean a lock with priority inheritance.
        entry & 1 == 0 && raw::write_own_word(self.pending_at(), entry).is_ok()
    }

    fn end(&self) {
        let _ = raw::write_own_word(self.pending_at(), 0);
    }
}

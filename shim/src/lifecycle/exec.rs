//! exec: the record says that this image is about to be replaced, and the kernel says there that it was
//! (`snapshim::protocol::executing`).
//!
//! Nobody pushes into a process that calls exec: pushers that find the word ask the agent instead, which ends with the image, and
//! those that came before are waited for here.

use core::mem::offset_of;
use core::sync::atomic::AtomicU32;

use snapshim::sys::raw;
use syscalls::{Sysno, syscall};

use crate::address_space::lock::{self, EVERYWHERE};
use crate::base::config::config;
use crate::process::identity::{self, Own};

/// Makes `call`, which returns only if exec fails.
pub fn announced<R>(call: impl FnOnce() -> R) -> R {
    // A vfork child ends nobody's image but its own, of which the table knows nothing.
    let Some(own) = identity::attached().filter(|_| !identity::is_borrower()) else { return call() };
    let Some(record) = own.record() else { return call() };
    record.executing.begin(own.id);
    await_pushers(&own);
    let list = RobustList::of_this_thread().filter(|list| list.begin(record.executing.futex()));
    let failed = call();
    if let Some(list) = list {
        list.end();
    }
    record.executing.end();
    failed
}

/// Who is stopped in a push is not waited for longer than for anybody: what it may still do changes no byte (`preserve::unshare`).
fn await_pushers(own: &Own) {
    let deadline = raw::now() + config().timeout;
    if own.identity.is_mapper() {
        lock::find_piece(own, &EVERYWHERE, |index, _| !own.table.await_pushers(index, false, deadline));
    }
}

/// `struct robust_list_head` of linux/futex.h: libc's for this thread, or one that the program made itself.
#[repr(C)]
struct Head {
    next: u64,
    futex_offset: i64,
    pending: u64,
}

/// Where it is. It is read and written by the kernel, as what a program names may be no memory at all.
struct RobustList(u64);

impl RobustList {
    fn of_this_thread() -> Option<Self> {
        let (mut head, mut size) = (0u64, 0usize);
        // SAFETY: both results are writable.
        let found = unsafe { syscall!(Sysno::get_robust_list, 0, &raw mut head, &raw mut size) };
        (found.is_ok() && head != 0 && size == size_of::<Head>()).then_some(Self(head))
    }

    fn pending_at(&self) -> u64 {
        self.0.wrapping_add(offset_of!(Head, pending) as u64)
    }

    fn read(&self, field: usize) -> Option<u64> {
        raw::read_remote_word(raw::own_tid(), self.0.wrapping_add(field as u64)).ok()
    }

    /// False: a handler interrupted who has an entry of its own there, or the list is none.
    fn begin(&self, word: &AtomicU32) -> bool {
        let (Some(offset), Some(0)) = (self.read(offset_of!(Head, futex_offset)), self.read(offset_of!(Head, pending)))
        else {
            return false;
        };
        let entry = (core::ptr::from_ref(word) as u64).wrapping_sub(offset);
        // The lowest bit would say that the word is a lock with priority inheritance.
        entry & 1 == 0 && raw::write_own_word(self.pending_at(), entry).is_ok()
    }

    fn end(&self) {
        let _ = raw::write_own_word(self.pending_at(), 0);
    }
}

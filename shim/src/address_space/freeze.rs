//! Freezing a range: while a writable range of a snapshot is copied, stores of the process's other threads into it fault, wait,
//! and go on.
//!
//! The range is write-protected meanwhile. The handler for SIGSEGV ([`signals`]) is installed when the first range is frozen, and
//! asks here last whose fault it was. (The traps of writers' shared mappings are another matter: `shared`.)

use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use core::time::Duration;

use rustix::mm::MprotectFlags;
use snapshim::preserve::relocate::StoreBarrier;
use snapshim::preserve::unshare;
use snapshim::protocol::process::Agent;
use snapshim::protocol::snapshot::View;
use snapshim::sys::procfs::{ProcPath, ProcStat};
use snapshim::sys::sync::full_fence;
use snapshim::sys::wait::Backoff;
use snapshim::sys::{futex, raw};

use super::lock;
use crate::base::config::config;
use crate::base::own_stacks::Outcome;
use crate::process::identity;
use crate::signals::frame::Access;
use crate::signals::{self, Asked};

/// The one range that is frozen.
static START: AtomicU64 = AtomicU64::new(0);
static END: AtomicU64 = AtomicU64::new(0);
/// 1 while a range is frozen. Threads whose stores fault sleep on it.
static FROZEN: AtomicU32 = AtomicU32::new(0);
/// How many ranges have ever been frozen.
static FREEZES: AtomicU32 = AtomicU32::new(0);

/// Holds the stores of this process's other threads back.
#[derive(Debug)]
pub struct Freezer;

impl StoreBarrier for Freezer {
    fn freeze(&self, address: u64, length: usize, protection: u32) -> bool {
        if is_alone() {
            return true;
        }
        let deadline = raw::now() + config().timeout;
        let mut backoff = Backoff::default();
        // AcqRel: pairs with the Release in `thaw`: one range at a time.
        while FROZEN.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            if backoff.is_sleeping() && raw::now() > deadline {
                return false;
            }
            backoff.pause();
        }
        START.store(address, Ordering::Relaxed);
        // Release: pairs with the Acquire in `is_frozen`.
        END.store(address + length as u64, Ordering::Release);
        FREEZES.fetch_add(1, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `any_frozen_since`. The count comes before the protection, which follows.
        full_fence();
        // A writable page is readable on x86. It stays readable here: the kernel may read it, and a fault of the kernel's does
        // not wait.
        let readable =
            MprotectFlags::from_bits_retain(protection).difference(MprotectFlags::WRITE) | MprotectFlags::READ;
        // SAFETY: the range is part of a snapshot of this process, which no other thread unmaps or moves now; a thread that
        // stores into it waits in `resolve`.
        let frozen = signals::install(Asked::Then, resolve)
            && unsafe { rustix::mm::mprotect(address as *mut c_void, length, readable) }.is_ok();
        if !frozen {
            self.thaw();
        }
        frozen
    }

    fn thaw(&self) {
        if FROZEN.load(Ordering::Relaxed) == 0 {
            return;
        }
        // Release: pairs with the Acquire in `is_frozen`; the range is empty for every thread that still looks.
        END.store(0, Ordering::Release);
        START.store(0, Ordering::Relaxed);
        // Release: pairs with the Acquire in `freeze`'s exchange and in `is_frozen`.
        FROZEN.store(0, Ordering::Release);
        futex::wake(&FROZEN);
    }
}

/// Whether no thread but the calling one could store.
fn is_alone() -> bool {
    let agent = identity::attached().and_then(|own| match own.record()?.agent(own.id) {
        Agent::Thread(tid) => Some(tid),
        _ => None,
    });
    let threads = ProcStat::read(&ProcPath::thread_self("stat")).map_or(u64::MAX, |stat| stat.threads);
    agent != Some(raw::own_tid()) && !identity::is_vfork_child() && threads <= 1 + u64::from(agent.is_some())
}

/// How many ranges have been frozen so far; `None` while one is.
pub fn freezes() -> Option<u32> {
    let freezes = FREEZES.load(Ordering::Relaxed);
    // Acquire: pairs with the Release in `thaw`, and orders the load of the count before the load of `FROZEN`.
    fence(Ordering::Acquire);
    (FROZEN.load(Ordering::Acquire) == 0).then_some(freezes)
}

/// Whether a range may have been frozen since [`freezes`] answered `before`. The kernel may have found it read-only then, or may
/// still hold pages that the range does not show any more.
pub fn any_frozen_since(before: Option<u32>) -> bool {
    // SeqCst: pairs with the fence in `freeze`. The kernel's access comes before the load of the count.
    full_fence();
    before.is_none_or(|before| FREEZES.load(Ordering::Relaxed) != before)
}

/// Whether the address lies in the range that is frozen now.
fn is_frozen(address: u64) -> bool {
    // Acquire: pairs with the Release in `freeze`; makes the start visible with the end.
    (START.load(Ordering::Relaxed)..END.load(Ordering::Acquire)).contains(&address)
}

const SLICE: Duration = Duration::from_millis(10);

/// Resolves a fault of an access to `address`, if a range was frozen there.
fn resolve(address: u64, access: Access) -> Outcome {
    if access.is_fetch() || !is_ours(address) {
        return Outcome::Foreign;
    }
    while is_frozen(address) {
        futex::wait(&FROZEN, 1, SLICE);
    }
    Outcome::Resolved
}

/// Whether the store faulted only because its range was frozen; that may be over by now.
fn is_ours(address: u64) -> bool {
    is_frozen(address)
        || identity::attached().is_some_and(|own| {
            let is_writable = |_, view: &View| unshare::is_writable(view.extent.protection);
            lock::find_segment(&own, &(address..address + 1), is_writable).is_some()
        })
}

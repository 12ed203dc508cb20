//! Freezing a range: while a writable range of a snapshot is copied, stores of the process's other threads into it fault, wait,
//! and go on.
//!
//! The range is write-protected meanwhile. The handler for SIGSEGV ([`signals`]) is installed when the first range is frozen, and
//! asks here last whose fault it was. (The traps of writers' shared mappings are another matter: `shared`.)

use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use core::time::Duration;

use rustix::mm::MprotectFlags;
use snapshim::preserve::relocate::Stores;
use snapshim::preserve::unshare;
use snapshim::protocol::process::Agent;
use snapshim::protocol::snapshot::View;
use snapshim::sys::procfs::{ProcPath, ProcStat};
use snapshim::sys::sync::full_fence;
use snapshim::sys::wait::Patience;
use snapshim::sys::{futex, raw};

use super::lock;
use crate::base::config::config;
use crate::base::fault_stacks::Outcome;
use crate::process::identity;
use crate::signals::frame::Access;
use crate::signals::{self, Asked};

/// The one range that is frozen.
static START: AtomicU64 = AtomicU64::new(0);
static END: AtomicU64 = AtomicU64::new(0);
/// 1 while a range is frozen. Threads whose stores fault sleep on it.
static HELD: AtomicU32 = AtomicU32::new(0);
/// How many ranges have ever been frozen.
static HOLDS: AtomicU32 = AtomicU32::new(0);

/// Holds the stores of this process's other threads back.
#[derive(Debug)]
pub struct Trap;

impl Stores for Trap {
    fn hold(&self, address: u64, length: usize, protection: u32) -> bool {
        if is_alone() {
            return true;
        }
        let deadline = raw::now() + config().timeout;
        let mut patience = Patience::default();
        // AcqRel: pairs with the Release in `release`: one range at a time.
        while HELD.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            if patience.is_tried() && raw::now() > deadline {
                return false;
            }
            patience.pause();
        }
        START.store(address, Ordering::Relaxed);
        // Release: pairs with the Acquire in `is_held`.
        END.store(address + length as u64, Ordering::Release);
        HOLDS.fetch_add(1, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `any_held_since`. The count comes before the protection, which follows.
        full_fence();
        // A writable page is readable on x86. It stays readable here: the kernel may read it, and a fault of the kernel's does
        // not wait.
        let readable =
            MprotectFlags::from_bits_retain(protection).difference(MprotectFlags::WRITE) | MprotectFlags::READ;
        // SAFETY: the range is part of a snapshot of this process, which no other thread unmaps or moves now; a thread that
        // stores into it waits in `resolve`.
        let held = signals::install(Asked::Then, resolve)
            && unsafe { rustix::mm::mprotect(address as *mut c_void, length, readable) }.is_ok();
        if !held {
            self.release();
        }
        held
    }

    fn release(&self) {
        if HELD.load(Ordering::Relaxed) == 0 {
            return;
        }
        // Release: pairs with the Acquire in `is_held`; the range is empty for every thread that still looks.
        END.store(0, Ordering::Release);
        START.store(0, Ordering::Relaxed);
        // Release: pairs with the Acquire in `hold`'s exchange and in `is_held`.
        HELD.store(0, Ordering::Release);
        futex::wake(&HELD);
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
pub fn holds() -> Option<u32> {
    let holds = HOLDS.load(Ordering::Relaxed);
    // Acquire: pairs with the Release in `release`, and orders the load of the count before the load of `HELD`.
    fence(Ordering::Acquire);
    (HELD.load(Ordering::Acquire) == 0).then_some(holds)
}

/// Whether a range may have been frozen since [`holds`] answered `before`. The kernel may have found it read-only then, or may
/// still hold pages that the range does not show any more.
pub fn any_held_since(before: Option<u32>) -> bool {
    // SeqCst: pairs with the fence in `hold`. The kernel's access comes before the load of the count.
    full_fence();
    before.is_none_or(|before| HOLDS.load(Ordering::Relaxed) != before)
}

/// Whether the address lies in the range that is frozen now.
fn is_held(address: u64) -> bool {
    // Acquire: pairs with the Release in `hold`; makes the start visible with the end.
    (START.load(Ordering::Relaxed)..END.load(Ordering::Acquire)).contains(&address)
}

const SLICE: Duration = Duration::from_millis(10);

/// Resolves a fault of an access to `address`, if a range was frozen there.
fn resolve(address: u64, access: Access) -> Outcome {
    if access.is_fetch() || !is_ours(address) {
        return Outcome::Foreign;
    }
    while is_held(address) {
        futex::wait(&HELD, 1, SLICE);
    }
    Outcome::Resolved
}

/// Whether the store faulted only because its range was frozen; that may be over by now.
fn is_ours(address: u64) -> bool {
    is_held(address)
        || identity::attached().is_some_and(|own| {
            let is_writable = |_, view: &View| unshare::is_writable(view.extent.protection);
            lock::find_piece(&own, &(address..address + 1), is_writable).is_some()
        })
}

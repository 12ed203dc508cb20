//! The trap: while a writable range of a snapshot is copied, stores of the process's other threads into it fault, wait, and go on.
//!
//! The handler for SIGSEGV ([`signals`]) is put in place when the first such range is held, and asks here last whose fault it was.

use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use core::time::Duration;

use rustix::mm::MprotectFlags;
use snapshim::preserve::relocate::Stores;
use snapshim::preserve::unshare;
use snapshim::protocol::process::Agent;
use snapshim::protocol::snapshot::View;
use snapshim::sys::procfs::{ProcPath, Stat};
use snapshim::sys::sync::full_fence;
use snapshim::sys::wait::Patience;
use snapshim::sys::{futex, raw};

use super::lock;
use crate::base::config::config;
use crate::base::fault_stacks::Outcome;
use crate::process::identity;
use crate::signals::frame::Access;
use crate::signals::{self, Asked};

/// The one range that is held.
static START: AtomicU64 = AtomicU64::new(0);
static END: AtomicU64 = AtomicU64::new(0);
/// 1 while a range is held; those who trap sleep on it.
static HELD: AtomicU32 = AtomicU32::new(0);
/// How many ranges have been held, ever.
static HOLDS: AtomicU32 = AtomicU32::new(0);

/// Keeps the other threads of this process from storing.
#[derive(Debug)]
pub struct Trap;

impl Stores for Trap {
    fn hold(&self, address: u64, length: usize, protection: u32) -> bool {
        if is_alone() {
            return true;
        }
        let deadline = raw::now() + config().timeout;
        let mut patience = Patience::default();
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
        // SeqCst: pairs with the fence in `any_held_since`: the count before the protection, which is behind this.
        full_fence();
        // What may be stored into may be loaded from (on x86), by the kernel too, which would not wait.
        let readable =
            MprotectFlags::from_bits_retain(protection).difference(MprotectFlags::WRITE) | MprotectFlags::READ;
        // SAFETY: the range is part of a snapshot of this process that no other thread changes now; who stores into it waits in
        // `resolve`.
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
        END.store(0, Ordering::Release);
        START.store(0, Ordering::Relaxed);
        // Release: pairs with the Acquire in `hold`'s exchange and in `is_held`.
        HELD.store(0, Ordering::Release);
        futex::wake(&HELD);
    }
}

/// Whether the calling thread is the only one that could store.
fn is_alone() -> bool {
    let agent = identity::attached().and_then(|own| match own.record()?.agent(own.id) {
        Agent::Thread(tid) => Some(tid),
        _ => None,
    });
    let threads = Stat::read(&ProcPath::own("stat")).map_or(u64::MAX, |stat| stat.threads);
    agent != Some(raw::own_tid()) && !identity::is_borrower() && threads <= 1 + u64::from(agent.is_some())
}

/// How many ranges have been held so far, if none is held now.
pub fn holds() -> Option<u32> {
    let holds = HOLDS.load(Ordering::Relaxed);
    // Acquire: pairs with the Release in `release`, and orders the look at the count before this one.
    fence(Ordering::Acquire);
    (HELD.load(Ordering::Acquire) == 0).then_some(holds)
}

/// Whether a range may have been held since [`holds`] said `before`: the kernel may have found it closed, or hold on to pages that
/// it shows no more.
pub fn any_held_since(before: Option<u32>) -> bool {
    // SeqCst: pairs with the fence in `hold`: what the kernel found before the count.
    full_fence();
    before.is_none_or(|before| HOLDS.load(Ordering::Relaxed) != before)
}

fn is_held(address: u64) -> bool {
    (START.load(Ordering::Relaxed)..END.load(Ordering::Acquire)).contains(&address)
}

const SLICE: Duration = Duration::from_millis(10);

/// Resolves a fault of an access to `address` if a range was held there.
fn resolve(address: u64, access: Access) -> Outcome {
    if access.is_fetch() || !is_ours(address) {
        return Outcome::Foreign;
    }
    while is_held(address) {
        futex::wait(&HELD, 1, SLICE);
    }
    Outcome::Resolved
}

/// Whether the store faulted only because its range was held, perhaps no longer.
fn is_ours(address: u64) -> bool {
    is_held(address)
        || identity::attached().is_some_and(|own| {
            let is_writable = |_, view: &View| unshare::is_writable(view.extent.protection);
            lock::find_piece(&own, &(address..address + 1), is_writable).is_some()
        })
}

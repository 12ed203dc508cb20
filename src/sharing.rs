//! Shared mappings of writers: a store through one is a write that makes no call.
//!
//! A process that maps a file shared and writable says so in its record, announced, before it can store. A creation, once the
//! writers under way are drained, has every such process *arm* its mappings: take the write permission away, so that the next store
//! traps and goes through the gate like a write. Only then is the instant chosen: stores are either before the arming, and in the
//! snapshot, or behind the gate.

use crate::creation::{Scope, Ticket};
use crate::origin::Origin;
use crate::sync::{AtomicU64, Fault, Ordering, planted};

/// What a process record says of shared mappings. Both words are written by the process itself.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[derive(Debug)]
#[repr(C)]
pub struct Sharing {
    /// One bit for each origin that the process has mapped shared and writable; several may have the same.
    origins: AtomicU64,
    /// Low bits of the image epoch:24 | number of the last creation that the process has armed for:40.
    armed: AtomicU64,
}

const NUMBER_BITS: u32 = 40;

fn bit(origin: Origin) -> u64 {
    1 << (origin.mark() >> 58)
}

impl Sharing {
    /// Nothing shared.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { origins: AtomicU64::new(0), armed: AtomicU64::new(0) }
    }

    /// Says which origins the process has mapped shared and writable; announced, for each that is new.
    pub fn describe(&self, origins: impl Iterator<Item = Origin>) {
        // Release: pairs with the Acquire in `includes`.
        self.origins.store(origins.fold(0, |bits, origin| bits | bit(origin)), Ordering::Release);
    }

    /// Whether the process may have an origin that `scope` covers mapped shared and writable.
    pub fn includes(&self, scope: Scope) -> bool {
        // Acquire: pairs with the Release in `describe`; a mapping whose announcement is over is in it.
        let bits = self.origins.load(Ordering::Acquire);
        match scope {
            _ if planted(Fault::Arming) => false,
            Scope::One(origin) => bits & bit(origin) != 0,
            Scope::All => bits != 0,
        }
    }

    /// From now on stores of the image `epoch` through its shared mappings of what `creation` covers trap.
    pub fn acknowledge(&self, epoch: u32, creation: Ticket) {
        // Release: pairs with the Acquire in `is_armed_for`.
        self.armed.store(acknowledgement(epoch, creation), Ordering::Release);
    }

    /// Whether the image `epoch` has said so.
    pub fn is_armed_for(&self, epoch: u32, creation: Ticket) -> bool {
        // Acquire: pairs with the Release in `acknowledge`; the stores that came before are done.
        self.armed.load(Ordering::Acquire) == acknowledgement(epoch, creation)
    }
}

fn acknowledgement(epoch: u32, creation: Ticket) -> u64 {
    u64::from(epoch) << NUMBER_BITS | creation.number()
}

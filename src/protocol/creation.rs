//! The creation record: the one place in the table that decides a snapshot's instant.
//!
//! One creation is under way at a time. Its state is one word. One compare-exchange decides whether it comes about: the creator's
//! `commit` against an `abort` by any other process. The record is also the gate of the origins: a writer waits if the record names
//! its origin.

use super::origin::{AtomicTarget, Origin, Target};
use crate::sys::sync::{AtomicU64, Fault, Ordering, fence, planted};

/// All-zero is "free".
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Creation {
    /// phase:8 | number:40 | owner:16. The low half, with the phase and the number's low 24 bits, is a futex.
    state: AtomicU64,
    reserved: [AtomicU64; 7],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Creation>() == 64);

/// What a thread's creation covers and how long it may take. It stands in the creator's own writer slot, and is written only while
/// no creation of that thread is under way: a creator that was stopped and aborted cannot overwrite the intent of its successor.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C)]
pub struct Intent {
    scope: AtomicTarget,
    /// CLOCK_MONOTONIC, nanoseconds.
    deadline: AtomicU64,
}

impl Intent {
    /// Says what the next [`Creation::claim`] of this thread is for.
    pub fn declare(&self, scope: Scope, deadline: u64) {
        // Release: pairs with the fence in `still`: a thread that reads these stores finds the creator's last creation over.
        fence(Ordering::Release);
        self.deadline.store(deadline, Ordering::Relaxed);
        self.scope.store(match scope {
            Scope::One(origin) => Target::Origin(origin),
            Scope::All => Target::Elsewhere,
        });
    }
}

/// Finds the intent of a creator by the slot that the creation record names.
pub trait Intents {
    /// The intent in writer slot `owner`; `None` if there is no such slot (a damaged table).
    fn intent(&self, owner: u16) -> Option<&Intent>;
}

/// What a creation covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One origin.
    One(Origin),
    /// Every origin there is (a mapper forks).
    All,
}

/// Another process aborted the creation, because it took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

/// One state of one creation, as a thread read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

const FREE: u64 = 0;
const COLLECTING: u64 = 1;
const COMMITTED: u64 = 2;
const ARMING: u64 = 3;

const NUMBER_SHIFT: u32 = 8;
const NUMBER_BITS: u64 = (1 << 40) - 1;
const OWNER_SHIFT: u32 = 48;

const fn state(phase: u64, number: u64, owner: u16) -> u64 {
    phase | (number & NUMBER_BITS) << NUMBER_SHIFT | (owner as u64) << OWNER_SHIFT
}

impl Ticket {
    const fn phase(self) -> u64 {
        self.0 & 0xff
    }

    /// Tells this creation from all others there ever were.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0 >> NUMBER_SHIFT & NUMBER_BITS
    }

    /// Whether a creation is under way, decided or not.
    #[must_use]
    pub const fn is_busy(self) -> bool {
        self.phase() != FREE
    }

    /// Whether the writers are drained, and every process that shares what is covered is to arm its mappings.
    #[must_use]
    pub const fn is_arming(self) -> bool {
        self.phase() == ARMING
    }

    /// Whether the creation has been committed, and only its aftermath is left.
    #[must_use]
    pub const fn is_committed(self) -> bool {
        self.phase() == COMMITTED
    }

    /// The writer slot of the creator.
    #[must_use]
    pub const fn owner(self) -> u16 {
        (self.0 >> OWNER_SHIFT) as u16
    }

    /// The half of the state that `Creation::futex` waits on.
    #[must_use]
    pub const fn low_half(self) -> u32 {
        self.0 as u32
    }
}

impl Creation {
    /// The state as it is now. Acquire: pairs with the Release in `commit` and `release`; what a past creation published is
    /// visible.
    pub fn load(&self) -> Ticket {
        Ticket(self.state.load(Ordering::Acquire))
    }

    /// Free -> collecting, by compare-exchange against other creators. The error is the creation under way.
    ///
    /// `owner` is the creator's writer slot, whose [`Intent`] has been declared.
    pub fn claim(&self, owner: u16) -> Result<Ticket, Ticket> {
        loop {
            let free = self.load();
            if free.is_busy() {
                return Err(free);
            }
            let mine = state(COLLECTING, free.number() + 1, owner);
            // AcqRel: pairs with the Acquire in `load`: a thread that sees the claim sees the intent. A number is used once.
            match self.state.compare_exchange(free.0, mine, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(Ticket(mine)),
                Err(now) if planted(Fault::ClaimAgain) => return Err(Ticket(now)),
                // Another creation has come, and may be over already. A caller that waited for the end of one that is over would
                // never be woken: so look again.
                Err(_) => {}
            }
        }
    }

    /// Collecting -> arming, once the writers are drained. The error: another process aborted the creation.
    ///
    /// Arming must follow the drain: a writer that passed the gate earlier may still open a mapping again that was armed before the
    /// writer finished.
    pub fn start_arming(&self, mine: Ticket) -> Result<Ticket, Aborted> {
        let arming = state(ARMING, mine.number(), mine.owner());
        // AcqRel: against `abort`; pairs with the Acquire in `load`.
        let started = self.state.compare_exchange(mine.0, arming, Ordering::AcqRel, Ordering::Relaxed);
        started.map(|_| Ticket(arming)).map_err(|_| Aborted)
    }

    /// Collecting or arming -> committed. False: another process aborted the creation, and no snapshot has come about.
    #[must_use]
    pub fn commit(&self, mine: Ticket) -> bool {
        let committed = state(COMMITTED, mine.number(), mine.owner());
        if planted(Fault::CommitExchange) {
            self.state.store(committed, Ordering::Release);
            return true;
        }
        // AcqRel: against `abort`. Release: pairs with the Acquire in `load`; the published snapshots are visible to writers that
        // waited.
        self.state.compare_exchange(mine.0, committed, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Committed -> free, when everything that the commit decided has been carried out. Any process may do it, and more than once.
    pub fn release(&self, mine: Ticket) {
        let committed = state(COMMITTED, mine.number(), mine.owner());
        // Release: pairs with the Acquire in `load`.
        let _ =
            self.state.compare_exchange(committed, state(FREE, mine.number(), 0), Ordering::Release, Ordering::Relaxed);
    }

    /// Collecting or arming, as it was seen -> free: by another process if the owner is dead or too late, or by a creator that
    /// gives up.
    pub fn abort(&self, seen: Ticket) -> bool {
        let free = state(FREE, seen.number(), 0);
        // AcqRel: against `start_arming` and `commit`.
        matches!(seen.phase(), COLLECTING | ARMING)
            && self.state.compare_exchange(seen.0, free, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Ends a creation, as it was seen, in the place of its owner. One that is not committed has not happened; one that is
    /// committed stays.
    pub fn end(&self, seen: Ticket) {
        if seen.is_committed() && !planted(Fault::CommittedEnd) {
            self.release(seen);
        } else {
            self.abort(seen);
        }
    }

    /// A state that no creation can have -> free. False: it is a possible one.
    pub fn clear_impossible(&self, seen: Ticket) -> bool {
        seen.phase() > ARMING
            && self
                .state
                .compare_exchange(seen.0, state(FREE, seen.number(), 0), Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// The creation under way, if writers of `origin` have to wait for it.
    pub fn naming(&self, origin: Origin, intents: &impl Intents) -> Option<Ticket> {
        loop {
            let seen = self.load();
            if !seen.is_busy() {
                return None;
            }
            let scope = intents.intent(seen.owner()).map(|intent| intent.scope.load());
            if self.still(seen) {
                let spared = matches!(scope, Some(Target::Origin(other)) if other != origin);
                return (!spared).then_some(seen);
            }
        }
    }

    /// What the creation `seen` covers; `None` if it is over.
    pub fn scope(&self, seen: Ticket, intents: &impl Intents) -> Option<Scope> {
        let place = intents.intent(seen.owner())?.scope.load();
        let scope = match place {
            Target::Origin(origin) => Scope::One(origin),
            Target::Unknown | Target::Elsewhere => Scope::All,
        };
        self.still(seen).then_some(scope)
    }

    /// When waiters may abort the creation `seen` (CLOCK_MONOTONIC, nanoseconds); `None` if it is over.
    pub fn deadline(&self, seen: Ticket, intents: &impl Intents) -> Option<u64> {
        let deadline = intents.intent(seen.owner())?.deadline.load(Ordering::Relaxed);
        self.still(seen).then_some(deadline)
    }

    /// Whether the creation under way is still `seen`. What was read of its intent in between is then its own.
    fn still(&self, seen: Ticket) -> bool {
        // Acquire: pairs with the Release in `declare`; orders the loads of the intent before the second look.
        fence(Ordering::Acquire);
        let now = Ticket(self.state.load(Ordering::Relaxed));
        planted(Fault::IntentOfOther) || now.is_busy() && now.number() == seen.number()
    }

    /// The half of the state that changes at every transition: a futex.
    #[cfg(not(loom))]
    pub fn futex(&self) -> &crate::sys::sync::AtomicU32 {
        crate::sys::futex::low_half(&self.state)
    }
}

impl Scope {
    /// Whether snapshots of `origin` may come about.
    #[must_use]
    pub fn covers(self, origin: Origin) -> bool {
        match self {
            Self::One(one) => one == origin,
            Self::All => true,
        }
    }
}

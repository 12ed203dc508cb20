//! The creation records: each decides the instant of one snapshot, or of a group of them.
//!
//! A creation's state is one word. One compare-exchange decides whether it comes about: the creator's `commit` against an `abort`
//! by any other process. The record is also the gate of the origins that it names: a writer waits if any record names its origin.
//!
//! Creations of different origins are made side by side, each in its own record. Of one origin only one is under way: otherwise
//! those who make snapshots of one file again and again would take all records, and leave its writers no gap. So a creator
//! *proposes* its creation, and compares it with the others before it goes on ([`Creations::rival`]).

use super::limits::CREATIONS;
use super::origin::{AtomicTarget, Origin, Target};
use crate::sys::sync::{AtomicU64, Fault, Ordering, fence, planted};

/// The creation records. All-zero is "free".
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Creations {
    /// phase:8 | number:40 | owner:16. The low half, with the phase and the number's low 24 bits, is a futex.
    records: [AtomicU64; CREATIONS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Creations>() == 128);

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
    /// Says what the next [`Creations::claim`] of this thread is for.
    pub fn declare(&self, scope: Scope, deadline: u64) {
        // Release: pairs with the fence in `still`: a thread that reads these stores finds the creator's last creation over.
        fence(Ordering::Release);
        self.deadline.store(deadline, Ordering::Relaxed);
        self.scope.store(match scope {
            Scope::One(origin) => Target::Origin(origin),
            Scope::Held => Target::Elsewhere,
            Scope::Group => Target::Unknown,
        });
    }
}

/// Finds the intent of a creator by the slot that the creation record names.
pub trait Intents {
    /// The intent in writer slot `owner`; `None` if there is no such slot (a damaged table).
    fn intent(&self, owner: u16) -> Option<&Intent>;
    /// Whether the process of the creator with writer slot `owner` may have snapshots of `origin`. A creation for which it makes
    /// one meanwhile is proposed anew.
    fn is_held(&self, owner: u16, origin: Origin) -> bool;
    /// Whether the process of the creator with writer slot `owner` has, or is making, snapshots of `origin`. The creator has said
    /// so before it claims its creation.
    fn is_in_group(&self, owner: u16, origin: Origin) -> bool;
}

/// What a creation covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One origin.
    One(Origin),
    /// Every origin that the creator's process has snapshots of (a mapper forks).
    Held,
    /// Several origins at one instant: those that the creator's process has snapshots of, or records that it has claimed and that
    /// name them.
    Group,
}

/// Another process aborted the creation, because it took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

/// One state of one creation, as a thread read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    state: u64,
    record: u8,
}

/// How another creation stands in the way of a proposed one, which it excludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    /// It goes first. The proposed one is to be given up, and proposed again when this one is over.
    First(Ticket),
    /// It is proposed too, and gives way, or has not seen the other. That is known in a moment.
    Undecided(Ticket),
}

const FREE: u64 = 0;
const COLLECTING: u64 = 1;
const COMMITTED: u64 = 2;
const ARMING: u64 = 3;
const PROPOSED: u64 = 4;

const NUMBER_SHIFT: u32 = 8;
const NUMBER_BITS: u64 = (1 << 40) - 1;
const OWNER_SHIFT: u32 = 48;

const fn state(phase: u64, number: u64, owner: u16) -> u64 {
    phase | (number & NUMBER_BITS) << NUMBER_SHIFT | (owner as u64) << OWNER_SHIFT
}

impl Ticket {
    const fn phase(self) -> u64 {
        self.state & 0xff
    }

    /// Tells this creation from all others there ever were in its record.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.state >> NUMBER_SHIFT & NUMBER_BITS
    }

    /// The index of its record.
    #[must_use]
    pub const fn record(self) -> usize {
        self.record as usize
    }

    /// Whether a creation is under way, decided or not.
    #[must_use]
    pub const fn is_busy(self) -> bool {
        self.phase() != FREE
    }

    /// Whether the writers are drained, and every process that shares what is covered is to arm its mappings.
    #[must_use]
    pub const fn is_arming(&self) -> bool {
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
        (self.state >> OWNER_SHIFT) as u16
    }

    /// The half of the state that `Creations::futex` waits on.
    #[must_use]
    pub const fn low_half(self) -> u32 {
        self.state as u32
    }

    /// The same creation in another phase.
    const fn in_phase(self, phase: u64) -> Self {
        Self { state: state(phase, self.number(), self.owner()), ..self }
    }

    /// Its record when it is over.
    const fn over(self) -> Self {
        Self { state: state(FREE, self.number(), 0), ..self }
    }
}

impl Creations {
    /// The state of record `index` as it is now. Acquire: pairs with the Release in `commit` and `release`; what a past creation
    /// published is visible.
    fn load(&self, index: usize) -> Ticket {
        Ticket { state: self.records[index].load(Ordering::Acquire), record: index as u8 }
    }

    /// The creations under way.
    pub fn under_way(&self) -> impl Iterator<Item = Ticket> + '_ {
        (0..CREATIONS).map(|index| self.load(index)).filter(|seen| seen.is_busy())
    }

    /// Whether a record is free.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.under_way().count() < CREATIONS
    }

    /// Whether the creation is in the state `seen` still.
    #[must_use]
    pub fn is(&self, seen: Ticket) -> bool {
        self.load(seen.record()) == seen
    }

    /// From `from` to `to`, which are states of one record, by compare-exchange against all others.
    ///
    /// AcqRel: pairs with the Acquire in `load`: who sees the new state sees what came before it.
    fn step(&self, from: Ticket, to: Ticket) -> bool {
        let word = &self.records[from.record()];
        word.compare_exchange(from.state, to.state, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Free -> proposed, by compare-exchange against other creators. `None`: no record is free.
    ///
    /// `owner` is the creator's writer slot, whose [`Intent`] has been declared. Writers of what it covers wait from here on.
    #[must_use]
    pub fn claim(&self, owner: u16) -> Option<Ticket> {
        (0..CREATIONS).find_map(|index| {
            let free = self.load(index);
            // A number is used once.
            let mine = Ticket { state: state(PROPOSED, free.number() + 1, owner), ..free };
            (!free.is_busy() && self.step(free, mine)).then_some(mine)
        })
    }

    /// What stands in the way of the creation `mine`, which is proposed. The caller has raised the active word since.
    ///
    /// Each creator claims, makes a full fence (`ActiveWord::raise`), and then looks here. So of two that exclude each other at
    /// least one sees the other, and only one of them goes on: the one that was no longer proposed, or has the lower index.
    pub fn rival(&self, mine: Ticket, scope: Scope, intents: &impl Intents) -> Option<Rival> {
        if planted(Fault::RivalLook) {
            return None;
        }
        let mut rivals = self
            .under_way()
            .filter(|seen| seen.record != mine.record && self.excludes(*seen, (mine.owner(), scope), intents));
        let goes_first = |seen: &Ticket| seen.phase() != PROPOSED || seen.record < mine.record;
        let first = rivals.next()?;
        let found = if goes_first(&first) { Some(first) } else { rivals.find(goes_first) };
        Some(found.map_or(Rival::Undecided(first), Rival::First))
    }

    /// A creation under way that a creation of `scope` by the creator with writer slot `owner` would have to wait for.
    pub fn in_the_way_of(&self, owner: u16, scope: Scope, intents: &impl Intents) -> Option<Ticket> {
        self.under_way().find(|seen| self.excludes(*seen, (owner, scope), intents))
    }

    /// Whether the creation `seen` and one of this owner and scope are made one after the other.
    ///
    /// A fork is made beside all others: each is right beside the other.
    fn excludes(&self, seen: Ticket, (owner, scope): (u16, Scope), intents: &impl Intents) -> bool {
        match (self.scope(seen, intents), scope) {
            (Some(Scope::One(one)), Scope::One(other)) => one == other,
            (Some(Scope::Group), Scope::Group) => true,
            (Some(Scope::Group), Scope::One(origin)) => intents.is_in_group(seen.owner(), origin),
            (Some(Scope::One(origin)), Scope::Group) => intents.is_in_group(owner, origin),
            (Some(Scope::Held), _) | (_, Scope::Held) | (None, _) => false,
        }
    }

    /// Proposed -> collecting, when no rival is left. The error: another process aborted the creation.
    pub fn settle(&self, mine: Ticket) -> Result<Ticket, Aborted> {
        let collecting = mine.in_phase(COLLECTING);
        if self.step(mine, collecting) { Ok(collecting) } else { Err(Aborted) }
    }

    /// Collecting -> arming, once the writers are drained. The error: another process aborted the creation.
    ///
    /// Arming must follow the drain: a writer that passed the gate earlier may still open a mapping again that was armed before the
    /// writer finished.
    pub fn start_arming(&self, mine: Ticket) -> Result<Ticket, Aborted> {
        let arming = mine.in_phase(ARMING);
        if self.step(mine, arming) { Ok(arming) } else { Err(Aborted) }
    }

    /// Collecting or arming -> committed. False: another process aborted the creation, and no snapshot has come about.
    #[must_use]
    pub fn commit(&self, mine: Ticket) -> bool {
        let committed = mine.in_phase(COMMITTED);
        if planted(Fault::CommitExchange) {
            self.records[mine.record()].store(committed.state, Ordering::Release);
            return true;
        }
        // The Release in `step`: the published snapshots are visible to writers that waited.
        self.step(mine, committed)
    }

    /// Committed -> free, when everything that the commit decided has been carried out. Any process may do it, and more than once.
    pub fn release(&self, mine: Ticket) {
        self.step(mine.in_phase(COMMITTED), mine.over());
    }

    /// Proposed, collecting or arming, as it was seen -> free: by another process if the owner is dead or too late, or by a creator
    /// that gives up.
    pub fn abort(&self, seen: Ticket) -> bool {
        matches!(seen.phase(), PROPOSED | COLLECTING | ARMING) && self.step(seen, seen.over())
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
        seen.phase() > PROPOSED && self.step(seen, seen.over())
    }

    /// A creation under way that a writer to `target` has to wait for. `is_excused`: it need not wait for this one.
    ///
    /// A creation that is claimed behind this look finds the writer announced.
    pub fn naming(
        &self,
        target: Target,
        intents: &impl Intents,
        is_excused: impl Fn(Ticket) -> bool,
    ) -> Option<Ticket> {
        let looked_at = if planted(Fault::EachCreation) { 1 } else { CREATIONS };
        (0..looked_at).find_map(|index| {
            loop {
                let seen = self.load(index);
                if !seen.is_busy() {
                    return None;
                }
                // `None`: it is over, and the record may have another creation by now.
                if let Some(covers) = self.covers(seen, target, intents) {
                    return (covers && !is_excused(seen)).then_some(seen);
                }
            }
        })
    }

    /// Whether the creation `seen` may cover `target`; `None` if it is over.
    pub fn covers(&self, seen: Ticket, target: Target, intents: &impl Intents) -> Option<bool> {
        let covers = match (target, intents.intent(seen.owner()).map(Intent::scope)) {
            (Target::Elsewhere, _) => false,
            (Target::Origin(origin), Some(scope)) => scope.covers(origin, seen.owner(), intents),
            // Without an intent, in a damaged table, it may cover everything.
            (Target::Origin(_), None) | (Target::Unknown, _) => true,
        };
        self.still(seen).then_some(covers)
    }

    /// What the creation `seen` covers; `None` if it is over.
    pub fn scope(&self, seen: Ticket, intents: &impl Intents) -> Option<Scope> {
        let scope = intents.intent(seen.owner())?.scope();
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
        let state = self.records[seen.record()].load(Ordering::Relaxed);
        let now = Ticket { state, ..seen };
        planted(Fault::IntentOfOther) || now.is_busy() && now.number() == seen.number()
    }

    /// The half of the state that changes at every transition of a creation: a futex.
    #[cfg(not(loom))]
    pub fn futex(&self, seen: Ticket) -> &crate::sys::sync::AtomicU32 {
        crate::sys::futex::low_half(&self.records[seen.record()])
    }
}

impl Intent {
    fn scope(&self) -> Scope {
        match self.scope.load() {
            Target::Origin(origin) => Scope::One(origin),
            Target::Elsewhere => Scope::Held,
            Target::Unknown => Scope::Group,
        }
    }
}

impl Scope {
    /// Whether snapshots of `origin` may come about. `owner`: the creator's writer slot.
    pub fn covers(self, origin: Origin, owner: u16, intents: &impl Intents) -> bool {
        match self {
            Self::One(one) => one == origin,
            Self::Held => intents.is_held(owner, origin),
            Self::Group => intents.is_in_group(owner, origin),
        }
    }
}

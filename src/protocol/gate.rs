//! The gate: what lets a snapshot be one instant.
//!
//! A writer *announces* itself before it looks for snapshots; a snapshot in the making *raises the active word* before it looks for
//! writers. Each puts a `SeqCst` fence between its store and its load, so at least one of the two sees the other (Dekker). Whoever
//! sees the other waits; nobody holds a lock that a dying process could take along.
//!
//! A thread has a few [`Frame`]s, because a signal handler may write while the call it interrupted is under way. A call takes the
//! first that is idle. Those in front of it are the calls that it may have interrupted; a creation looks at them first, so that it
//! finds the later call when it has waited for an earlier one.

use super::creation::{Creation, Intents, Ticket};
use super::origin::{Origin, Place, PlaceCell};
use crate::sys::sync::{AtomicU32, AtomicU64, Fault, Ordering, fence, full_fence, planted, set_own, signal_fence};

/// Non-zero while a snapshot exists or is being made anywhere: bit 0 is the flag, the rest counts how often it was raised.
///
/// It is recomputed by looking at the table and never counts snapshots, so a process that dies cannot leave it wrong for good.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[derive(Debug)]
#[repr(transparent)]
pub struct ActiveWord(AtomicU64);

impl ActiveWord {
    /// A word that is down.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Whether a writer has to look for snapshots. Call it only after [`Frame::announce`].
    #[inline]
    pub fn is_raised(&self) -> bool {
        // Acquire: pairs with the AcqRel in `raise`; the creation that raised it is visible to who sees the flag.
        self.0.load(Ordering::Acquire) & 1 == 1
    }

    /// Makes every later announcement look for snapshots; every earlier one is visible to the caller afterwards.
    pub fn raise(&self) {
        let mut seen = self.0.load(Ordering::Relaxed);
        // AcqRel: pairs with the Acquire in `is_raised` and with the exchange in `lower_if`.
        while let Err(now) =
            self.0.compare_exchange(seen, (seen | 1).wrapping_add(2), Ordering::AcqRel, Ordering::Relaxed)
        {
            seen = now;
        }
        if !planted(Fault::RaiseFence) {
            // SeqCst: pairs with the fence in `Frame::announce`: the flag before the writers' phases.
            full_fence();
        }
    }

    /// Takes the flag down if `unused` finds nothing that needs it. `unused` looks at the creation record before the snapshots.
    pub fn lower_if(&self, unused: impl FnOnce() -> bool) {
        // Acquire: pairs with the AcqRel in `raise`: the claim that came before a raise is visible to `unused`.
        let seen = self.0.load(Ordering::Acquire);
        if seen & 1 == 0 || !unused() {
            return;
        }
        if planted(Fault::LowerExchange) {
            self.0.store(seen & !1, Ordering::Release);
        } else {
            // AcqRel: fails against any raise since `seen` was read, because a raise always changes the count.
            let _ = self.0.compare_exchange(seen, seen & !1, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

/// How far a writer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No call under way; the frame is free.
    Idle,
    /// A call wants to happen; it has not happened and can still be made to start again.
    Announced,
    /// A call happens or has happened: no instant of its origin may be chosen until the frame is idle.
    Passed,
    /// A call wants to happen and will announce itself anew: nobody waits for it, but the frame is taken.
    Withdrawn,
}

impl Phase {
    /// Whether a creation has to wait for the call.
    #[must_use]
    pub const fn is_under_way(self) -> bool {
        matches!(self, Self::Announced | Self::Passed)
    }
}

/// One announcement of one frame; distinguishes it from the frame's earlier and later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn(u64);

const PHASE_BITS: u32 = 8;

impl Turn {
    const fn next(self) -> Self {
        Self(self.0.wrapping_add(1) & (u64::MAX >> PHASE_BITS))
    }
}

impl Phase {
    const fn of(word: u64) -> Self {
        match word & ((1 << PHASE_BITS) - 1) {
            0 => Self::Idle,
            1 => Self::Announced,
            3 => Self::Withdrawn,
            // A word from a damaged table counts as the phase that is waited for.
            _ => Self::Passed,
        }
    }
}

const fn word(turn: Turn, phase: Phase) -> u64 {
    turn.0 << PHASE_BITS | phase as u64
}

/// Bytes that calls at movable positions of origins in use have announced, ever.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[derive(Debug)]
#[repr(transparent)]
pub struct Floating(AtomicU64);

impl Floating {
    /// None so far.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// How many so far.
    #[must_use]
    pub fn announced(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// What one interrupted-or-not call of a thread is doing. All-zero is "idle".
///
/// `phase` is written by the owning thread, and by who proves that thread gone; the rest by the owning thread only.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Frame {
    phase: AtomicU64,
    place: PlaceCell,
    /// Stack pointer of the hook that has the frame, to find out that it is being left by longjmp; 0: no call has the frame.
    stack: AtomicU64,
    /// Bytes a call that writes at a shared position or at the end of the file still has to place, else 0.
    floating: AtomicU64,
    /// The snapshot this frame pushes pages into: index + 1, with [`WRITES_BYTES`].
    pushing: AtomicU64,
    descriptor: AtomicU32,
    /// The process's descriptor-table generation when the call was announced.
    descriptors_seen: AtomicU32,
    /// The last turn that was withdrawn.
    withdrawn: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Frame>() == 64);

/// Set in [`Frame::pushing`] while the push stores bytes into the mapper instead of only breaking copy-on-write.
const WRITES_BYTES: u64 = 1 << 63;

impl Frame {
    /// An idle frame.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            phase: AtomicU64::new(0),
            place: PlaceCell::new(),
            stack: AtomicU64::new(0),
            floating: AtomicU64::new(0),
            pushing: AtomicU64::new(0),
            descriptor: AtomicU32::new(0),
            descriptors_seen: AtomicU32::new(0),
            withdrawn: AtomicU64::new(0),
        }
    }

    /// The frame is that of the caller, whose stack pointer is `stack`, until [`Frame::clear`]. False: it is in use.
    ///
    /// One step, because a handler that comes in between may switch to another stack, where a call takes a frame as well and is
    /// suspended in turn; and because it may leave the call by longjmp.
    #[inline]
    pub fn take(&self, stack: u64) -> bool {
        if planted(Fault::FrameTaken) {
            let is_free = !self.is_in_use();
            self.stack.store(stack, Ordering::Relaxed);
            return is_free;
        }
        set_own(&self.stack, stack)
    }

    /// Whether a call has the frame.
    #[inline]
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.stack() != 0
    }

    /// No call has the frame, as the thread that claims the slot finds it.
    pub fn reset(&self) {
        self.stack.store(0, Ordering::Relaxed);
    }

    /// Idle or withdrawn -> announced. Everything the caller looks at afterwards is at least as new as any creation that did not
    /// see this.
    #[inline]
    pub fn announce(&self, call: &Call) -> Turn {
        let turn = Turn(self.phase.load(Ordering::Relaxed) >> PHASE_BITS).next();
        self.place.store(call.place);
        self.floating.store(0, Ordering::Relaxed);
        self.pushing.store(0, Ordering::Relaxed);
        self.descriptor.store(call.descriptor, Ordering::Relaxed);
        self.descriptors_seen.store(call.descriptors_seen, Ordering::Relaxed);
        // Release: pairs with the Acquire in `look`; the fields above belong to this turn.
        self.phase.store(word(turn, Phase::Announced), Ordering::Release);
        if !planted(Fault::AnnounceFence) {
            // SeqCst: pairs with the fence in `ActiveWord::raise`: the phase before the active word and the creation record.
            full_fence();
        }
        turn
    }

    /// Says where the call goes, and how many bytes it would place at a position that others can move (0: none).
    pub fn settle(&self, place: Place, floating: u64) {
        self.floating.store(floating, Ordering::Relaxed);
        self.place.store(place);
    }

    /// Says that the call, which has passed, will place `length` bytes at a position of `origin` that others can move; how many
    /// were announced so by all, ever.
    ///
    /// Of two that do so at once each finds the other's bytes in [`Frame::floating_on`], or counted later than its own.
    pub fn float(&self, origin: Origin, length: u64, announced: &Floating) -> u64 {
        if !planted(Fault::FloatingFrame) {
            self.settle(Place::Origin(origin), length);
        }
        // AcqRel: who is counted behind this one finds what this frame says.
        let so_far = announced.0.fetch_add(length, Ordering::AcqRel).wrapping_add(length);
        if planted(Fault::FloatingFrame) {
            self.settle(Place::Origin(origin), length);
        }
        so_far
    }

    /// Announced -> passed. False: a handler withdrew the announcement meanwhile; announce again.
    ///
    /// Only a handler on this very thread can come in between, so no locked instruction is needed: store, then look whether one
    /// did. A frame that says passed for the moment until it is taken back only makes a creation wait that long.
    #[inline]
    pub fn pass(&self, turn: Turn) -> bool {
        // Release: pairs with the Acquire in `look`.
        self.phase.store(word(turn, Phase::Passed), Ordering::Release);
        // A handler that comes before this point finds the frame announced or passed, as the look below finds its withdrawal or
        // none.
        signal_fence();
        if self.withdrawn.load(Ordering::Relaxed) == turn.0 && !planted(Fault::PassedPhase) {
            self.phase.store(word(turn, Phase::Withdrawn), Ordering::Release);
            return false;
        }
        true
    }

    /// Announced -> withdrawn, by the caller itself or by a handler that interrupted it.
    pub fn withdraw(&self, turn: Turn) {
        self.withdrawn.store(turn.0, Ordering::Relaxed);
        // Release: pairs with the Acquire in `look`; nothing of this turn is done later than this.
        self.phase.store(word(turn, Phase::Withdrawn), Ordering::Release);
    }

    /// Whether no turn of this frame is as late as that of `other`: who frees this frame late, for who had it before, does not find
    /// it.
    #[must_use]
    pub fn can_continue(&self, other: &Self) -> bool {
        let (phase, turn) = self.look();
        let (others_phase, others_turn) = other.look();
        // What has not been announced will be at a later turn.
        let is_earlier = turn.0 < others_turn.0 || turn == others_turn && others_phase == Phase::Idle;
        phase == Phase::Idle && is_earlier
    }

    /// Idle -> as `other`, whose thread is about to fork: in the child the call that it interrupted goes on in this frame.
    pub fn continue_from(&self, other: &Self, descriptors_seen: u32) {
        self.place.store(other.place.load());
        self.stack.store(other.stack(), Ordering::Relaxed);
        self.floating.store(other.floating.load(Ordering::Relaxed), Ordering::Relaxed);
        self.pushing.store(other.pushing.load(Ordering::Relaxed), Ordering::Relaxed);
        self.descriptor.store(other.descriptor().0, Ordering::Relaxed);
        self.descriptors_seen.store(descriptors_seen, Ordering::Relaxed);
        self.withdrawn.store(other.withdrawn.load(Ordering::Relaxed), Ordering::Relaxed);
        // Release: pairs with the Acquire in `look`; the fields above belong to this turn.
        self.phase.store(other.phase.load(Ordering::Relaxed), Ordering::Release);
    }

    /// Passed -> idle, after the call. False: the frame was no longer at `turn`: the call was taken for over while it was not, and
    /// nobody has waited for it.
    ///
    /// Others touch the phase only when this thread is gone, and the thread itself when it leaves the call by longjmp.
    #[inline]
    pub fn clear(&self, turn: Turn) -> bool {
        let is_mine = self.phase.load(Ordering::Relaxed) == word(turn, Phase::Passed);
        if is_mine {
            // Release: pairs with the Acquire in `look`; a creation that finds the frame idle finds the call done.
            self.phase.store(word(turn, Phase::Idle), Ordering::Release);
            // The next call of this thread takes the frame only after that.
            signal_fence();
            self.reset();
        }
        is_mine
    }

    /// Any phase -> idle, by the thread itself, which has left the call that has the frame for good. Should the call go on all the
    /// same, it starts again or finds in [`Frame::clear`] that it was given up.
    pub fn leave(&self) {
        let (_, turn) = self.look();
        self.withdrawn.store(turn.0, Ordering::Relaxed);
        self.reclaim(turn);
        signal_fence();
        self.reset();
    }

    /// Any phase -> idle, by who proved that the call of `turn` is over for good.
    pub fn reclaim(&self, turn: Turn) {
        for phase in [Phase::Announced, Phase::Passed, Phase::Withdrawn] {
            let _ = self.phase.compare_exchange(
                word(turn, phase),
                word(turn, Phase::Idle),
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
        }
    }

    /// Phase and turn. Acquire: pairs with the Release stores of the owner.
    #[inline]
    pub fn look(&self) -> (Phase, Turn) {
        let word = self.phase.load(Ordering::Acquire);
        (Phase::of(word), Turn(word >> PHASE_BITS))
    }

    /// Where the call of `turn` goes; [`Place::Unknown`] if it is over or cannot be said.
    pub fn place_at(&self, turn: Turn) -> Place {
        let place = self.place.load();
        // Acquire: orders the two loads: the place was read while the turn lasted.
        fence(Ordering::Acquire);
        if self.look().1 == turn { place } else { Place::Unknown }
    }

    /// Bytes that this frame will place at a movable position of `origin`.
    pub fn floating_on(&self, origin: Origin) -> u64 {
        let (phase, turn) = self.look();
        if !phase.is_under_way() || self.place_at(turn) != Place::Origin(origin) {
            return 0;
        }
        self.floating.load(Ordering::Relaxed)
    }

    /// The descriptor the call was made with, and the descriptor-table generation it was announced at.
    pub fn descriptor(&self) -> (u32, u32) {
        (self.descriptor.load(Ordering::Relaxed), self.descriptors_seen.load(Ordering::Relaxed))
    }

    /// The stack pointer of the hook that has the frame; 0: none has.
    #[inline]
    pub fn stack(&self) -> u64 {
        self.stack.load(Ordering::Relaxed)
    }

    /// Announces that pages are about to be pushed into snapshot `index`, before its generation is read.
    pub fn start_pushing(&self, index: u32, writes_bytes: bool) {
        let flag = if writes_bytes { WRITES_BYTES } else { 0 };
        self.pushing.store((u64::from(index) + 1) | flag, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `Snapshot::begin_change`: the announcement before the generation.
        full_fence();
    }

    /// The push is over, its bits are set.
    pub fn stop_pushing(&self) {
        // Release: pairs with the Acquire in `is_pushing`.
        self.pushing.store(0, Ordering::Release);
    }

    /// Whether this frame pushes into a snapshot.
    pub fn is_pushing_any(&self) -> bool {
        // Acquire: pairs with the Release in `stop_pushing`.
        self.pushing.load(Ordering::Acquire) != 0 && self.look().0.is_under_way()
    }

    /// Whether this frame pushes into snapshot `index`; with `only_bytes`, whether it stores bytes there.
    pub fn is_pushing(&self, index: u32, only_bytes: bool) -> bool {
        // Acquire: pairs with the Release in `stop_pushing`.
        let pushing = self.pushing.load(Ordering::Acquire);
        pushing & !WRITES_BYTES == u64::from(index) + 1
            && (!only_bytes || pushing & WRITES_BYTES != 0)
            && self.look().0.is_under_way()
    }
}

/// What a writer asks of its surroundings while it goes through the gate.
pub trait Writer {
    /// Where `descriptor` leads (fstat).
    fn place(&self, descriptor: u32) -> Place;
    /// The same for a call that was announced at generation `seen` of the descriptor table; unknown if the descriptor may have
    /// come to mean another file since.
    fn place_since(&self, descriptor: u32, seen: u32) -> Place;
    /// Bytes the call would place at a position that others can move (0: its range is fixed).
    fn floating(&self) -> u64;
    /// Waits until the creation that was seen has ended, or has been aborted for taking too long.
    fn wait_for(&self, seen: Ticket);
}

/// How a call got through the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// No snapshot anywhere: just make the call.
    Free,
    /// Not a file or device: just make the call.
    Elsewhere,
    /// Snapshots may exist: preserve, then make the call.
    Origin(Origin),
    /// Snapshots may exist, and where the call goes cannot be found out: it may go to the origin of any of them.
    Anywhere,
}

/// What a call says of itself when it enters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    /// The descriptor it acts on.
    pub descriptor: u32,
    /// The process's descriptor-table generation.
    pub descriptors_seen: u32,
    /// Where its bytes go, if that is known without looking at a descriptor.
    pub place: Place,
}

/// Why an announcement came to nothing: a creation is under way, or a handler withdrew it.
struct Turned {
    seen: Option<Ticket>,
}

/// The gate of every origin: the words that writers and creations meet at.
#[derive(Debug)]
pub struct Gate<'a, I> {
    /// Whether there is anything to look for.
    pub active: &'a ActiveWord,
    /// The creation under way.
    pub creation: &'a Creation,
    /// What it covers.
    pub intents: &'a I,
}

impl<I: Intents> Gate<'_, I> {
    /// Takes a call through the gate: afterwards no snapshot of its origin comes into being until [`Frame::clear`].
    ///
    /// `frame` is the caller's ([`Frame::take`]); `outer` are those in front of it, of calls that this one may have interrupted.
    #[inline(always)]
    pub fn enter(&self, frame: &Frame, outer: &[Frame], call: Call, writer: &impl Writer) -> (Entry, Turn) {
        withdraw_interrupted(outer);
        let turn = frame.announce(&call);
        if !self.active.is_raised() && frame.pass(turn) {
            return (Entry::Free, turn);
        }
        self.enter_announced(frame, outer, &call, turn, writer)
    }

    /// The same for a call that finds the active word raised, or its announcement withdrawn.
    #[inline(never)]
    fn enter_announced(
        &self,
        frame: &Frame,
        outer: &[Frame],
        call: &Call,
        mut turn: Turn,
        writer: &impl Writer,
    ) -> (Entry, Turn) {
        loop {
            match self.try_enter(frame, outer, call, turn, writer) {
                Ok(entry) => return (entry, turn),
                Err(Turned { seen: Some(seen) }) => writer.wait_for(seen),
                Err(Turned { seen: None }) => {}
            }
            turn = frame.announce(call);
        }
    }

    /// As [`Gate::enter`], but `None` where it would have to wait: for who is needed to let a creation go on.
    pub fn enter_without_waiting(&self, frame: &Frame, call: Call, writer: &impl Writer) -> Option<(Entry, Turn)> {
        loop {
            let turn = frame.announce(&call);
            match self.try_enter(frame, &[], &call, turn, writer) {
                Ok(entry) => return Some((entry, turn)),
                Err(Turned { seen: Some(_) }) => {
                    frame.reclaim(turn);
                    frame.reset();
                    return None;
                }
                Err(Turned { seen: None }) => {}
            }
        }
    }

    /// Takes a call through that is announced at `turn`.
    #[inline]
    fn try_enter(
        &self,
        frame: &Frame,
        outer: &[Frame],
        call: &Call,
        turn: Turn,
        writer: &impl Writer,
    ) -> Result<Entry, Turned> {
        let entry = if self.active.is_raised() {
            match self.look_around(frame, outer, call, writer) {
                Ok(entry) => entry,
                Err(seen) => {
                    frame.withdraw(turn);
                    return Err(Turned { seen: Some(seen) });
                }
            }
        } else {
            Entry::Free
        };
        if frame.pass(turn) { Ok(entry) } else { Err(Turned { seen: None }) }
    }

    #[cold]
    fn look_around(&self, frame: &Frame, outer: &[Frame], call: &Call, writer: &impl Writer) -> Result<Entry, Ticket> {
        let place = match call.place {
            Place::Unknown => writer.place(call.descriptor),
            known => known,
        };
        frame.settle(place, writer.floating());
        let entry = match place {
            Place::Origin(origin) => Entry::Origin(origin),
            Place::Elsewhere => return Ok(Entry::Elsewhere),
            Place::Unknown => Entry::Anywhere,
        };
        match self.creation_concerning(place) {
            Some(seen) if !planted(Fault::CreationCheck) && !self.waits_for_us(outer, writer) => Err(seen),
            _ => Ok(entry),
        }
    }

    /// The creation under way if it may cover `place`.
    fn creation_concerning(&self, place: Place) -> Option<Ticket> {
        match place {
            Place::Origin(origin) => self.creation.naming(origin, self.intents),
            Place::Elsewhere => None,
            Place::Unknown => Some(self.creation.look()).filter(|seen| seen.is_busy()),
        }
    }

    /// Whether the creation under way cannot reach its instant before a call in an earlier frame is over. It looks at this one
    /// behind that, so that nothing is lost if the earlier call is suspended on another stack and comes to its end first.
    ///
    /// What a descriptor means now says what the creation found only if it meant the same all the time: a creation that found it
    /// to lead elsewhere waits no more.
    fn waits_for_us(&self, outer: &[Frame], writer: &impl Writer) -> bool {
        outer.iter().any(|frame| {
            let (phase, turn) = frame.look();
            if phase != Phase::Passed {
                return false;
            }
            let place = match frame.place_at(turn) {
                Place::Unknown => {
                    let (descriptor, seen) = frame.descriptor();
                    writer.place_since(descriptor, seen)
                }
                known => known,
            };
            self.creation_concerning(place).is_some()
        })
    }
}

/// A call of the calling thread that has not passed starts again when the thread comes back to it, so the creation need not wait
/// for it meanwhile.
pub fn withdraw_interrupted(outer: &[Frame]) {
    for frame in outer {
        let (phase, turn) = frame.look();
        if phase == Phase::Announced && !planted(Fault::NestedWithdraw) {
            frame.withdraw(turn);
        }
    }
}

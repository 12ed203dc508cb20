//! The gate: what lets a snapshot be one instant.
//!
//! A writer *announces* itself before it looks for snapshots; a snapshot in the making *raises the active word* before it looks for
//! writers. Each puts a `SeqCst` fence between its store and its load, so at least one of the two sees the other (Dekker). The side
//! that sees the other waits. No side holds a lock that a dying process could take along.
//!
//! A thread has a few [`CallFrame`]s, because a signal handler may write while the call that it interrupted is under way. A call
//! takes the first frame that is idle. The frames in front of it are those of the calls that it may have interrupted. A creation
//! looks at them first: so it finds the later call when it has waited for an earlier one.

use super::creation::{Creations, Intents, Ticket};
use super::origin::{AtomicTarget, Origin, Target};
use crate::sys::sync::{AtomicU32, AtomicU64, Fault, Ordering, fence, full_fence, planted, set_own, signal_fence};

/// Non-zero while a snapshot exists or is being made anywhere: bit 0 is the flag, the rest counts how often it was raised.
///
/// It is recomputed by looking at the table and never counts snapshots, so a process that dies cannot leave it wrong for good.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(transparent)]
pub struct ActiveWord(AtomicU64);

impl ActiveWord {
    /// Whether a writer has to look for snapshots. Call it only after [`CallFrame::announce`].
    #[inline]
    pub fn is_raised(&self) -> bool {
        // Acquire: pairs with the AcqRel in `raise`; a thread that sees the flag sees the creation that raised it.
        self.0.load(Ordering::Acquire) & 1 == 1
    }

    /// Makes every later announcement look for snapshots. The caller sees every earlier announcement afterwards.
    pub fn raise(&self) {
        let mut seen = self.0.load(Ordering::Relaxed);
        // AcqRel: pairs with the Acquire in `is_raised` and with the exchange in `lower_if`.
        while let Err(now) =
            self.0.compare_exchange(seen, (seen | 1).wrapping_add(2), Ordering::AcqRel, Ordering::Relaxed)
        {
            seen = now;
        }
        if !planted(Fault::RaiseFence) {
            // SeqCst: pairs with the fence in `CallFrame::announce`: the flag before the writers' phases.
            full_fence();
        }
    }

    /// Takes the flag down if `unused` finds nothing that needs it. `unused` looks at the creation record before the snapshots.
    pub fn lower_if(&self, unused: impl FnOnce() -> bool) {
        // Acquire: pairs with the AcqRel in `raise`: `unused` sees the claim that came before a raise.
        let seen = self.0.load(Ordering::Acquire);
        if seen & 1 == 0 || !unused() {
            return;
        }
        if planted(Fault::LowerExchange) {
            self.0.store(seen & !1, Ordering::Release);
        } else {
            // AcqRel: against `raise`. It fails after any raise since `seen` was read, because a raise always changes the count.
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
    /// A call happens or has happened. No instant of its origin may be chosen until the frame is idle.
    Passed,
    /// A call wants to happen and will announce itself anew. No creation waits for it, but the frame is taken.
    Withdrawn,
}

impl Phase {
    /// Whether a creation has to wait for the call.
    #[must_use]
    pub const fn is_under_way(self) -> bool {
        matches!(self, Self::Announced | Self::Passed)
    }
}

/// One announcement of one frame: tells it from the frame's earlier and later ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announcement(u64);

const PHASE_BITS: u32 = 8;

impl Announcement {
    /// The announcement of this number.
    pub(super) const fn of_number(number: u64) -> Self {
        Self(number)
    }

    /// Its number, which no other announcement of the frame has.
    pub(super) const fn number(self) -> u64 {
        self.0
    }

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
            // A word from a damaged table counts as the phase that creations wait for.
            _ => Self::Passed,
        }
    }
}

const fn word(announcement: Announcement, phase: Phase) -> u64 {
    announcement.0 << PHASE_BITS | phase as u64
}

/// How many bytes calls at movable positions of origins in use have announced, ever.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(transparent)]
pub struct UnplacedBytes(AtomicU64);

impl UnplacedBytes {
    /// How many so far.
    #[must_use]
    pub fn announced(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// One call of a thread, interrupted or not. All-zero is "idle".
///
/// `phase` is written by the owning thread, and by a process that proves that thread gone; `elsewhere` by creations too; the rest
/// by the owning thread only.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C, align(64))]
pub struct CallFrame {
    phase: AtomicU64,
    target: AtomicTarget,
    /// Stack pointer of the hook that has the frame, by which a longjmp out of the hook is found; 0: no call has the frame.
    stack: AtomicU64,
    /// Bytes that a call at a shared position, or at the end of the file, still has to place; else 0.
    unplaced: AtomicU64,
    /// The snapshot this frame pushes pages into: index + 1, with [`WRITES_BYTES`].
    pushing: AtomicU32,
    /// Low half of the announcement whose call a creation found to go elsewhere; 0: none. Creations write it, and the owner clears
    /// it at each announcement.
    elsewhere: AtomicU32,
    descriptor: AtomicU32,
    /// The process's descriptor-table generation when the call was announced.
    descriptors_seen: AtomicU32,
    /// The last announcement that was withdrawn.
    withdrawn: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<CallFrame>() == 64);

/// Set in [`CallFrame::pushing`] while the push stores bytes into the mapper instead of only breaking copy-on-write.
const WRITES_BYTES: u32 = 1 << 31;

impl CallFrame {
    /// Gives the frame to the caller, whose stack pointer is `stack`, until [`CallFrame::clear`]. False: it is in use.
    ///
    /// It is a single step, because a handler that comes in between may switch to another stack, where a call takes a frame as well
    /// and is suspended in turn; and because a handler may leave the call by longjmp.
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

    /// Says that no call has the frame. The thread that has the slot calls it.
    pub fn reset(&self) {
        self.stack.store(0, Ordering::Relaxed);
    }

    /// Idle or withdrawn -> announced. Everything that the caller looks at afterwards is at least as new as any creation that did
    /// not see this.
    #[inline]
    pub fn announce(&self, call: &Call) -> Announcement {
        let announcement = Announcement(self.phase.load(Ordering::Relaxed) >> PHASE_BITS).next();
        self.target.store(call.target);
        self.unplaced.store(0, Ordering::Relaxed);
        self.pushing.store(0, Ordering::Relaxed);
        self.elsewhere.store(0, Ordering::Relaxed);
        self.descriptor.store(call.descriptor, Ordering::Relaxed);
        self.descriptors_seen.store(call.descriptors_seen, Ordering::Relaxed);
        // Release: pairs with the Acquire in `load`; the fields above belong to this announcement.
        self.phase.store(word(announcement, Phase::Announced), Ordering::Release);
        if !planted(Fault::AnnounceFence) {
            // SeqCst: pairs with the fence in `ActiveWord::raise`: the phase comes before the look at the active word and the
            // creation record.
            full_fence();
        }
        announcement
    }

    /// Notes where the call goes, and how many bytes it will place at a position that others can move (0: none).
    pub fn set_target(&self, target: Target, unplaced: u64) {
        self.unplaced.store(unplaced, Ordering::Relaxed);
        self.target.store(target);
    }

    /// Notes that the call, which has passed, will place `length` bytes at a position of `origin` that others can move. The result
    /// is how many bytes all calls have announced so, ever.
    ///
    /// Of two calls that do so at once each finds the other's bytes by [`CallFrame::unplaced_on`], or finds them counted later than
    /// its own.
    pub fn announce_unplaced(&self, origin: Origin, length: u64, announced: &UnplacedBytes) -> u64 {
        if !planted(Fault::UnplacedFrame) {
            self.set_target(Target::Origin(origin), length);
        }
        // AcqRel: pairs with the AcqRel of other calls: a call that is counted behind this one finds what this frame says.
        let so_far = announced.0.fetch_add(length, Ordering::AcqRel).wrapping_add(length);
        if planted(Fault::UnplacedFrame) {
            self.set_target(Target::Origin(origin), length);
        }
        so_far
    }

    /// Announced -> passed. False: a handler withdrew the announcement meanwhile; the caller announces itself again.
    ///
    /// Only a handler on this very thread can come in between, so no locked instruction is needed: store, then look whether a
    /// handler came. The frame may say passed for a moment until this is taken back: a creation then waits that much longer, and
    /// nothing else.
    #[inline]
    pub fn pass(&self, announcement: Announcement) -> bool {
        // Release: pairs with the Acquire in `load`.
        self.phase.store(word(announcement, Phase::Passed), Ordering::Release);
        // A handler that found the frame announced has withdrawn it by now, and the look below finds that. A handler that comes
        // from here on finds the frame passed, and leaves it.
        signal_fence();
        if self.withdrawn.load(Ordering::Relaxed) == announcement.0 && !planted(Fault::PassedPhase) {
            self.phase.store(word(announcement, Phase::Withdrawn), Ordering::Release);
            return false;
        }
        true
    }

    /// Announced -> withdrawn, by the caller itself or by a handler that interrupted it.
    pub fn withdraw(&self, announcement: Announcement) {
        self.withdrawn.store(announcement.0, Ordering::Relaxed);
        // Release: pairs with the Acquire in `load`; nothing of this announcement is done later than this.
        self.phase.store(word(announcement, Phase::Withdrawn), Ordering::Release);
    }

    /// Whether no announcement of this frame is as late as that of `other`. Then a process that frees this frame late, for a thread
    /// that had it before, does not find the announcement that goes on here.
    #[must_use]
    pub fn can_continue(&self, other: &Self) -> bool {
        let (phase, announcement) = self.load();
        let (others_phase, others_announcement) = other.load();
        // A call that has not been announced will be at a later announcement.
        let is_earlier = announcement.0 < others_announcement.0
            || announcement == others_announcement && others_phase == Phase::Idle;
        phase == Phase::Idle && is_earlier
    }

    /// Idle -> as `other`, whose thread is about to fork: in the child the interrupted call goes on in this frame.
    pub fn continue_from(&self, other: &Self, descriptors_seen: u32) {
        self.target.store(other.target.load());
        self.stack.store(other.stack(), Ordering::Relaxed);
        self.unplaced.store(other.unplaced.load(Ordering::Relaxed), Ordering::Relaxed);
        self.pushing.store(other.pushing.load(Ordering::Relaxed), Ordering::Relaxed);
        self.descriptor.store(other.descriptor().0, Ordering::Relaxed);
        self.descriptors_seen.store(descriptors_seen, Ordering::Relaxed);
        self.withdrawn.store(other.withdrawn.load(Ordering::Relaxed), Ordering::Relaxed);
        // Release: pairs with the Acquire in `load`; the fields above belong to this announcement.
        self.phase.store(other.phase.load(Ordering::Relaxed), Ordering::Release);
    }

    /// Passed -> idle, after the call. False: the frame was no longer at `announcement`. The call was taken for over while it was
    /// not, and no creation has waited for it.
    ///
    /// Other threads touch the phase only when this thread is gone. The thread itself touches it when it leaves the call by
    /// longjmp.
    #[inline]
    pub fn clear(&self, announcement: Announcement) -> bool {
        let is_mine = self.phase.load(Ordering::Relaxed) == word(announcement, Phase::Passed);
        if is_mine {
            // Release: pairs with the Acquire in `load`; a creation that finds the frame idle finds the call done.
            self.phase.store(word(announcement, Phase::Idle), Ordering::Release);
            // The fence keeps this store behind the one before: the next call of this thread takes the frame only after both.
            signal_fence();
            self.reset();
        }
        is_mine
    }

    /// Any phase -> idle, by the thread itself, which has left the call that has the frame for good. If the call goes on all the
    /// same, it starts again, or finds in [`CallFrame::clear`] that it was given up.
    pub fn abandon(&self) {
        let (_, announcement) = self.load();
        self.withdrawn.store(announcement.0, Ordering::Relaxed);
        self.reclaim(announcement);
        signal_fence();
        self.reset();
    }

    /// Any phase -> idle, by a process that proved that the call of `announcement` is over for good.
    pub fn reclaim(&self, announcement: Announcement) {
        for phase in [Phase::Announced, Phase::Passed, Phase::Withdrawn] {
            let _ = self.phase.compare_exchange(
                word(announcement, phase),
                word(announcement, Phase::Idle),
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
        }
    }

    /// Phase and announcement. Acquire: pairs with the Release stores of the owner.
    #[inline]
    pub fn load(&self) -> (Phase, Announcement) {
        let word = self.phase.load(Ordering::Acquire);
        (Phase::of(word), Announcement(word >> PHASE_BITS))
    }

    /// Where the call of `announcement` goes; [`Target::Unknown`] if the call is over or that cannot be told.
    pub fn target_at(&self, announcement: Announcement) -> Target {
        let target = self.target.load();
        // Acquire: orders the two loads: the target was read while the announcement lasted.
        fence(Ordering::Acquire);
        if self.load().1 == announcement { target } else { Target::Unknown }
    }

    /// Notes that the call of `announcement` was found to go elsewhere. A later creation believes that as long as the descriptor's
    /// generation is the one of the announcement.
    ///
    /// The caller looks at the phase afterwards. If the call is still under way then, its thread finds the note when the call is
    /// over, and looks for itself where the descriptor leads.
    pub fn note_elsewhere(&self, announcement: Announcement) {
        self.elsewhere.store(announcement.0 as u32, Ordering::Relaxed);
        // SeqCst: pairs with the order of a call: it lands, and then its thread looks for the note. A call that lands after the
        // caller has gone on finds the note.
        full_fence();
    }

    /// Whether a creation has found that the call of `announcement` goes elsewhere.
    #[must_use]
    pub fn is_noted_elsewhere(&self, announcement: Announcement) -> bool {
        let noted = self.elsewhere.load(Ordering::Relaxed);
        noted != 0 && noted == announcement.0 as u32
    }

    /// Whether the frame is at `announcement` still.
    #[must_use]
    pub fn is_at(&self, announcement: Announcement) -> bool {
        self.load().1 == announcement
    }

    /// Whether a creation relies on where the call goes that has the frame. The call's own thread asks, after the call.
    #[inline]
    pub fn is_relied_on(&self) -> bool {
        self.elsewhere.load(Ordering::Relaxed) != 0 && !planted(Fault::ReliedOn)
    }

    /// Bytes that this frame will place at a movable position of `origin`.
    pub fn unplaced_on(&self, origin: Origin) -> u64 {
        let (phase, announcement) = self.load();
        if !phase.is_under_way() || self.target_at(announcement) != Target::Origin(origin) {
            return 0;
        }
        self.unplaced.load(Ordering::Relaxed)
    }

    /// The descriptor that the call was made with, and the descriptor-table generation that it was announced at.
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
        self.pushing.store((index + 1) | flag, Ordering::Relaxed);
        // SeqCst: pairs with the fences in `Snapshot::begin_change` and `Executing::begin`: the announcement comes before the look
        // at the generation.
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
        self.pushing.load(Ordering::Acquire) != 0 && self.load().0.is_under_way()
    }

    /// Whether this frame pushes into snapshot `index`; with `only_bytes`, whether it stores bytes there.
    pub fn is_pushing(&self, index: u32, only_bytes: bool) -> bool {
        // Acquire: pairs with the Release in `stop_pushing`.
        let pushing = self.pushing.load(Ordering::Acquire);
        pushing & !WRITES_BYTES == index + 1
            && (!only_bytes || pushing & WRITES_BYTES != 0)
            && self.load().0.is_under_way()
    }
}

/// What the gate asks of its context while a writer goes through.
pub trait Writer {
    /// Where `descriptor` leads (fstat).
    fn target(&self, descriptor: u32) -> Target;
    /// Where `descriptor` leads for a call that was announced at generation `seen` of the descriptor table; unknown if the
    /// descriptor may have come to mean another file since.
    fn target_since(&self, descriptor: u32, seen: u32) -> Target;
    /// Bytes that the call would place at a position that others can move (0: its range is fixed).
    fn unplaced(&self) -> u64;
    /// Waits until the creation `seen` has ended, or has been aborted because it took too long.
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
    /// Snapshots may exist, and the target of the call is unknown: it may be the origin of any of them.
    Anywhere,
}

/// The descriptor of a call that acts on none: its file is known otherwise, or is found by a path.
pub const NO_DESCRIPTOR: u32 = u32::MAX;

/// What a call says of itself when it enters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    /// The descriptor it acts on.
    pub descriptor: u32,
    /// The process's descriptor-table generation.
    pub descriptors_seen: u32,
    /// Where its bytes go, if that is known without a look at a descriptor.
    pub target: Target,
}

/// Why an announcement came to nothing: a creation is under way, or a handler withdrew it.
struct TurnedAway {
    seen: Option<Ticket>,
}

/// The gate of every origin: the words that writers and creations meet at.
#[derive(Debug)]
pub struct Gate<'a, I> {
    /// Whether there is anything to look for.
    pub active: &'a ActiveWord,
    /// The creations under way.
    pub creations: &'a Creations,
    /// What they cover.
    pub intents: &'a I,
}

impl<I: Intents> Gate<'_, I> {
    /// Takes a call through the gate. Afterwards no snapshot of its origin comes into being until [`CallFrame::clear`].
    ///
    /// `frame` is the caller's ([`CallFrame::take`]); `outer` are the frames in front of it, of calls that this one may have
    /// interrupted.
    #[inline(always)]
    pub fn enter(
        &self,
        frame: &CallFrame,
        outer: &[CallFrame],
        call: Call,
        writer: &impl Writer,
    ) -> (Entry, Announcement) {
        withdraw_interrupted(outer);
        let announcement = frame.announce(&call);
        if !self.active.is_raised() && frame.pass(announcement) {
            return (Entry::Free, announcement);
        }
        self.enter_announced(frame, outer, &call, announcement, writer)
    }

    /// Takes a call through that finds the active word raised, or its announcement withdrawn.
    #[inline(never)]
    fn enter_announced(
        &self,
        frame: &CallFrame,
        outer: &[CallFrame],
        call: &Call,
        mut announcement: Announcement,
        writer: &impl Writer,
    ) -> (Entry, Announcement) {
        loop {
            match self.try_enter(frame, outer, call, announcement, writer) {
                Ok(entry) => return (entry, announcement),
                Err(TurnedAway { seen: Some(seen) }) => writer.wait_for(seen),
                Err(TurnedAway { seen: None }) => {}
            }
            announcement = frame.announce(call);
        }
    }

    /// Announces a call of which it is not known which file it changes. `None`: a snapshot exists or is being made, and the frame
    /// is free again; the call must not be made so.
    ///
    /// A creation that begins later waits for the call.
    #[inline]
    pub fn enter_unused(&self, frame: &CallFrame, outer: &[CallFrame]) -> Option<Announcement> {
        let call = Call { descriptor: NO_DESCRIPTOR, ..Call::default() };
        withdraw_interrupted(outer);
        loop {
            let announcement = frame.announce(&call);
            if self.active.is_raised() && !planted(Fault::UnusedLook) {
                frame.reclaim(announcement);
                frame.reset();
                return None;
            }
            if frame.pass(announcement) {
                return Some(announcement);
            }
        }
    }

    /// Does what [`Gate::enter`] does, but gives `None` where it would have to wait: for a thread that a creation needs to go on.
    pub fn enter_without_waiting(
        &self,
        frame: &CallFrame,
        call: Call,
        writer: &impl Writer,
    ) -> Option<(Entry, Announcement)> {
        self.enter_at_once(frame, &[], call, writer)
            .inspect_err(|_| {
                frame.reclaim(frame.load().1);
                frame.reset();
            })
            .ok()
    }

    /// Does what [`Gate::enter`] does, but gives the creation that it would have to wait for. The frame stays the caller's then,
    /// and no creation waits for it: the caller gives up what other threads wait for, waits for that creation, and enters again.
    pub fn enter_at_once(
        &self,
        frame: &CallFrame,
        outer: &[CallFrame],
        call: Call,
        writer: &impl Writer,
    ) -> Result<(Entry, Announcement), Ticket> {
        withdraw_interrupted(outer);
        loop {
            let announcement = frame.announce(&call);
            match self.try_enter(frame, outer, &call, announcement, writer) {
                Ok(entry) => return Ok((entry, announcement)),
                Err(TurnedAway { seen: Some(seen) }) => return Err(seen),
                Err(TurnedAway { seen: None }) => {}
            }
        }
    }

    /// Takes a call through once that is announced at `announcement`.
    #[inline]
    fn try_enter(
        &self,
        frame: &CallFrame,
        outer: &[CallFrame],
        call: &Call,
        announcement: Announcement,
        writer: &impl Writer,
    ) -> Result<Entry, TurnedAway> {
        let entry = if self.active.is_raised() {
            match self.find_entry(frame, outer, call, writer) {
                Ok(entry) => entry,
                Err(seen) => {
                    frame.withdraw(announcement);
                    return Err(TurnedAway { seen: Some(seen) });
                }
            }
        } else {
            Entry::Free
        };
        if frame.pass(announcement) { Ok(entry) } else { Err(TurnedAway { seen: None }) }
    }

    #[cold]
    fn find_entry(
        &self,
        frame: &CallFrame,
        outer: &[CallFrame],
        call: &Call,
        writer: &impl Writer,
    ) -> Result<Entry, Ticket> {
        let target = match call.target {
            Target::Unknown => writer.target(call.descriptor),
            known => known,
        };
        frame.set_target(target, writer.unplaced());
        let entry = match target {
            Target::Origin(origin) => Entry::Origin(origin),
            Target::Elsewhere => return Ok(Entry::Elsewhere),
            Target::Unknown => Entry::Anywhere,
        };
        let is_excused = |seen| self.waits_for_us(seen, outer, writer);
        match self.creations.naming(target, self.intents, is_excused) {
            Some(seen) if !planted(Fault::CreationCheck) => Err(seen),
            _ => Ok(entry),
        }
    }

    /// Whether the creation `seen` cannot reach its instant before a call in an earlier frame is over. The creation looks at this
    /// frame behind the earlier one. So nothing is lost if the earlier call is suspended on another stack and this one ends first.
    ///
    /// What a descriptor means now tells what the creation found only if it has meant the same all the time: a creation that found
    /// it to lead elsewhere no longer waits.
    fn waits_for_us(&self, seen: Ticket, outer: &[CallFrame], writer: &impl Writer) -> bool {
        outer.iter().any(|frame| {
            let (phase, announcement) = frame.load();
            // A creation that noted the call does not wait for it. It noted that before it looked at this frame, with a fence in
            // between, as there is between this frame's announcement and the look here.
            if phase != Phase::Passed || frame.is_noted_elsewhere(announcement) {
                return false;
            }
            let target = match frame.target_at(announcement) {
                Target::Unknown => {
                    let (descriptor, since) = frame.descriptor();
                    writer.target_since(descriptor, since)
                }
                known => known,
            };
            self.creations.covers(seen, target, self.intents) == Some(true)
        })
    }
}

/// Withdraws the announcements of interrupted calls. Such a call of the calling thread has not passed, and starts again when the
/// thread comes back to it. So the creation need not wait for it meanwhile.
pub fn withdraw_interrupted(outer: &[CallFrame]) {
    for frame in outer {
        let (phase, announcement) = frame.load();
        if phase == Phase::Announced && !planted(Fault::NestedWithdraw) {
            frame.withdraw(announcement);
        }
    }
}

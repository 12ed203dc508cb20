//! One snapshot: what is promised, to which process, where it lies, and whether the promise still holds.
//!
//! A snapshot is one or more segments: one record each. The mapper changes where its segments lie only while their *generation* is
//! odd. A writer that pushes pages reads the generation before and after the push. So it never takes a page for preserved that the
//! mapper moved or dropped meanwhile.

use super::cause::{Cause, Worth};
use super::changes::{Modified, Observation};
use super::gate::ActiveWord;
use super::mapping_ids;
use super::origin::{AtomicTarget, Origin, Target};
use super::preserved::empty_root;
use crate::sys::mix;
use crate::sys::sync::{AtomicU32, AtomicU64, Fault, Ordering, fence, full_fence, planted};

/// One contiguous, uniformly protected segment of a snapshot. All-zero is "free".
///
/// `head` is written by claim, publish, the changes of the mapper, mark and retire. The extent (`address` to `protection`) is
/// written by the mapper, while the generation is odd or before publication. The rest is written before publication.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Snapshot {
    /// state:3 | cause:5 | generation:24 | incarnation:32.
    head: AtomicU64,
    /// Process record index + 1 | image epoch << 32, of the mapper.
    owner: AtomicU64,
    origin: AtomicTarget,
    /// Where the first page lies in the mapper's address space, bytes.
    address: AtomicU64,
    /// Origin page that `address` shows.
    first: AtomicU64,
    /// Pages mapped, those past the origin's end included.
    pages: AtomicU64,
    /// Origin page that bit 0 of the preserved bits stands for.
    base: AtomicU64,
    /// Size of the origin at the instant, bytes.
    size: AtomicU64,
    /// Preserved bits: see [`crate::protocol::preserved`].
    pub root: AtomicU64,
    /// Shared by all segments of one mmap.
    mapping: AtomicU64,
    protection: AtomicU32,
    flags: AtomicU32,
    /// The last [`Observation`] of the origin: when it was modified, its size, and the changes counted.
    modified: AtomicU64,
    size_seen: AtomicU64,
    counted: AtomicU64,
    /// A hash of what is constant in this incarnation, and of the extent: it tells a damaged record. It is no part of the protocol,
    /// so not of the models.
    #[allow(clippy::disallowed_types, reason = "no part of the protocol")]
    checksum: core::sync::atomic::AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Snapshot>() == 128 && core::mem::offset_of!(Snapshot, root) == 72);

/// What a snapshot is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// No snapshot.
    Free = 0,
    /// A mapper is filling in the record.
    Claimed = 1,
    /// As promised.
    Exact = 2,
    /// Readable, but the shim can no longer vouch for it.
    Doubtful = 3,
    /// A page could not be preserved. The range faults, or is about to.
    Broken = 4,
}

/// The first word of a segment: its state, its generation, and which incarnation of the record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateWord(u64);

const STATE_MASK: u64 = 7;
const CAUSE_SHIFT: u32 = 3;
const GENERATION_SHIFT: u32 = CAUSE_SHIFT + Cause::BITS;
const GENERATION_MASK: u64 = (1 << (INCARNATION_SHIFT - GENERATION_SHIFT)) - 1;
const INCARNATION_SHIFT: u32 = 32;

impl StateWord {
    const fn new(state: State, generation: u64, incarnation: u32) -> Self {
        Self(
            state as u64
                | (generation & GENERATION_MASK) << GENERATION_SHIFT
                | (incarnation as u64) << INCARNATION_SHIFT,
        )
    }

    const fn of(worth: Worth, generation: u64, incarnation: u32) -> Self {
        let (state, cause) = match worth {
            Worth::Exact => (State::Exact, Cause::Untold),
            Worth::Doubtful(cause) => (State::Doubtful, cause),
            Worth::Broken(cause) => (State::Broken, cause),
        };
        Self(Self::new(state, generation, incarnation).0 | cause.code() << CAUSE_SHIFT)
    }

    /// The same with another generation.
    const fn at(self, generation: u64) -> Self {
        let without = self.0 & !(GENERATION_MASK << GENERATION_SHIFT);
        Self(without | (generation & GENERATION_MASK) << GENERATION_SHIFT)
    }

    /// Why the snapshot is doubtful or broken.
    #[must_use]
    pub const fn cause(self) -> Option<Cause> {
        let cause = Cause::from_code(self.0 >> CAUSE_SHIFT & ((1 << Cause::BITS) - 1));
        match self.state() {
            State::Doubtful | State::Broken => Some(cause),
            State::Free | State::Claimed | State::Exact => None,
        }
    }

    /// What the snapshot is worth.
    #[must_use]
    pub const fn worth(self) -> Worth {
        match (self.state(), self.cause()) {
            (State::Doubtful, Some(cause)) => Worth::Doubtful(cause),
            (State::Broken, Some(cause)) => Worth::Broken(cause),
            _ => Worth::Exact,
        }
    }

    /// The state. An unknown one, from a damaged table, counts as broken.
    #[must_use]
    pub const fn state(self) -> State {
        match self.0 & STATE_MASK {
            0 => State::Free,
            1 => State::Claimed,
            2 => State::Exact,
            3 => State::Doubtful,
            _ => State::Broken,
        }
    }

    const fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT & GENERATION_MASK
    }

    /// Whether the mapper is changing the mapping.
    #[must_use]
    pub const fn is_changing(self) -> bool {
        self.generation() & 1 == 1
    }

    /// Tells the snapshots apart that used this record one after another; never 0.
    #[must_use]
    pub const fn incarnation(self) -> u32 {
        (self.0 >> INCARNATION_SHIFT) as u32
    }

    /// The process record (index + 1) that claimed the record and has not published it.
    #[must_use]
    pub const fn claimer(self) -> Option<u32> {
        match self.state() {
            State::Claimed => Some(self.generation() as u32),
            _ => None,
        }
    }

    /// Whether writers have to preserve pages for it.
    #[must_use]
    pub const fn wants_pages(self) -> bool {
        matches!(self.state(), State::Exact | State::Doubtful)
    }
}

/// Where a segment lies, which pages of the origin it shows, and how it may be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where the first page lies in the mapper's address space, bytes.
    pub address: u64,
    /// Origin page shown there.
    pub first: u64,
    /// Pages mapped, those past the origin's end included.
    pub pages: u64,
    /// `PROT_*` bits, or [`Extent::PROTECTION_UNKNOWN`].
    pub protection: u32,
}

impl Extent {
    /// A protection that the shim does not know: no push may store bytes there.
    pub const PROTECTION_UNKNOWN: u32 = u32::MAX;

    /// The address behind the last page.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.address.saturating_add(self.pages.saturating_mul(crate::PAGE))
    }
}

/// What is constant in one incarnation of a segment.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotMeta {
    /// The file or device.
    pub origin: Origin,
    /// The mapper, as records refer to it: [`ProcessId::owner_word`](super::process_id::ProcessId::owner_word).
    pub owner: u64,
    /// Size of the origin at the instant, bytes.
    pub size: u64,
    /// Origin page of bit 0 of the preserved bits.
    pub base: u64,
    /// Shared by all segments of one mmap, those that a child inherits as well: see
    /// [`mapping_ids`].
    pub mapping: u64,
}

impl SnapshotMeta {
    /// When the snapshot was taken, in milliseconds since boot.
    #[must_use]
    pub const fn taken_at(&self) -> u64 {
        mapping_ids::made_at(self.mapping)
    }
}

/// A consistent copy of a segment's record.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The head that `meta` and `extent` belong to.
    pub head: StateWord,
    /// What is constant.
    pub meta: SnapshotMeta,
    /// Where it lies.
    pub extent: Extent,
    /// `NOT_INHERITED` and its kin.
    pub flags: SegmentFlags,
    /// Whether the record is as its mapper wrote it. While the mapper is changing it, only the mapper can tell.
    pub has_valid_checksum: bool,
}

impl View {
    /// Whether the segment has left the file: it lies in memory of its own, and no change of the origin concerns it any more.
    #[must_use]
    pub fn is_relocated(&self) -> bool {
        self.flags.contains(RELOCATED)
    }

    /// Whether changes of bytes are none of its concern, because it shows them: it only keeps what is truncated.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.flags.contains(GUARDED)
    }

    /// The origin's pages that the segment shows: from the extent's first page to the end of the file at the instant.
    #[must_use]
    pub fn covered_pages(&self) -> core::ops::Range<u64> {
        let end = self.meta.size.div_ceil(crate::PAGE).min(self.extent.first.saturating_add(self.extent.pages));
        self.extent.first..end.max(self.extent.first)
    }

    /// The address in the mapper of origin page `page`, which is in the extent.
    #[must_use]
    pub fn address_of(&self, page: u64) -> u64 {
        self.extent.address + (page - self.extent.first) * crate::PAGE
    }
}

/// What is known of a record besides its state; see the constants of this type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct SegmentFlags(u32);

/// A child does not inherit the segment (MADV_DONTFORK).
pub const NOT_INHERITED: SegmentFlags = SegmentFlags(1);
/// Some preserved page could not be recorded in the bits: a page whose bit is unset may be preserved all the same.
pub const BITS_INCOMPLETE: SegmentFlags = SegmentFlags(2);
/// A hook of the mapper, not its agent, has made the generation odd.
pub const CHANGED_BY_HOOK: SegmentFlags = SegmentFlags(4);
/// All pages of the segment lie in memory that does not belong to the file.
pub const RELOCATED: SegmentFlags = SegmentFlags(8);
/// The segment is locked into memory (mlock(2)).
pub const LOCKED: SegmentFlags = SegmentFlags(16);
/// The program must not make the segment writable: it asked for a shared mapping through a descriptor that is only for reading.
pub const NEVER_WRITABLE: SegmentFlags = SegmentFlags(32);
/// The mapper has a userfaultfd(2), by which it may answer faults in its memory whenever it likes. So no other process may wait in
/// the kernel for a page of it.
pub const SERVED: SegmentFlags = SegmentFlags(64);
/// It is no snapshot: the mapping shows the file as it is, and keeps only the pages that a truncation takes away. A bit says that a
/// page lies in memory that is not the file's.
pub const GUARDED: SegmentFlags = SegmentFlags(128);

impl SegmentFlags {
    /// None.
    pub const NONE: Self = Self(0);

    /// Whether all of `flags` are set.
    #[must_use]
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// With `flags` as well.
    #[must_use]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }

    /// Without `flags`.
    #[must_use]
    pub const fn without(self, flags: Self) -> Self {
        Self(self.0 & !flags.0)
    }
}

/// How often segments were split in two. A walk over the snapshots is repeated if the count moved meanwhile: the new segment may
/// have come to a record that the walk had passed already.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(transparent)]
pub struct Splits(AtomicU64);

impl Splits {
    /// Counts a split: a further segment of `split` has been published, and `split` still shows its pages too. `before` is the
    /// state of `split` when the further segment was filled in. The result is what `split` has become meanwhile, if that is worse:
    /// the further segment is no better.
    pub fn note(&self, active: &ActiveWord, split: &Snapshot, before: State) -> Option<Worth> {
        if !planted(Fault::SplitCount) {
            // AcqRel: pairs with the Acquire in `count`: a walk that finds the old segment smaller finds the count changed.
            self.0.fetch_add(1, Ordering::AcqRel);
        }
        if !planted(Fault::SplitRaise) {
            // The flag is up as long as `split` is there. A walk that misses both segments must not take it down. This raise comes
            // before `split` can go, so the exchange that would lower the flag fails.
            active.raise();
        }
        split.worsened_since(before)
    }

    /// Calls `walk` until it finds something, or has found nothing while the count did not move.
    pub fn over<T>(&self, mut walk: impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            let before = self.count();
            let found = walk();
            if found.is_some() || self.count() == before || planted(Fault::SplitWalk) {
                return found;
            }
        }
    }

    /// How many so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        // Acquire: pairs with the AcqRel in `note`; orders the caller's walk before this load, and the next walk behind it.
        fence(Ordering::Acquire);
        self.0.load(Ordering::Acquire)
    }
}

fn hash(words: &[u64]) -> u64 {
    words.iter().fold(mix::SEED, |hash, word| mix::mix(hash, *word))
}

fn checksum_of(incarnation: u32, meta: &SnapshotMeta) -> u64 {
    let SnapshotMeta { origin, owner, size, base, mapping } = meta;
    hash(&[u64::from(incarnation), origin.fingerprint(), origin.inode(), *owner, *size, *base, *mapping])
}

fn checksum_of_extent(extent: &Extent) -> u64 {
    hash(&[extent.address, extent.first, extent.pages, u64::from(extent.protection)])
}

impl View {
    /// Whether the record can be what a mapper wrote: its checksum is valid, and it names no place that no mapping or file reaches.
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        const ADDRESSES: u64 = 1 << 56;
        const BYTES: u64 = i64::MAX as u64;
        let Extent { address, first, pages, .. } = self.extent;
        (self.has_valid_checksum || self.head.is_changing())
            && address.is_multiple_of(crate::PAGE)
            && address < ADDRESSES
            && pages <= ADDRESSES / crate::PAGE
            && first <= BYTES / crate::PAGE
            && self.meta.base <= first
            && self.meta.size <= BYTES
    }
}

impl Snapshot {
    /// The state word. Acquire: pairs with the Release in `publish_at` and `end_change`.
    pub fn head(&self) -> StateWord {
        StateWord(self.head.load(Ordering::Acquire))
    }

    /// The mapper, as far as the record has one.
    pub fn owner(&self) -> u64 {
        self.owner.load(Ordering::Relaxed)
    }

    /// Whether the record is, or was last, one of the process that `owner` refers to.
    pub fn is_owned_by(&self, owner: u64) -> bool {
        // The head comes first: a thread that sees the state sees the description.
        self.head();
        self.owner() == owner
    }

    /// The origin, as far as the record has one.
    pub fn origin(&self) -> Option<Origin> {
        match self.origin.load() {
            Target::Origin(origin) => Some(origin),
            Target::Unknown | Target::Elsewhere => None,
        }
    }

    /// Free -> claimed, with `incarnation` new, by the process that `claimer` (an owner word) refers to. The claim names its
    /// process record, so that a process that reaps it finds the claim.
    pub fn claim(&self, incarnation: u32, claimer: u64) -> Option<StateWord> {
        let free = self.head();
        if free.state() != State::Free {
            return None;
        }
        let mine = StateWord::new(State::Claimed, claimer, incarnation);
        // AcqRel: against other claims; what a former incarnation left in the record is not read after this.
        self.head.compare_exchange(free.0, mine.0, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        Some(mine)
    }

    /// Fills in a claimed record.
    pub fn describe(&self, mine: StateWord, meta: &SnapshotMeta, extent: &Extent, flags: SegmentFlags) {
        // Release: pairs with the fence in `is_still`: a thread that reads these stores finds the last incarnation over.
        fence(Ordering::Release);
        self.owner.store(meta.owner, Ordering::Relaxed);
        self.origin.store(Target::Origin(meta.origin));
        self.size.store(meta.size, Ordering::Relaxed);
        self.base.store(meta.base, Ordering::Relaxed);
        self.mapping.store(meta.mapping, Ordering::Relaxed);
        self.root.store(empty_root(mine.incarnation()), Ordering::Relaxed);
        self.flags.store(flags.0, Ordering::Relaxed);
        let old = self.extent();
        self.checksum
            .store(checksum_of(mine.incarnation(), meta).wrapping_add(checksum_of_extent(&old)), Ordering::Relaxed);
        self.set_extent(extent);
    }

    /// Claimed -> exact, doubtful or broken. Writers see the segment from now on.
    pub fn publish(&self, mine: StateWord, worth: Worth) -> StateWord {
        self.publish_at(mine, worth, 0)
    }

    /// The same with an odd generation: the mapper publishes it while it is changing the mapping.
    pub fn publish_changing(&self, mine: StateWord, worth: Worth) -> StateWord {
        self.publish_at(mine, worth, 1)
    }

    fn publish_at(&self, mine: StateWord, worth: Worth, generation: u64) -> StateWord {
        let head = StateWord::of(worth, generation, mine.incarnation());
        // Release: pairs with the Acquire in `head`; a thread that sees the state sees the description.
        self.head.store(head.0, Ordering::Release);
        head
    }

    /// Replaces the extent. The generation is odd, or the record is only claimed.
    pub fn set_extent(&self, extent: &Extent) {
        // The checksum is carried forward rather than made anew: a record that was damaged before stays without a valid checksum.
        let change = checksum_of_extent(extent).wrapping_sub(checksum_of_extent(&self.extent()));
        self.checksum.store(self.checksum.load(Ordering::Relaxed).wrapping_add(change), Ordering::Relaxed);
        self.address.store(extent.address, Ordering::Relaxed);
        self.first.store(extent.first, Ordering::Relaxed);
        self.pages.store(extent.pages, Ordering::Relaxed);
        self.protection.store(extent.protection, Ordering::Relaxed);
    }

    /// Everything about the segment at one generation; `None` if there is none. The state word may say that a change is under way:
    /// then only the mapper, which makes the change, may use the extent.
    #[inline]
    pub fn view(&self) -> Option<View> {
        loop {
            let head = self.head();
            if matches!(head.state(), State::Free | State::Claimed) {
                return None;
            }
            let origin = match self.origin.load() {
                Target::Origin(origin) => origin,
                Target::Unknown | Target::Elsewhere => Origin::file(0, 0),
            };
            let meta = SnapshotMeta {
                origin,
                owner: self.owner.load(Ordering::Relaxed),
                size: self.size.load(Ordering::Relaxed),
                base: self.base.load(Ordering::Relaxed),
                mapping: self.mapping.load(Ordering::Relaxed),
            };
            let extent = self.extent();
            let flags = self.flags();
            let checksum = checksum_of(head.incarnation(), &meta).wrapping_add(checksum_of_extent(&extent));
            let has_valid_checksum = self.checksum.load(Ordering::Relaxed) == checksum;
            if self.is_still(head) {
                return Some(View { head, meta, extent, flags, has_valid_checksum });
            }
        }
    }

    fn extent(&self) -> Extent {
        Extent {
            address: self.address.load(Ordering::Relaxed),
            first: self.first.load(Ordering::Relaxed),
            pages: self.pages.load(Ordering::Relaxed),
            protection: self.protection.load(Ordering::Relaxed),
        }
    }

    /// Whether nothing changed since `head` was read: the second look of a push.
    pub fn is_still(&self, head: StateWord) -> bool {
        // Acquire: pairs with the Release fence in `describe`; orders the loads, and the push, before this one.
        fence(Ordering::Acquire);
        self.head.load(Ordering::Relaxed) == head.0 || planted(Fault::GenerationCheck)
    }

    /// Even -> odd, by the mapper. `None`: another of its threads is changing the mapping, or there is no segment of this
    /// incarnation.
    pub fn begin_change(&self, incarnation: u32) -> Option<StateWord> {
        let seen = self.head();
        if seen.incarnation() != incarnation || seen.state() == State::Free || seen.is_changing() {
            return None;
        }
        if planted(Fault::OddGeneration) {
            return Some(seen);
        }
        let odd = seen.at(seen.generation() + 1);
        // AcqRel: against `mark` and other changes.
        self.head.compare_exchange(seen.0, odd.0, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        // SeqCst: pairs with the fence in `CallFrame::start_pushing`: the odd generation comes before the look at the pushers, and
        // before the extent is changed.
        full_fence();
        Some(odd)
    }

    /// Odd -> even; the extent is as the record says again.
    pub fn end_change(&self) {
        let mut seen = self.head.load(Ordering::Relaxed);
        loop {
            let head = StateWord(seen);
            if !head.is_changing() {
                return;
            }
            let even = head.at(head.generation() + 1);
            // Release: pairs with the Acquire in `head`; a thread that sees the even generation sees the new extent.
            match self.head.compare_exchange(seen, even.0, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Exact -> doubtful or broken, doubtful -> broken, by any process; never back. True if it was this call that did it. The cause
    /// of the first mark of a state stays.
    pub fn mark(&self, incarnation: u32, worse: Worth) -> bool {
        let mut seen = self.head.load(Ordering::Relaxed);
        loop {
            let head = StateWord(seen);
            let marked = StateWord::of(worse, head.generation(), incarnation);
            if head.incarnation() != incarnation || !head.wants_pages() || head.state() as u8 >= marked.state() as u8 {
                return false;
            }
            match self.head.compare_exchange(seen, marked.0, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// The state, if it is worse than `before`. Called after a split was counted. A mark either comes before this and is found
    /// here, or it comes behind this: then its maker finds the count changed and walks again.
    fn worsened_since(&self, before: State) -> Option<Worth> {
        if planted(Fault::SplitMark) {
            return None;
        }
        // AcqRel: an exchange, because an exchange is ordered with the one in `mark`, and a load is not. Release: pairs with the
        // Acquire there; a mark that comes behind this sees the count. Acquire: as in `head`.
        let now = StateWord(self.head.fetch_or(0, Ordering::AcqRel));
        (now.state() as u8 > before as u8).then(|| now.worth())
    }

    /// Any state -> free, by the mapper, or by a process that proved the mapper dead. False: that incarnation is over already.
    pub fn retire(&self, incarnation: u32) -> bool {
        let mut seen = self.head.load(Ordering::Relaxed);
        loop {
            let head = StateWord(seen);
            if head.incarnation() != incarnation || head.state() == State::Free {
                return false;
            }
            // Release: pairs with the Acquire in `head`; nothing of the old incarnation is touched later than this.
            match self.head.compare_exchange(
                seen,
                StateWord::new(State::Free, 0, incarnation).0,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// Claimed for process record `claimer` and never published -> free. `is_theirs` tells, after the look at the claim, whether
    /// the record still is the dead process's. True if it was this call that did it.
    pub fn retire_claim(&self, claimer: u32, is_theirs: impl FnOnce() -> bool) -> bool {
        let head = self.head();
        head.claimer() == Some(claimer + 1) && is_theirs() && self.retire(head.incarnation())
    }

    /// Notes an observation of the origin: when the segment is described, and later by the mapper.
    pub fn record_observation(&self, observation: &Observation) {
        self.modified.store(observation.file.time, Ordering::Relaxed);
        self.size_seen.store(observation.file.size, Ordering::Relaxed);
        // Release: pairs with the Acquire in `last_observation`: a thread that finds this count finds this file, or a later one.
        self.counted.store(observation.counted, Ordering::Release);
    }

    /// The mapper's last observation of the origin. If it is read while the mapper observes again, a later file can come with an
    /// earlier count: that indicates no foreign change.
    pub fn last_observation(&self) -> Observation {
        // Acquire: pairs with the Release in `record_observation`.
        let counted = self.counted.load(Ordering::Acquire);
        let file =
            Modified { time: self.modified.load(Ordering::Relaxed), size: self.size_seen.load(Ordering::Relaxed) };
        Observation { counted, file }
    }

    /// What is known of the record besides its state.
    pub fn flags(&self) -> SegmentFlags {
        SegmentFlags(self.flags.load(Ordering::Relaxed))
    }

    /// Sets flags.
    pub fn add_flags(&self, flags: SegmentFlags) {
        self.flags.fetch_or(flags.0, Ordering::Relaxed);
    }

    /// Clears flags.
    pub fn remove_flags(&self, flags: SegmentFlags) {
        self.flags.fetch_and(!flags.0, Ordering::Relaxed);
    }
}

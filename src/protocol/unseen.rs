//! Unseen writers: processes that reach the table, but cannot take part, and change files all the same.
//!
//! Such a process *raises* an entry here before its first change, then makes the snapshots there are doubtful. A creation publishes
//! its snapshot, then looks for entries. Each puts a `SeqCst` fence between its store and its load, so at least one of the two sees
//! the other (Dekker). So no snapshot is exact that an unseen change may have reached.
//!
//! An entry names its process, so any other process can tell when it is over, and lower the entry. It walks over the snapshots once
//! more before: an unseen process that has only the table's first page cannot do that itself.

use crate::sys::sync::{AtomicU64, Fault, Ordering, full_fence, planted};

/// Processes that can have an entry; further ones raise `beyond`.
#[cfg(not(loom))]
const ENTRIES: usize = 60;
#[cfg(loom)]
const ENTRIES: usize = 2;

/// All-zero is "every writer is seen".
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C)]
pub struct Unseen {
    /// Entries raised, ever.
    raises: AtomicU64,
    /// Not 0: an unseen process found no free entry, or could not map the entries. It stays so for the life of the table.
    pub(crate) beyond: AtomicU64,
    /// Not 0: a process has logged that there are unseen writers, since the last time that there were none.
    said: AtomicU64,
    /// Not 0: unseen processes that cannot be named here hold the table's lock (`attach::raise_nameless`). It counts how many have
    /// come since there was none.
    nameless: AtomicU64,
    /// [`Who`]; 0 is free.
    entries: [AtomicU64; ENTRIES],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Unseen>() == 512);

/// An unseen process: pid and the low half of its start time (clock ticks after boot; 0 is not known).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// Its pid, never 0.
    pub pid: u32,
    /// When it was started.
    pub start: u32,
}

impl Who {
    const fn word(self) -> u64 {
        (self.start as u64) << 32 | self.pid as u64
    }

    const fn from_word(word: u64) -> Option<Self> {
        if word as u32 == 0 { None } else { Some(Self { pid: word as u32, start: (word >> 32) as u32 }) }
    }
}

/// What a creation found here at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnseenCount {
    raises: u64,
    is_up: bool,
}

impl UnseenCount {
    /// Whether every change between two looks was announced.
    #[must_use]
    pub fn vouches_until(&self, later: &Self) -> bool {
        !self.is_up && !later.is_up && self.raises == later.raises
    }
}

impl Unseen {
    /// Notes that `who` changes files from now on without announcing it. Afterwards the caller makes the snapshots doubtful that it
    /// finds. A creation whose snapshot it does not find finds this entry.
    pub fn raise(&self, who: Who) {
        let word = who.word();
        if !self.named().any(|named| named == who) {
            // AcqRel: against other claims of the entry, and `lower`.
            let claim = |entry: &AtomicU64| {
                entry.load(Ordering::Relaxed) == 0
                    && entry.compare_exchange(0, word, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            };
            if !self.entries.iter().any(claim) {
                self.beyond.store(1, Ordering::Release);
            }
            // AcqRel: pairs with the Acquire in `observe`. A creation that finds the entry gone finds the count changed.
            self.raises.fetch_add(1, Ordering::AcqRel);
        }
        Self::raised();
    }

    fn raised() {
        if !planted(Fault::UnseenFence) {
            // SeqCst: pairs with the fence in `observe_after_publishing`: the entry before the look at the snapshots.
            full_fence();
        }
    }

    /// The same for a process that cannot be named here. It holds the lock by which others tell that it is not over.
    pub fn raise_nameless(&self) {
        // AcqRel: pairs with the Acquire in `lower_nameless`: a process that finds the count raised finds the lock held.
        self.nameless.fetch_add(1, Ordering::AcqRel);
        // AcqRel: as in `raise`.
        self.raises.fetch_add(1, Ordering::AcqRel);
        Self::raised();
    }

    /// Lowers the count of the processes that cannot be named if `is_held` finds their lock free: all are over then. `doubt` is as
    /// in [`lower`](Self::lower).
    pub fn lower_nameless(&self, is_held: impl FnOnce() -> bool, doubt: impl FnOnce()) {
        // Acquire: pairs with the AcqRel in `raise_nameless`: a process that is counted holds the lock already.
        let seen = self.nameless.load(Ordering::Acquire);
        if seen == 0 || is_held() {
            return;
        }
        if !planted(Fault::UnseenWalk) {
            doubt();
        }
        // Release: as in `lower`. A compare-exchange, because another process may have come after the look at the lock.
        let _ = self.nameless.compare_exchange(seen, 0, Ordering::Release, Ordering::Relaxed);
        self.forget_said();
    }

    fn forget_said(&self) {
        if !self.is_up() {
            self.said.store(0, Ordering::Relaxed);
        }
    }

    /// What a creation finds before its instant.
    #[must_use]
    pub fn observe(&self) -> UnseenCount {
        // Acquire: pairs with the AcqRel in `raise`, and orders the loads behind it. The count is read first: an entry that is
        // raised and lowered after that is found by the second look, in the count.
        let raises = self.raises.load(Ordering::Acquire);
        UnseenCount { raises, is_up: self.is_up() }
    }

    /// What a creation finds once its snapshot is published.
    #[must_use]
    pub fn observe_after_publishing(&self) -> UnseenCount {
        // SeqCst: pairs with the fence in `raise`: the snapshot before the look at the entries.
        full_fence();
        // The count is read last: an entry that is gone again has been counted.
        let is_up = self.is_up();
        UnseenCount { raises: self.raises.load(Ordering::Acquire), is_up }
    }

    /// Whether an unseen process may be changing files.
    #[inline]
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.beyond.load(Ordering::Acquire) != 0 || self.has_nameless() || self.named().next().is_some()
    }

    /// Whether a process has ever been unseen here.
    #[inline]
    #[must_use]
    pub fn was_ever_up(&self) -> bool {
        self.raises.load(Ordering::Relaxed) != 0 || self.beyond.load(Ordering::Relaxed) != 0
    }

    /// Whether there may be unseen processes without a name.
    #[must_use]
    pub fn has_nameless(&self) -> bool {
        self.nameless.load(Ordering::Acquire) != 0
    }

    /// The unseen processes that have an entry.
    pub fn named(&self) -> impl Iterator<Item = Who> {
        self.entries.iter().filter_map(|entry| Who::from_word(entry.load(Ordering::Acquire)))
    }

    /// Lowers the entry of `who`, which is over or announces its changes from now on. `doubt` makes every snapshot doubtful: some
    /// may have come about before `who` was found here.
    pub fn lower(&self, who: Who, doubt: impl FnOnce()) {
        let Some(entry) = self.entries.iter().find(|entry| entry.load(Ordering::Acquire) == who.word()) else { return };
        if !planted(Fault::UnseenWalk) {
            doubt();
        }
        // Release: pairs with the Acquire in `observe`: the doubt comes before the entry goes. A compare-exchange, because another
        // process may have lowered the entry meanwhile, and a third one raised its own.
        let _ = entry.compare_exchange(who.word(), 0, Ordering::Release, Ordering::Relaxed);
        self.forget_said();
    }

    /// True for the one process that is to log it.
    #[must_use]
    pub fn begin_to_say(&self) -> bool {
        self.said.swap(1, Ordering::Relaxed) == 0
    }
}

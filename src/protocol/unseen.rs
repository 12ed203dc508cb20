//! Unseen writers: processes that reach the table, but cannot take part, and change files all the same.
//!
//! Such a process *raises* an entry here before its first change, then makes the snapshots there are doubtful. A creation publishes
//! its snapshot, then looks for entries. Each puts a `SeqCst` fence between its store and its load, so at least one of the two sees
//! the other (Dekker), and no snapshot is exact that an unseen change may have reached.
//!
//! An entry names its process, so any other can tell when it is over. Whoever lowers it walks over the snapshots once more before:
//! a process that has the table's first page alone cannot do that itself.

use crate::sys::sync::{AtomicU64, Fault, Ordering, full_fence, planted};

/// Entries for as many processes; further ones raise `beyond`.
#[cfg(not(loom))]
const ENTRIES: usize = 60;
#[cfg(loom)]
const ENTRIES: usize = 2;

/// All-zero is "every writer is seen".
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[derive(Debug)]
#[repr(C)]
pub struct Unseen {
    /// Entries raised, ever.
    raises: AtomicU64,
    /// Not 0: an unseen process found no free entry, or could not map it. It stays for the life of the table.
    pub(crate) beyond: AtomicU64,
    /// Not 0: a process has said so since all writers were seen.
    said: AtomicU64,
    /// Not 0: unseen processes that cannot be named here hold the table's lock (`attach::raise_nameless`). How many have come since
    /// there was none.
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

/// What a creation found here at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    raises: u64,
    is_up: bool,
}

impl Look {
    /// Whether every change between two looks was announced.
    #[must_use]
    pub fn vouches_until(&self, later: &Self) -> bool {
        !self.is_up && !later.is_up && self.raises == later.raises
    }
}

impl Unseen {
    /// Every writer is seen.
    #[cfg(loom)]
    pub fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            raises: zero(),
            beyond: zero(),
            said: zero(),
            nameless: zero(),
            entries: std::array::from_fn(|_| zero()),
        }
    }

    /// Says that `who` changes files from now on without announcing it. Afterwards the caller makes the snapshots that it finds
    /// doubtful; a snapshot that it does not find finds this.
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
            // AcqRel: pairs with the Acquire in `look`. A creation that finds the entry gone finds the count changed.
            self.raises.fetch_add(1, Ordering::AcqRel);
        }
        Self::raised();
    }

    fn raised() {
        if !planted(Fault::UnseenFence) {
            // SeqCst: pairs with the fence in `look_after_publishing`: the entry before the look at the snapshots.
            full_fence();
        }
    }

    /// The same of a process without a name here. It holds the lock by which others tell that it is not over.
    pub fn raise_nameless(&self) {
        // AcqRel: a process that finds it there finds the lock; pairs with `lower_nameless`.
        self.nameless.fetch_add(1, Ordering::AcqRel);
        // AcqRel: as in `raise`.
        self.raises.fetch_add(1, Ordering::AcqRel);
        Self::raised();
    }

    /// All without a name are over if `is_held` finds the lock free. `doubt` is as in [`lower`](Self::lower).
    pub fn lower_nameless(&self, is_held: impl FnOnce() -> bool, doubt: impl FnOnce()) {
        // Acquire: pairs with the AcqRel in `raise_nameless`: whoever is counted holds the lock already.
        let seen = self.nameless.load(Ordering::Acquire);
        if seen == 0 || is_held() {
            return;
        }
        if !planted(Fault::UnseenWalk) {
            doubt();
        }
        // Release: as in `lower`. By compare-exchange: another one may have come behind the look at the lock.
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
    pub fn look(&self) -> Look {
        // Acquire: pairs with the AcqRel in `raise`, and orders the loads behind it. The count first: an entry raised and lowered after
        // that is counted by the second look.
        let raises = self.raises.load(Ordering::Acquire);
        Look { raises, is_up: self.is_up() }
    }

    /// What a creation finds once its snapshot is published.
    #[must_use]
    pub fn look_after_publishing(&self) -> Look {
        // SeqCst: pairs with the fence in `raise`: the snapshot before the look at the entries.
        full_fence();
        // The count last: an entry that is gone again has been counted.
        let is_up = self.is_up();
        Look { raises: self.raises.load(Ordering::Acquire), is_up }
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

    /// The unseen processes that have named themselves.
    pub fn named(&self) -> impl Iterator<Item = Who> {
        self.entries.iter().filter_map(|entry| Who::from_word(entry.load(Ordering::Acquire)))
    }

    /// `who` is over, or announces its changes from now on. `doubt` makes every snapshot doubtful: some may have come about before
    /// `who` was found here.
    pub fn lower(&self, who: Who, doubt: impl FnOnce()) {
        let Some(entry) = self.entries.iter().find(|entry| entry.load(Ordering::Acquire) == who.word()) else { return };
        if !planted(Fault::UnseenWalk) {
            doubt();
        }
        // Release: pairs with the Acquire in `look`: the doubt before the entry goes. By compare-exchange: another process may have
        // lowered it meanwhile, and a third one raised its own.
        let _ = entry.compare_exchange(who.word(), 0, Ordering::Release, Ordering::Relaxed);
        self.forget_said();
    }

    /// True for the one process that says so.
    #[must_use]
    pub fn begin_to_say(&self) -> bool {
        self.said.swap(1, Ordering::Relaxed) == 0
    }
}

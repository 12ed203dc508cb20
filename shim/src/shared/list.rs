//! The shared file mappings of this process, and the lock over them.
//!
//! A thread that changes a mapping or its protection holds the lock to write. A thread that opens a part of one, or has the kernel
//! store into one, holds it to read. The lock is taken inside the gate and with all signals blocked: no handler finds that its own
//! thread has the lock, and no jump leaves it locked. A thread that holds it waits for the kernel alone.

use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use snapshim::PAGE;
use snapshim::protocol::origin::Origin;
use snapshim::sys::permission;
use snapshim::sys::wait::until_some;

/// One contiguous shared mapping of a file or block device.
#[derive(Debug)]
pub struct Entry {
    /// Addresses, whole pages.
    pub range: Range<u64>,
    /// Page of the origin at `range.start`.
    pub first: u64,
    pub origin: Origin,
    /// The protection that the application set. The kernel's may lack PROT_WRITE.
    pub protection: i32,
    /// Whether a forked child has the mapping (MADV_DONTFORK).
    pub is_inherited: bool,
    /// Which stores into it have trapped so far.
    pub history: FaultHistory,
}

/// What a trap notes for the next one. These are guesses that may be stale, except `is_open`.
#[derive(Debug, Default)]
pub struct FaultHistory {
    /// The address behind the part that was opened last.
    pub next_expected: AtomicU64,
    /// How many pages that part had.
    pub chunk: AtomicU64,
    /// Whether all of the mapping is open. It is no guess, and changes only while the list is held.
    pub is_open: AtomicBool,
}

impl Entry {
    /// Whether the application may store into it.
    pub fn is_writable(&self) -> bool {
        self.protection & libc::PROT_WRITE != 0
    }

    /// The bytes of the origin that a part of the mapping shows.
    pub fn bytes(&self, part: &Range<u64>) -> Range<u64> {
        let offset = self.first * PAGE;
        let start = offset.saturating_add(part.start - self.range.start);
        start..start.saturating_add(part.end - part.start)
    }

    /// The part of the mapping that lies in `range`.
    pub fn part(&self, range: &Range<u64>) -> Range<u64> {
        self.range.start.max(range.start)..self.range.end.min(range.end)
    }

    /// An empty range touches nothing.
    fn touches(&self, range: &Range<u64>) -> bool {
        !range.is_empty() && self.range.start < range.end && range.start < self.range.end
    }

    /// Whether `next` begins where this one ends, in memory and in the file, and is like it otherwise.
    fn goes_on_in(&self, next: &Self) -> bool {
        self.range.end == next.range.start
            && self.first + (self.range.end - self.range.start) / PAGE == next.first
            && self.origin == next.origin
            && self.protection == next.protection
            && self.is_inherited == next.is_inherited
    }

    /// An entry like this one for a part of it.
    pub fn clip(&self, part: Range<u64>) -> Self {
        let first = self.first + (part.start - self.range.start) / PAGE;
        let Self { origin, protection, is_inherited, .. } = *self;
        Self { range: part, first, origin, protection, is_inherited, history: FaultHistory::default() }
    }
}

/// The entries, in no order.
pub struct List {
    entries: *mut Entry,
    count: usize,
    capacity: usize,
}

impl List {
    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        if self.count == 0 {
            return &[];
        }
        // SAFETY: `entries` points to room for `capacity` entries, of which the first `count` are filled.
        unsafe { core::slice::from_raw_parts(self.entries, self.count) }
    }

    fn entries_mut(&mut self) -> &mut [Entry] {
        if self.count == 0 {
            return &mut [];
        }
        // SAFETY: as in `entries`; the borrow is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.entries, self.count) }
    }

    /// The entries that `range` touches.
    pub fn touching<'a>(&'a self, range: &Range<u64>) -> impl Iterator<Item = &'a Entry> + use<'a> {
        let range = range.clone();
        self.entries().iter().filter(move |entry| entry.touches(&range))
    }

    /// The entry that covers `address`.
    pub fn at(&self, address: u64) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.range.contains(&address))
    }

    /// Makes room for so many more; false: there is no memory.
    #[must_use]
    pub fn reserve(&mut self, more: usize) -> bool {
        let wanted = self.count + more;
        if wanted <= self.capacity {
            return true;
        }
        let capacity = wanted.next_power_of_two().max(PAGE as usize / size_of::<Entry>());
        let Some(memory) = crate::base::arena::memory(capacity * size_of::<Entry>()) else { return false };
        let entries = memory.cast::<Entry>();
        if self.count > 0 {
            // SAFETY: both have room for `count` entries; the old ones are never read again.
            unsafe { ptr::copy_nonoverlapping(self.entries, entries, self.count) };
        }
        (self.entries, self.capacity) = (entries, capacity);
        true
    }

    /// Adds one, for which room was reserved.
    pub fn add(&mut self, entry: Entry) {
        let range = entry.range.clone();
        self.push(entry);
        self.join(&range);
        note(self);
    }

    /// Joins entries in and around `range` that continue each other, so that a program that changes a mapping page by page does
    /// not leave an entry for each page.
    fn join(&mut self, range: &Range<u64>) {
        let mut at = 0;
        while at < self.count {
            let entry = &self.entries()[at];
            let is_around = entry.range.start <= range.end && range.start <= entry.range.end;
            let is_next = |next: &Entry| entry.goes_on_in(next);
            let Some(next) = is_around.then(|| self.entries().iter().position(is_next)).flatten() else {
                at += 1;
                continue;
            };
            let end = self.entries()[next].range.end;
            let is_open = [at, next].iter().all(|at| self.entries()[*at].history.is_open.load(Ordering::Relaxed));
            let entry = &mut self.entries_mut()[at];
            entry.range.end = end;
            *entry.history.is_open.get_mut() = is_open;
            self.take_out(next);
            // The last entry has moved, perhaps to an index that was passed.
            at = 0;
        }
    }

    /// Adds an entry, unless it is empty.
    fn push(&mut self, entry: Entry) {
        if self.count == self.capacity || entry.range.is_empty() {
            return;
        }
        // SAFETY: `count` is below `capacity`.
        unsafe { self.entries.add(self.count).write(entry) };
        self.count += 1;
    }

    /// Takes `range` out of all entries. Up to two more entries result, for which room was reserved.
    pub fn carve(&mut self, range: &Range<u64>) {
        self.replace(range, |_| None);
    }

    /// Puts `changed` in place of the part of each entry that lies in `range`. See [`List::carve`] for the room it needs.
    pub fn replace(&mut self, range: &Range<u64>, changed: impl Fn(Entry) -> Option<Entry>) {
        for at in 0..self.count {
            let entry = &self.entries()[at];
            if !entry.touches(range) {
                continue;
            }
            let part = entry.part(range);
            let before = entry.clip(entry.range.start..part.start);
            let after = entry.clip(part.end..entry.range.end);
            let middle = changed(entry.clip(part));
            // The rest of it, perhaps empty, keeps its index: no entry is removed before all have been visited.
            self.entries_mut()[at] = before;
            [Some(after), middle].into_iter().flatten().for_each(|entry| self.push(entry));
        }
        self.retain(|entry| !entry.range.is_empty());
        self.join(range);
    }

    /// Adds a copy, at `to`, of what lies in `from`: at most one for each entry there, for which room was reserved.
    pub fn copy(&mut self, from: &Range<u64>, to: u64) {
        for at in 0..self.count {
            let entry = &self.entries()[at];
            if entry.touches(from) {
                let copy = entry.clip(entry.part(from));
                let start = to + (copy.range.start - from.start);
                let end = start + (copy.range.end - copy.range.start);
                self.push(Entry { range: start..end, ..copy });
            }
        }
        note(self);
    }

    /// Extends the entry that ends at `end` to `further`, if that is behind.
    pub fn stretch(&mut self, end: u64, further: u64) {
        if let Some(entry) = self.entries_mut().iter_mut().find(|entry| entry.range.end == end && end < further) {
            entry.range.end = further;
            note(self);
        }
    }

    /// Removes all entries of which `is_kept` is false.
    fn retain(&mut self, is_kept: impl Fn(&Entry) -> bool) {
        let mut at = 0;
        while at < self.count {
            if is_kept(&self.entries()[at]) {
                at += 1;
            } else {
                self.take_out(at);
            }
        }
        note(self);
    }

    /// Removes an entry; the last one comes to its index.
    fn take_out(&mut self, at: usize) {
        self.count -= 1;
        // SAFETY: both entries are filled, the one that is overwritten needs no drop, and the last is not counted any more.
        unsafe { ptr::copy(self.entries.add(self.count), self.entries.add(at), 1) };
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.retain(|_| false);
    }

    /// Removes the entries of mappings that a forked child does not have.
    pub fn retain_inherited(&mut self) {
        self.retain(|entry| entry.is_inherited);
    }
}

/// The lowest address of all entries, known without the lock: noted when a change of the list is complete.
static LOWEST: AtomicU64 = AtomicU64::new(u64::MAX);
/// The address behind the highest entry; 0: there is none.
static HIGHEST: AtomicU64 = AtomicU64::new(0);

/// Notes between which addresses all entries lie.
fn note(list: &List) {
    let lowest = list.entries().iter().map(|entry| entry.range.start).min().unwrap_or(u64::MAX);
    let highest = list.entries().iter().map(|entry| entry.range.end).max().unwrap_or(0);
    LOWEST.store(lowest, Ordering::Relaxed);
    HIGHEST.store(highest, Ordering::Relaxed);
}

/// Whether an entry may touch `range`. A mapping that another thread makes at this moment may be missed.
#[inline]
pub fn may_touch(range: &Range<u64>) -> bool {
    !permission::is_confined() && may_have_touched(range)
}

/// The same in a process that is confined, where no call is led around the mappings any more.
#[inline]
pub fn may_have_touched(range: &Range<u64>) -> bool {
    range.start < HIGHEST.load(Ordering::Relaxed) && LOWEST.load(Ordering::Relaxed) < range.end
}

/// Whether there is any entry.
#[inline]
pub fn is_any() -> bool {
    !permission::is_confined() && HIGHEST.load(Ordering::Relaxed) != 0
}

/// The same in a process that is confined.
pub fn was_any() -> bool {
    HIGHEST.load(Ordering::Relaxed) != 0
}

/// Whether the mappings stay open from now on, whatever snapshots are made.
static IS_SEALED: AtomicBool = AtomicBool::new(false);

/// See [`seal`].
pub fn is_sealed() -> bool {
    // SeqCst: pairs with the store in `seal`.
    IS_SEALED.load(Ordering::SeqCst)
}

/// Has every mapping stay open from now on (`is_sealed`), because its process is about to be confined, or as it was.
pub fn seal(is_sealed: bool) {
    // SeqCst: pairs with the load in `is_sealed`. An arming that does not see this holds the list, and `open_for_good` opens what
    // it armed; or it is of a creation that the announcement in `open_for_good` waits for.
    IS_SEALED.store(is_sealed, Ordering::SeqCst);
}

// SAFETY: the entries lie in memory of the library's own, which every thread of the process may use.
unsafe impl Send for List {}
// SAFETY: as above; through a shared reference a thread changes nothing but the atomics of an entry's history.
unsafe impl Sync for List {}

/// The list. It stands on cache lines of its own: threads that trap count themselves into the lock.
static LIST: CachePadded<RwLock<List>> =
    CachePadded::new(RwLock::new(List { entries: ptr::null_mut(), count: 0, capacity: 0 }));

/// The list, held against changes. Signals are blocked.
pub type Reading = RwLockReadGuard<'static, List>;

/// The list, held alone. Signals are blocked.
pub type Writing = RwLockWriteGuard<'static, List>;

/// Holds the list against changes.
///
/// Never by `RwLock::read`: parking_lot allocates in order to park, and a thread that forks may hold the allocator's locks.
pub fn read() -> Reading {
    until_some(|| LIST.try_read())
}

/// Holds the list alone. Never by `RwLock::write`: see [`read`].
pub fn write() -> Writing {
    until_some(|| LIST.try_write())
}

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
use snapshim::protocol::sharing::OriginCounts;
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

/// The entries, from the highest address down. No two overlap. The kernel puts a new mapping below the others (mmap_base in
/// arch/x86/mm/mmap.c), so that mostly the last entry comes and goes.
pub struct List {
    entries: *mut Entry,
    count: usize,
    capacity: usize,
    /// Of what may be stored into.
    counts: OriginCounts,
}

impl List {
    /// What it has of each origin that may be stored into.
    pub fn counts(&self) -> &OriginCounts {
        &self.counts
    }

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

    /// The indices of the entries that `range` touches.
    fn indices(&self, range: &Range<u64>) -> Range<usize> {
        let entries = self.entries();
        let first = entries.partition_point(|entry| entry.range.start >= range.end);
        let end = entries.partition_point(|entry| entry.range.end > range.start);
        if range.is_empty() { first..first } else { first..end.max(first) }
    }

    /// The entries that `range` touches. An empty range touches nothing.
    pub fn touching(&self, range: &Range<u64>) -> core::slice::Iter<'_, Entry> {
        self.entries()[self.indices(range)].iter()
    }

    /// The entry that covers `address`.
    pub fn at(&self, address: u64) -> Option<&Entry> {
        self.touching(&(address..address.saturating_add(1))).next()
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

    /// Adds one in place of what is known there, for which room was reserved.
    pub fn add(&mut self, entry: Entry) {
        let range = entry.range.clone();
        self.carve(&range);
        self.insert(entry);
        self.join(&range);
        note(self);
    }

    /// Joins entries in and around `range` that continue each other, so that a program that changes a mapping page by page does
    /// not leave an entry for each page.
    fn join(&mut self, range: &Range<u64>) {
        let around = self.indices(&(range.start.saturating_sub(1)..range.end.saturating_add(1)));
        // Each with the one above it, from the lowest on: what is taken out is above.
        for at in (around.start.max(1)..around.end).rev() {
            let [above, entry] = &mut self.entries_mut()[at - 1..=at] else { continue };
            if entry.goes_on_in(above) {
                entry.range.end = above.range.end;
                let is_open = [&mut *entry, above].into_iter().all(|entry| *entry.history.is_open.get_mut());
                *entry.history.is_open.get_mut() = is_open;
                self.take_out(at - 1);
            }
        }
    }

    /// Puts an entry in its place, unless it is empty.
    fn insert(&mut self, entry: Entry) {
        if self.count == self.capacity || entry.range.is_empty() {
            return;
        }
        if entry.is_writable() {
            self.counts.add(entry.origin);
        }
        let at = self.entries().partition_point(|other| other.range.start > entry.range.start);
        // SAFETY: `count` is below `capacity`, and `at` is at most `count`.
        unsafe {
            let place = self.entries.add(at);
            ptr::copy(place, place.add(1), self.count - at);
            place.write(entry);
        }
        self.count += 1;
    }

    /// Takes `range` out of all entries. Up to two more entries result, for which room was reserved.
    pub fn carve(&mut self, range: &Range<u64>) {
        self.replace(range, |_| None);
    }

    /// Puts `changed`, of the same addresses, in place of the part of each entry that lies in `range`. See [`List::carve`] for the
    /// room it needs.
    pub fn replace(&mut self, range: &Range<u64>, changed: impl Fn(Entry) -> Option<Entry>) {
        let touched = self.indices(range);
        let [Some(highest), Some(lowest)] = [self.touching(range).next(), self.touching(range).next_back()] else {
            return;
        };
        let after = highest.clip(range.end.min(highest.range.end)..highest.range.end);
        let before = lowest.clip(lowest.range.start..range.start.max(lowest.range.start));
        for at in touched.clone() {
            let entry = &self.entries()[at];
            let part = entry.part(range);
            let (was, gone) = (entry.clip(part.clone()), entry.clip(part.start..part.start));
            let now = changed(entry.clip(part)).unwrap_or(gone);
            if was.is_writable() {
                self.counts.remove(was.origin);
            }
            // What is empty is taken out below, and counted off there.
            if now.is_writable() {
                self.counts.add(now.origin);
            }
            self.entries_mut()[at] = now;
        }
        self.retain(touched, |entry| !entry.range.is_empty());
        self.insert(before);
        self.insert(after);
        self.join(range);
        note(self);
    }

    /// Adds a copy, at `to`, of what lies in `from`: at most one for each entry there, for which room was reserved. Nothing lies
    /// where the copies come.
    pub fn copy(&mut self, from: &Range<u64>, to: u64) {
        let mut end = from.end;
        while let Some(entry) = self.touching(&(from.start..end)).next() {
            let part = entry.part(&(from.start..end));
            let start = to + (part.start - from.start);
            let copy = Entry { range: start..start + (part.end - part.start), ..entry.clip(part.clone()) };
            end = part.start;
            self.insert(copy);
        }
        note(self);
    }

    /// Extends the entry that ends at `end` to `further`, if that is behind, in place of what is known there.
    pub fn stretch(&mut self, end: u64, further: u64) {
        let ends_there = |entry: &&mut Entry| entry.range.end == end && end < further;
        let last = self.indices(&(end.saturating_sub(1)..end)).start;
        let Some(entry) = self.entries_mut().get_mut(last).filter(ends_there) else { return };
        let history = core::mem::take(&mut entry.history);
        let longer = Entry { history, ..entry.clip(entry.range.start..further) };
        self.add(longer);
    }

    /// Removes those of the entries at `among` of which `is_kept` is false.
    fn retain(&mut self, among: Range<usize>, is_kept: impl Fn(&Entry) -> bool) {
        let mut kept = among.start;
        for at in among.clone() {
            let entry = &self.entries()[at];
            let (is_kept, is_writable, origin) = (is_kept(entry), entry.is_writable(), entry.origin);
            if is_kept {
                self.entries_mut().swap(kept, at);
                kept += 1;
            } else if is_writable {
                self.counts.remove(origin);
            }
        }
        // SAFETY: what is overwritten is not kept and needs no drop; what lies behind `among` is filled.
        unsafe { ptr::copy(self.entries.add(among.end), self.entries.add(kept), self.count - among.end) };
        self.count -= among.end - kept;
    }

    /// Removes an entry.
    fn take_out(&mut self, at: usize) {
        self.retain(at..at + 1, |_| false);
    }

    /// Removes all.
    pub fn clear(&mut self) {
        (self.count, self.counts) = (0, OriginCounts::NONE);
        note(self);
    }

    /// Removes the entries of mappings that a forked child does not have.
    pub fn retain_inherited(&mut self) {
        self.retain(0..self.count, |entry| entry.is_inherited);
        note(self);
    }
}

/// The lowest address of all entries, known without the lock: noted when a change of the list is complete.
static LOWEST: AtomicU64 = AtomicU64::new(u64::MAX);
/// The address behind the highest entry; 0: there is none.
static HIGHEST: AtomicU64 = AtomicU64::new(0);

/// Notes between which addresses all entries lie.
fn note(list: &List) {
    let lowest = list.entries().last().map_or(u64::MAX, |entry| entry.range.start);
    let highest = list.entries().first().map_or(0, |entry| entry.range.end);
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
    CachePadded::new(RwLock::new(List { entries: ptr::null_mut(), count: 0, capacity: 0, counts: OriginCounts::NONE }));

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

#[cfg(test)]
mod tests {
    use super::*;

    /// What each page shows, by its number: the origin's inode, the page of the origin, the protection.
    type Model = [Option<(u64, u64, i32)>; 64];

    const EMPTY: List = List { entries: ptr::null_mut(), count: 0, capacity: 0, counts: OriginCounts::NONE };

    fn entry(pages: Range<u64>, inode: u64, first: u64, protection: i32) -> Entry {
        let range = pages.start * PAGE..pages.end * PAGE;
        let origin = Origin::file(1, inode);
        Entry { range, first, origin, protection, is_inherited: true, history: FaultHistory::default() }
    }

    fn shows(list: &List, page: u64) -> Option<(u64, u64, i32)> {
        let entry = list.at(page * PAGE)?;
        let inode = (1..=3).find(|inode| Origin::file(1, *inode) == entry.origin).unwrap();
        Some((inode, entry.bytes(&(page * PAGE..(page + 1) * PAGE)).start / PAGE, entry.protection))
    }

    fn assert_like(list: &List, model: &Model) {
        for page in 0..64 {
            assert_eq!(shows(list, page), model[page as usize], "page {page}");
        }
        let mut counts = OriginCounts::NONE;
        list.entries().iter().filter(|entry| entry.is_writable()).for_each(|entry| counts.add(entry.origin));
        assert_eq!(format!("{:?}", list.counts()), format!("{counts:?}"));
        for [above, below] in list.entries().array_windows() {
            assert!(below.range.end <= above.range.start && !below.goes_on_in(above), "{below:?} {above:?}");
        }
    }

    #[test]
    fn the_list_is_what_was_mapped() {
        let (mut list, mut model, mut random) = (EMPTY, [None; 64], 1u64);
        let mut below = |most: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % most
        };
        for _ in 0..20_000 {
            assert!(list.reserve(70));
            let (start, length) = (below(60), 1 + below(4));
            let pages = start..start + length;
            let range = pages.start * PAGE..pages.end * PAGE;
            let slots = start as usize..(start + length) as usize;
            match below(5) {
                0 => {
                    let (inode, first) = (1 + below(3), start + 8 * below(2));
                    list.add(entry(pages, inode, first, 3));
                    slots.for_each(|page| model[page] = Some((inode, first + page as u64 - start, 3)));
                }
                1 => {
                    list.carve(&range);
                    model[slots].fill(None);
                }
                2 => {
                    let protection = 1 + 2 * below(2) as i32;
                    list.replace(&range, |entry| Some(Entry { protection, ..entry }));
                    model[slots].iter_mut().flatten().for_each(|shown| shown.2 = protection);
                }
                3 => {
                    let to = (start + 20) % 60;
                    list.carve(&(to * PAGE..(to + length) * PAGE));
                    model[to as usize..(to + length) as usize].fill(None);
                    list.copy(&range, to * PAGE);
                    model.copy_within(slots, to as usize);
                }
                _ => {
                    let Some((inode, page, protection)) = start.checked_sub(1).and_then(|last| model[last as usize])
                    else {
                        continue;
                    };
                    let ends_there = list.at((start - 1) * PAGE).unwrap().range.end == start * PAGE;
                    list.stretch(range.start, range.end);
                    for at in slots.filter(|_| ends_there) {
                        model[at] = Some((inode, page + 1 + at as u64 - start, protection));
                    }
                }
            }
            list.join(&(0..64 * PAGE));
            assert_like(&list, &model);
        }
    }
}

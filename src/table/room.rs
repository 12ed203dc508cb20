//! Room: the memory of the arrays that grow, of process records and of writer slots.
//!
//! The file has a hole where no record was ever used, so that unused records cost nothing. On a full tmpfs even a look into a hole
//! is SIGBUS. So memory is asked for, some at a time, before the first record in it counts as used. No process looks behind what
//! has been asked for.

use core::ptr;

use rustix::mm::{Advice, madvise};

use crate::sys::sync::{AtomicU32, AtomicU64, Ordering};

/// What is known of one array besides its high-water mark. All-zero: the first records have memory, and any may be free.
#[derive(Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)]
#[repr(C)]
pub(crate) struct Room {
    /// How many records have memory:32 | its complement:32; never lowered. A word that is damaged does not fit its complement, and
    /// leads no process into a hole.
    backed: AtomicU64,
    /// The index at which a free record is likely.
    pub(crate) hint: AtomicU32,
    /// Of processes: the index from which on the dead are looked for next. Of slots: where and when that was done last.
    pub(crate) cursor: AtomicU32,
}

impl Room {
    /// How many records have memory; `first` have it from the start.
    #[inline]
    pub(super) fn backed(&self, first: usize) -> usize {
        // Acquire: pairs with the AcqRel in `raise`.
        let word = self.backed.load(Ordering::Acquire);
        let count = word as u32;
        if (word >> 32) as u32 == !count { (count as usize).max(first) } else { first }
    }

    fn raise(&self, count: usize) {
        let wanted = count as u32;
        let mut seen = self.backed.load(Ordering::Relaxed);
        while wanted > seen as u32 || seen == 0 {
            let word = u64::from(!wanted) << 32 | u64::from(wanted);
            match self.backed.compare_exchange(seen, word, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Whether the word is one that `raise` made.
    pub(super) fn is_sound(&self, most: usize) -> bool {
        let word = self.backed.load(Ordering::Relaxed);
        word == 0 || (word >> 32) as u32 == !(word as u32) && (word as u32) as usize <= most.next_multiple_of(64)
    }

    /// Makes sure that record `index` of `records` has memory. False: the file system, or the process, has none left.
    pub(super) fn reach<T>(&self, records: &[T], first: usize, at_once: usize, index: usize) -> bool {
        let backed = self.backed(first);
        if index < backed {
            return true;
        }
        let wanted = (index + 1).next_multiple_of(at_once);
        let Some(more) = records.get(backed..wanted.min(records.len())).filter(|more| !more.is_empty()) else {
            return false;
        };
        let address = ptr::from_ref(more).cast_mut().cast();
        // SAFETY: whole pages of the table's mapping, which lives as long as the process; populating changes no byte.
        let is_had = unsafe { madvise(address, size_of_val(more), Advice::LinuxPopulateWrite) }.is_ok();
        if is_had {
            self.raise(wanted);
        }
        is_had
    }
}

/// Which pages of a small array have memory: a bit for each:32 | their complement:32. All-zero: none. A word that is damaged leads
/// no process into a hole.
#[derive(Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)]
#[repr(transparent)]
pub(crate) struct PageRoom(AtomicU64);

impl PageRoom {
    /// The pages that one word can tell of.
    pub(super) const MOST: usize = 32;

    /// Whether the page has memory.
    pub(super) fn has(&self, page: usize) -> bool {
        Self::bits(self.0.load(Ordering::Relaxed)) & 1 << page != 0
    }

    fn bits(word: u64) -> u32 {
        let bits = word as u32;
        if (word >> 32) as u32 == !bits { bits } else { 0 }
    }

    /// Notes that the page has memory. Relaxed: nothing is read there that another process has to have written before.
    pub(super) fn add(&self, page: usize) {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let bits = Self::bits(seen) | 1 << page;
            let word = u64::from(!bits) << 32 | u64::from(bits);
            match self.0.compare_exchange(seen, word, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::limits::PROCESSES;

    #[test]
    fn a_damaged_count_leads_nobody_into_a_hole() {
        let room = Room { backed: AtomicU64::new(0), hint: AtomicU32::new(0), cursor: AtomicU32::new(0) };
        assert!(room.is_sound(PROCESSES) && room.backed(64) == 64);
        room.raise(128);
        room.raise(64);
        assert!(room.is_sound(PROCESSES) && room.backed(64) == 128);
        room.backed.fetch_or(1 << 20, Ordering::Relaxed);
        assert!(!room.is_sound(PROCESSES) && room.backed(64) == 64);
    }

    #[test]
    fn damaged_bits_lead_nobody_into_a_hole() {
        let room = PageRoom(AtomicU64::new(0));
        assert!((0..PageRoom::MOST).all(|page| !room.has(page)));
        room.add(0);
        room.add(31);
        assert!(room.has(0) && room.has(31) && !room.has(7));
        room.0.fetch_or(1 << 7, Ordering::Relaxed);
        assert!((0..PageRoom::MOST).all(|page| !room.has(page)));
    }
}

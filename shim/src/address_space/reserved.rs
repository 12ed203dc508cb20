//! Addresses that stay reserved although the program has unmapped them.
//!
//! A writer that preserves pages of a read-only snapshot reads a byte of each, and stores it again. If the writer is stopped in
//! between, the store comes when it goes on: at addresses where the program may have mapped something else by then. So munmap(2) of
//! such a snapshot, which waits for no stopped process, leaves memory of the shim's there. It takes the store, and is unmapped by a
//! later call or by the agent once the writer is through, or dead. No other mapping can come there meanwhile, but one that the
//! program forces there (MAP_FIXED), which waits.
//!
//! A snapshot that was given up whole is over: neither the table nor `own_ranges` has it any more, so what both say still agrees.

use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::process::identity::ThisProcess;
use snapshim::sys::rare::Rare;

/// One such range. The lock over the mappings is held wherever an entry is written.
struct Entry {
    /// 0: the entry is free. It is written last, and read first.
    start: AtomicU64,
    end: AtomicU64,
    /// The snapshot's record, by which its writers are found.
    snapshot: AtomicU32,
    /// The image whose memory it is. In a forked child, whose memory no writer stores into, the entry is free.
    image: AtomicU64,
}

const ENTRIES: usize = 32;

#[unsafe(link_section = ".bss.rare")]
static RESERVED: Rare<[Entry; ENTRIES]> = Rare(
    [const {
        Entry {
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
            snapshot: AtomicU32::new(0),
            image: AtomicU64::new(0),
        }
    }; ENTRIES],
);

impl Entry {
    fn is_in_use(&self, own: u64) -> bool {
        // Acquire: pairs with the Release in `note`: the rest of the entry belongs to this start.
        self.start.load(Ordering::Acquire) != 0 && self.image.load(Ordering::Relaxed) == own
    }
}

fn in_use(own: &ThisProcess) -> impl Iterator<Item = &'static Entry> + use<> {
    let own = own.id.to_word();
    RESERVED.iter().filter(move |entry| entry.is_in_use(own))
}

/// Whether any addresses are reserved.
pub fn is_any(own: &ThisProcess) -> bool {
    in_use(own).next().is_some()
}

/// How many more ranges can be noted.
pub fn room(own: &ThisProcess) -> usize {
    ENTRIES - in_use(own).count()
}

/// Notes a range, and the record of the snapshot that was there. There is room.
pub fn note(own: &ThisProcess, range: &Range<u64>, snapshot: u32) {
    let word = own.id.to_word();
    if let Some(entry) = RESERVED.iter().find(|entry| !entry.is_in_use(word)) {
        entry.end.store(range.end, Ordering::Relaxed);
        entry.snapshot.store(snapshot, Ordering::Relaxed);
        entry.image.store(word, Ordering::Relaxed);
        // Release: pairs with the Acquire in `Entry::is_in_use`: a thread that finds the start finds the rest.
        entry.start.store(range.start, Ordering::Release);
    }
}

/// The reserved ranges that `range` touches, each with the record of its snapshot.
pub fn touching(own: &ThisProcess, range: &Range<u64>) -> impl Iterator<Item = (Range<u64>, u32)> + use<> {
    let range = range.clone();
    in_use(own).filter_map(move |entry| {
        let found = entry.start.load(Ordering::Relaxed)..entry.end.load(Ordering::Relaxed);
        let is_touched = found.start < range.end && range.start < found.end;
        is_touched.then(|| (found, entry.snapshot.load(Ordering::Relaxed)))
    })
}

/// Forgets a range.
pub fn forget(own: &ThisProcess, range: &Range<u64>) {
    if let Some(entry) = in_use(own).find(|entry| entry.start.load(Ordering::Relaxed) == range.start) {
        entry.start.store(0, Ordering::Relaxed);
    }
}

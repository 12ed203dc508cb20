//! Ids of mappings. Each is larger than those before it, and says when its mapping was made.
//!
//! The time is that since boot, in which the machine's sleep counts, and which setting the clock does not change. A snapshot does
//! not outlive the boot that it was taken in.

use crate::sys::sync::{AtomicU64, Ordering};

/// Mappings of one millisecond that have ids of that millisecond. Further ones get ids of the next.
const COUNT_BITS: u32 = 20;

/// The id that was handed out last: milliseconds since boot:44 | count:20.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(transparent)]
pub struct MappingIds(AtomicU64);

impl MappingIds {
    /// A new id, for a mapping that is made `now`, in milliseconds since boot.
    pub fn next(&self, now: u64) -> u64 {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let id = seen.wrapping_add(1).max(now << COUNT_BITS);
            // Release: pairs with the Acquire in `newest`: what the mapper has seen of the origin, it saw before the id was handed
            // out.
            match self.0.compare_exchange(seen, id, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return id,
                Err(now) => seen = now,
            }
        }
    }

    /// The id that was handed out last.
    pub fn newest(&self) -> u64 {
        // Acquire: pairs with the Release in `next`.
        self.0.load(Ordering::Acquire)
    }
}

/// When the mapping of this id was made, in milliseconds since boot.
#[must_use]
pub const fn made_at(id: u64) -> u64 {
    id >> COUNT_BITS
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_and_tell_the_time() {
        let ids = MappingIds(AtomicU64::new(0));
        let first = ids.next(1000);
        let second = ids.next(1000);
        // The clock of another processor is late.
        let third = ids.next(999);
        let fourth = ids.next(1007);
        assert!(first < second && second < third && third < fourth && ids.newest() == fourth);
        assert_eq!([first, second, third, fourth].map(made_at), [1000, 1000, 1000, 1007]);
    }
}

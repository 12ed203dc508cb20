//! Places: in which records snapshots stand, so that no walk looks at records that are free.
//!
//! Records stand in buckets. Each origin has a home, the bucket at which the search for a free record begins; further buckets
//! follow, in an order that is the home's own. Two marks of each bucket say how far a walk has to look: which of its records may be
//! in use, and how many buckets, from this one on, may hold snapshots of the origins whose home it is.
//!
//! Two homes have no long way in common. Otherwise thousands of snapshots of one file would fill the buckets behind its home, and
//! each file with a home among them would have its snapshots far away, behind all of these.
//!
//! A mark is raised between the claim of a record and its publication. It is lowered by a process that finds, after it has read the
//! mark, that nothing needs it. Each raise counts, also one that changes nothing: so a process that was about to lower the mark
//! finds that a record was claimed meanwhile.

use super::limits::SNAPSHOTS;
use super::origin::Origin;
use crate::sys::mix;
use crate::sys::sync::{AtomicU64, Fault, Ordering, planted};

/// Records in a bucket: as many as a mark has bits.
pub const BUCKET: usize = 32;
/// Buckets: a power of two.
pub const BUCKETS: usize = SNAPSHOTS / BUCKET;
const _: () = assert!(SNAPSHOTS.is_multiple_of(BUCKET) && BUCKETS.is_power_of_two());

/// A number that says how far to look, and how often it was raised. All-zero: nothing to look at.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(transparent)]
pub struct Mark(
    /// Value:32 | raises:32.
    AtomicU64,
);

impl Mark {
    /// The number.
    #[must_use]
    pub fn value(&self) -> u32 {
        // Acquire: pairs with the AcqRel in `raise`. A walk that has to find a record begins after its publication, and so after
        // the raise.
        self.0.load(Ordering::Acquire) as u32
    }

    /// Makes the number `higher` of what it was, and counts that.
    pub fn raise(&self, higher: impl Fn(u32) -> u32) {
        let count = if planted(Fault::MarkRaises) { 0 } else { 1 << 32 };
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let raised = (seen & !0xffff_ffff).wrapping_add(count) | u64::from(higher(seen as u32));
            // AcqRel: releases the claim of the record, which comes before; pairs with the Acquire in `value` and in `lower`.
            match self.0.compare_exchange(seen, raised, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Makes the number what `needed` finds to be needed of it, unless it was raised meanwhile.
    pub fn lower(&self, needed: impl FnOnce(u32) -> u32) {
        // Acquire: pairs with the AcqRel in `raise`: `needed` sees the claims whose raises are in the word.
        let seen = self.0.load(Ordering::Acquire);
        let lowered = seen & !0xffff_ffff | u64::from(needed(seen as u32));
        if lowered != seen {
            let _ = self.0.compare_exchange(seen, lowered, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

/// A bucket's marks. All-zero: no record of it was ever claimed.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C)]
pub struct Bucket {
    /// Which of its records may be in use, a bit for each.
    pub used: Mark,
    /// How many buckets from this one on may hold snapshots of the origins whose home this is.
    pub reach: Mark,
}

/// The home of an origin.
#[must_use]
pub const fn home_of(origin: Origin) -> usize {
    (origin.fingerprint() >> 32) as usize % BUCKETS
}

/// How many buckets lie between a bucket of the way of `home` and the next: an odd number, so that the way meets all buckets.
const fn step_of(home: usize) -> usize {
    (mix::mix(mix::SEED, home as u64) as usize % BUCKETS) | 1
}

/// The bucket that comes `distance` after `home` on its way.
#[must_use]
pub const fn behind(home: usize, distance: usize) -> usize {
    (home + distance * step_of(home)) % BUCKETS
}

/// At which distance `bucket` comes on the way of `home`.
#[must_use]
pub const fn distance_of(home: usize, bucket: usize) -> usize {
    let step = step_of(home);
    // The inverse of an odd number in arithmetic with 64 bits, which is that with fewer bits as well: each round doubles the number
    // of its bits that are right, which are three at first.
    let mut inverse = step;
    let mut round = 0;
    while round < 5 {
        inverse = inverse.wrapping_mul(2_usize.wrapping_sub(step.wrapping_mul(inverse)));
        round += 1;
    }
    (bucket + BUCKETS - home).wrapping_mul(inverse) % BUCKETS
}

/// The places of the bits that are set.
pub fn each_bit(bits: u32) -> impl Iterator<Item = usize> {
    let mut left = bits;
    core::iter::from_fn(move || {
        let at = left.trailing_zeros();
        left &= left.wrapping_sub(1);
        (at < u32::BITS).then_some(at as usize)
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_lowered_to_what_is_needed_unless_it_was_raised() {
        let mark = Mark(AtomicU64::new(0));
        mark.raise(|bits| bits | 0b101);
        mark.lower(|bits| bits & !1);
        assert_eq!(mark.value(), 0b100);
        mark.lower(|bits| {
            // A raise that changes nothing.
            mark.raise(|bits| bits);
            bits & !0b100
        });
        assert_eq!(mark.value(), 0b100);
        assert!(each_bit(0b1000_0101).eq([0, 2, 7]) && each_bit(0).next().is_none());
        assert_eq!(each_bit(u32::MAX).count(), 32);
    }

    #[test]
    fn the_way_of_each_home_meets_each_bucket_once() {
        for home in 0..BUCKETS {
            let mut is_met = [false; BUCKETS];
            for distance in 0..BUCKETS {
                let bucket = behind(home, distance);
                assert_eq!(distance_of(home, bucket), distance);
                assert!(!core::mem::replace(&mut is_met[bucket], true), "{home} {distance}");
            }
            assert_eq!(behind(home, 0), home);
        }
    }
}

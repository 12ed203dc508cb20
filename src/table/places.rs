//! Where snapshots stand in the table: claiming a record near its origin's home, and giving it back
//! ([`protocol::place`](crate::protocol::place)).

use super::Table;
use crate::protocol::holdings::Places;
use crate::protocol::origin::Origin;
use crate::protocol::place::{BUCKET, BUCKETS, Bucket, behind, distance_of, each_bit, home_of};
use crate::protocol::process_id::owner_index;
use crate::protocol::snapshot::{State, StateWord};
use crate::sys::sync::Ordering;

/// The indices of the records of bucket `bucket` that may be in use.
fn used(buckets: &[Bucket; BUCKETS], bucket: usize) -> impl Iterator<Item = u32> + use<> {
    each_bit(buckets[bucket].used.value()).map(move |at| (bucket * BUCKET + at) as u32)
}

impl Table {
    /// The indices of the records that may be in use.
    pub(crate) fn used_records(&self) -> impl Iterator<Item = u32> + use<'_> {
        (0..BUCKETS).flat_map(|bucket| used(&self.buckets, bucket))
    }

    /// The same of those in `places`.
    pub(crate) fn used_records_in(&self, places: Places) -> impl Iterator<Item = u32> + use<'_> {
        places.buckets().flat_map(|bucket| used(&self.buckets, bucket))
    }

    /// The indices of all records in `places`.
    pub(crate) fn records_in(places: Places) -> impl Iterator<Item = u32> {
        places.buckets().flat_map(|bucket| bucket * BUCKET..(bucket + 1) * BUCKET).map(|index| index as u32)
    }

    /// The indices of the records that may hold snapshots of `origin`, and perhaps of others.
    pub(super) fn records_near(&self, origin: Origin) -> impl Iterator<Item = u32> + use<'_> {
        let home = home_of(origin);
        let reach = self.buckets[home].reach.value() as usize;
        (0..reach.min(BUCKETS)).flat_map(move |distance| used(&self.buckets, behind(home, distance)))
    }

    /// A free snapshot record, claimed for a new incarnation that is to be one of `origin`.
    pub fn claim_snapshot(&self, claimer: u64, origin: Origin) -> Option<(u32, StateWord)> {
        let home = home_of(origin);
        let free =
            |distance| each_bit(!self.buckets[behind(home, distance)].used.value()).map(move |at| (distance, at));
        // A process that was killed may have left bits of records that are free. They are looked at last.
        let all = |distance| (0..BUCKET).map(move |at| (distance, at));
        let mut likely = (0..BUCKETS).flat_map(free);
        let mut rest = (0..BUCKETS).flat_map(all);
        let claim = |(distance, at)| self.claim_at(claimer, home, distance, at);
        likely.find_map(claim).or_else(|| rest.find_map(claim))
    }

    fn claim_at(&self, claimer: u64, home: usize, distance: usize, at: usize) -> Option<(u32, StateWord)> {
        let bucket = behind(home, distance);
        let index = bucket * BUCKET + at;
        let snapshot = &self.snapshots[index];
        if snapshot.head().state() != State::Free {
            return None;
        }
        if let Some(process) = owner_index(claimer).and_then(|index| self.process(index)) {
            process.holdings.note_snapshot(bucket);
        }
        let head = snapshot.claim(self.header.next_incarnation(), claimer & 0xffff_ffff)?;
        // The claim before the raise: a process that lowers the mark sees the one or the other.
        self.buckets[bucket].used.raise(|bits| bits | 1 << at);
        let reach = &self.buckets[home].reach;
        // The first bucket of a home stays in its reach.
        if distance > 0 || reach.value() == 0 {
            reach.raise(|reach| reach.max(distance as u32 + 1));
        }
        Some((index as u32, head))
    }

    /// Lowers the marks that record `index`, which is free, has raised.
    pub(crate) fn lower_marks(&self, index: u32) {
        let (bucket, at) = (index as usize / BUCKET, index as usize % BUCKET);
        let is_free = || self.snapshots[index as usize].head().state() == State::Free;
        self.buckets[bucket].used.lower(|bits| if is_free() { bits & !(1 << at) } else { bits });
        // What it was of last. A claim that was never published may have been of another origin: that one's reach stays as it is,
        // which costs a look, no more.
        let Some(origin) = self.snapshots[index as usize].origin() else { return };
        let home = home_of(origin);
        let distance = distance_of(home, bucket);
        let reach = &self.buckets[home].reach;
        if distance > 0 && reach.value() as usize == distance + 1 {
            reach.lower(|reach| self.reach_needed(home, reach));
        }
    }

    /// How far, up to `reach`, records of origins whose home is `home` are found.
    fn reach_needed(&self, home: usize, reach: u32) -> u32 {
        let is_needed = |index: u32| {
            let snapshot = &self.snapshots[index as usize];
            match snapshot.head().state() {
                State::Free => false,
                // Of which origin it will be is not to be seen yet.
                State::Claimed => true,
                _ => snapshot.origin().is_none_or(|origin| home_of(origin) == home),
            }
        };
        let is_empty = |distance: usize| !used(&self.buckets, behind(home, distance)).any(is_needed);
        let mut needed = (reach as usize).min(BUCKETS);
        while needed > 1 && is_empty(needed - 1) {
            needed -= 1;
        }
        needed as u32
    }

    /// Whether walks meet record `index`, which is a snapshot of `origin`; writers as well, if it `wants_writers`.
    pub(crate) fn is_met(&self, index: u32, origin: Origin, wants_writers: bool) -> bool {
        let (bucket, at) = (index as usize / BUCKET, index as usize % BUCKET);
        let home = home_of(origin);
        let distance = distance_of(home, bucket);
        // Acquire: as in `Walk::of`.
        let fingerprint = self.origin_fingerprints[index as usize].load(Ordering::Acquire);
        self.buckets[bucket].used.value() & 1 << at != 0
            && (!wants_writers
                || fingerprint == origin.fingerprint() && self.buckets[home].reach.value() as usize > distance)
    }
}

//! The marks that say where snapshots stand.

use loom::sync::Arc;
use loom::thread;
use snapshim::protocol::cause::Worth;
use snapshim::protocol::place::Bucket;
use snapshim::protocol::snapshot::{Extent, SegmentFlags, Snapshot, SnapshotMeta, State};

use super::world::{ORIGIN, model};

/// A record, the only one of its bucket, which is the third from its origin's home.
#[derive(Default)]
struct Place {
    record: Snapshot,
    bucket: Bucket,
    home: Bucket,
}

const DISTANCE: u32 = 2;

impl Place {
    fn claim_and_publish(&self, incarnation: u32) -> bool {
        let Some(head) = self.record.claim(incarnation, 1) else { return false };
        self.bucket.used.raise(|bits| bits | 1);
        self.home.reach.raise(|reach| reach.max(DISTANCE + 1));
        let meta = SnapshotMeta { origin: ORIGIN, owner: 1, size: 4096, base: 0, mapping: 1 };
        let extent = Extent { address: 4096, first: 0, pages: 1, protection: 3 };
        self.record.describe(head, &meta, &extent, SegmentFlags::NONE);
        self.record.publish(head, Worth::Exact);
        true
    }

    fn retire(&self, incarnation: u32) {
        self.record.retire(incarnation);
        let is_free = || self.record.head().state() == State::Free;
        self.bucket.used.lower(|bits| if is_free() { bits & !1 } else { bits });
        self.home.reach.lower(|reach| if is_free() { 1 } else { reach });
    }

    fn is_met(&self) -> bool {
        self.home.reach.value() > DISTANCE && self.bucket.used.value() & 1 == 1 && self.record.view().is_some()
    }
}

/// A snapshot ends, and its record is claimed for another, before the first one's marks are lowered.
#[test]
fn a_walk_meets_the_snapshot_that_took_the_record_of_another() {
    model(|| {
        let place = Arc::new(Place::default());
        assert!(place.claim_and_publish(1));
        let other = Arc::clone(&place);
        let mapper = thread::spawn(move || other.retire(1));
        thread::yield_now();
        if place.claim_and_publish(2) {
            assert!(place.is_met(), "a writer changes the file and preserves nothing");
        }
        mapper.join().unwrap();
        let is_there = place.record.head().state() == State::Exact;
        assert_eq!(place.is_met(), is_there);
    });
}

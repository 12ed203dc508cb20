//! Writes at a position that several threads move.

use loom::sync::Arc;
use loom::thread;
use snapshim::protocol::gate::{Call, CallFrame, UnplacedBytes};

use super::world::{ORIGIN, model};

const LENGTHS: [u64; 2] = [10, 100];

struct Shared {
    frames: [CallFrame; 2],
    unplaced: UnplacedBytes,
}

impl Shared {
    /// Whether writer `own` counts the other's bytes: before its call, or after it.
    fn counts_other(&self, own: usize) -> bool {
        let frame = &self.frames[own];
        let announcement = frame.announce(&Call { descriptor: 3, ..Call::default() });
        assert!(frame.pass(announcement));
        let announced = frame.announce_unplaced(ORIGIN, LENGTHS[own], &self.unplaced);
        let is_before = self.frames[1 - own].unplaced_on(ORIGIN) == LENGTHS[1 - own];
        // The call is made here, and takes until the other's is over.
        while self.unplaced.announced() < LENGTHS[0] + LENGTHS[1] {
            thread::yield_now();
        }
        is_before || self.unplaced.announced() > announced
    }
}

#[test]
fn of_two_writers_at_one_position_each_counts_the_other() {
    model(|| {
        let shared = Arc::new(Shared {
            frames: [CallFrame::default(), CallFrame::default()],
            unplaced: UnplacedBytes::default(),
        });
        let other = Arc::clone(&shared);
        let writer = thread::spawn(move || other.counts_other(1));
        assert!(shared.counts_other(0));
        assert!(writer.join().unwrap());
    });
}

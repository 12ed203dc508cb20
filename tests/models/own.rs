//! What the threads of one process know of each other.

use loom::sync::Arc;
use loom::thread;
use snapshim::preserve::holdings::Holdings;
use snapshim::queues::Queues;

use super::world::model;

const PAGE: u64 = 4096;

/// One thread unmaps the middle of what another looks for the end of.
#[test]
fn what_is_kept_of_a_range_never_seems_not_to_be_held() {
    model(|| {
        let holdings = Arc::new(Holdings::new());
        assert!(holdings.add(&(PAGE..9 * PAGE)));
        let other = Arc::clone(&holdings);
        let unmapper = thread::spawn(move || other.remove(&(4 * PAGE..5 * PAGE)));
        assert!(holdings.contains(&(6 * PAGE..8 * PAGE)));
        assert!(holdings.contains(&(2 * PAGE..3 * PAGE)));
        unmapper.join().unwrap();
        assert!(!holdings.contains(&(4 * PAGE..6 * PAGE)));
    });
}

/// A context is destroyed and another takes its entry, while a thread that has found the entry before submits.
#[test]
fn what_is_submitted_to_a_context_that_is_gone_counts_for_no_other() {
    const GONE: u64 = 4096;
    const NEXT: u64 = 8192;
    model(|| {
        let queues = Arc::new(Queues::new());
        queues.open(GONE);
        let other = Arc::clone(&queues);
        let submitter = thread::spawn(move || {
            if let Some(queue) = other.of(GONE)
                && queue.begin(GONE)
            {
                queue.end(1);
            }
        });
        if let Some(queue) = queues.start_close(GONE) {
            queue.finish_close(GONE, true);
        }
        queues.open(NEXT);
        submitter.join().unwrap();
        assert!(queues.of(NEXT).is_none_or(|queue| queue.taken() == 0));
    });
}

//! What the threads of one process know of each other.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use snapshim::protocol::aio_queues::Queues;
use snapshim::protocol::gate::CallFrame;
use snapshim::protocol::own_ranges::OwnRanges;

use super::world::model;

const PAGE: u64 = 4096;

/// One thread unmaps the middle of a range, and another looks for one of its ends.
#[test]
fn what_is_kept_of_a_range_never_seems_not_to_be_held() {
    for (end, goes_first) in [(2, false), (2, true), (6, false), (6, true)] {
        model(move || {
            let own_ranges = Arc::new(OwnRanges::default());
            assert!(own_ranges.add(&(PAGE..9 * PAGE), 1));
            let other = Arc::clone(&own_ranges);
            let looker = thread::spawn(move || {
                if goes_first {
                    thread::yield_now();
                }
                other.contains(&(end * PAGE..(end + 1) * PAGE))
            });
            own_ranges.remove(&(4 * PAGE..5 * PAGE));
            assert!(looker.join().unwrap());
            assert!(!own_ranges.contains(&(4 * PAGE..6 * PAGE)));
        });
    }
}

/// A context is destroyed and another takes its entry, while a thread that has found the entry before submits.
#[test]
fn what_is_submitted_to_a_context_that_is_gone_counts_for_no_other() {
    const GONE: u64 = 4096;
    const NEXT: u64 = 8192;
    model(|| {
        let queues = Arc::new(Queues::default());
        queues.open(GONE);
        let other = Arc::clone(&queues);
        let submitter = thread::spawn(move || {
            if let Some(queue) = other.of(GONE)
                && queue.begin(GONE)
            {
                queue.end(1);
            }
        });
        if let Some(closing) = queues.start_close(GONE) {
            closing.finish(true);
        }
        queues.open(NEXT);
        submitter.join().unwrap();
        assert!(queues.of(NEXT).is_none_or(|queue| queue.taken() == 0));
    });
}

/// A context is gone, and another context of its name is being destroyed, before the end of the first is noted.
#[test]
fn the_end_of_a_context_is_not_taken_for_that_of_a_later_one() {
    const NAME: u64 = 4096;
    model(|| {
        let queues = Arc::new((Queues::default(), AtomicBool::new(false)));
        queues.0.open(NAME);
        let other = Arc::clone(&queues);
        let first = thread::spawn(move || {
            let closing = other.0.start_close(NAME).expect("nobody else closes it");
            other.1.store(true, Ordering::Release);
            closing.finish(true);
        });
        while !queues.1.load(Ordering::Acquire) {
            thread::yield_now();
        }
        queues.0.open(NAME);
        let closing = queues.0.start_close(NAME).expect("it has just been made");
        first.join().unwrap();
        assert!(queues.0.of(NAME).is_some());
        closing.finish(true);
        assert!(queues.0.of(NAME).is_none());
    });
}

/// A handler comes while a call takes a frame. It switches to another stack, where a call takes a frame as well, and either call is
/// suspended.
#[test]
fn calls_on_two_stacks_of_one_thread_have_a_frame_each() {
    model(|| {
        let frame = Arc::new(CallFrame::default());
        let other = Arc::clone(&frame);
        let suspended = thread::spawn(move || other.take(1));
        let is_taken = frame.take(2);
        assert!(is_taken != suspended.join().unwrap());
        assert!(frame.is_in_use());
    });
}

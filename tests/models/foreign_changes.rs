//! A file that is watched: cooperating changes are counted, others raise doubt.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use snapshim::protocol::changes::{Changes, Modified, Observation, observe};
use snapshim::protocol::gate::{Call, CallFrame};

use super::world::model;

/// A file that is watched: what a write does to its time of modification, and which writes are announced.
struct Watched {
    frame: CallFrame,
    changes: Changes,
    modified: AtomicU64,
}

impl Watched {
    fn new() -> Arc<Self> {
        Arc::new(Self { frame: CallFrame::default(), changes: Changes::default(), modified: AtomicU64::new(0) })
    }

    fn write(&self) {
        let announcement = self.frame.announce(&Call { descriptor: 3, ..Call::default() });
        assert!(self.frame.pass(announcement));
        self.changes.note();
        self.change();
        self.frame.clear(announcement);
    }

    /// What the kernel does.
    fn change(&self) {
        self.modified.fetch_add(1, Ordering::Relaxed);
    }

    fn observe(&self) -> Option<Observation> {
        let is_quiet = || !self.frame.load().0.is_under_way();
        observe(&self.changes, is_quiet, || Some(Modified { time: self.modified.load(Ordering::Relaxed), size: 0 }))
    }
}

#[test]
fn no_look_tells_on_a_writer_that_cooperates() {
    model(|| {
        let watched = Watched::new();
        let other = Arc::clone(&watched);
        let writer = thread::spawn(move || {
            other.write();
            other.write();
        });
        let mut seen = Observation { counted: 0, file: Modified { time: 0, size: 0 } };
        for _ in 0..2 {
            if let Some(observation) = watched.observe() {
                assert!(!observation.indicates_foreign_change_since(&seen));
                seen = observation;
            }
        }
        writer.join().unwrap();
        let last = watched.observe().expect("nobody is under way");
        assert!(!last.indicates_foreign_change_since(&seen));
    });
}

#[test]
fn a_change_that_nobody_announced_is_told_on() {
    model(|| {
        let watched = Watched::new();
        watched.write();
        let seen = watched.observe().expect("nobody is under way");
        let other = Arc::clone(&watched);
        let foreigner = thread::spawn(move || other.change());
        let during = watched.observe().expect("nobody is under way");
        foreigner.join().unwrap();
        let after = watched.observe().expect("nobody is under way");
        assert!(during.indicates_foreign_change_since(&seen) || after.indicates_foreign_change_since(&during));
    });
}

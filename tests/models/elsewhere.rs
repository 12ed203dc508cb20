//! A call that a creation found to go elsewhere: what a descriptor's number means changes beside it.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;
use snapshim::protocol::cause::{Cause, Worth};
use snapshim::protocol::gate::{Call, CallFrame};
use snapshim::protocol::process::Process;
use snapshim::protocol::snapshot::State;
use snapshim::sys::sync::{Fault, planted};

use super::world::{NEW, NEXT, World, model};

/// What the number leads to.
const PIPE: u64 = 0;
const FILE: u64 = 1;
const NUMBER: u32 = 3;

struct Descriptors {
    world: Arc<World>,
    record: Process,
    number: AtomicU64,
}

impl Descriptors {
    fn new(leads_to: u64) -> Arc<Self> {
        let record = Process::default();
        assert!(record.claim(NEXT));
        Arc::new(Self { world: World::new(), record, number: AtomicU64::new(leads_to) })
    }

    fn frame(&self) -> &CallFrame {
        &self.world.frames[0]
    }

    /// A write that finds the active word down, and looks afterwards whether its number led to the same file all the time.
    fn write(&self) {
        let seen = self.record.descriptors_for_call(NUMBER);
        let frame = self.frame();
        let announcement = frame.announce(&Call { descriptor: NUMBER, descriptors_seen: seen, ..Call::default() });
        if self.world.active.is_raised() || !frame.pass(announcement) {
            frame.reclaim(announcement);
            return;
        }
        // The kernel takes the file that the number leads to, and writes to that one.
        if self.number.load(Ordering::Acquire) == FILE {
            self.world.file.store(NEW, Ordering::Relaxed);
        }
        // The call's return.
        fence(Ordering::SeqCst);
        let is_same = self.record.descriptors(NUMBER) == seen;
        if (!is_same || frame.is_relied_on()) && self.number.load(Ordering::Acquire) == FILE {
            for page in &self.world.pages {
                if let Some(view) = page.snapshot.view() {
                    page.snapshot.mark(view.head.incarnation(), Worth::Broken(Cause::WentElsewhere));
                }
            }
        }
        frame.clear(announcement);
    }

    /// Another file comes to the number. `is_counted`: a hook sees that.
    fn replace(&self, leads_to: u64, is_counted: bool) {
        if is_counted {
            self.record.begin_change(NUMBER);
        }
        self.number.store(leads_to, Ordering::Release);
        if is_counted {
            self.record.end_change(NUMBER);
        }
    }

    /// The wait for the write, as a creation makes it.
    fn drain(&self) {
        let frame = self.frame();
        loop {
            let (phase, announcement) = frame.load();
            if !phase.is_under_way() {
                return;
            }
            let seen = frame.descriptor().1;
            let is_same = || self.record.descriptors(NUMBER) == seen || planted(Fault::DescriptorCount);
            if frame.is_noted_elsewhere(announcement) && is_same() {
                return;
            }
            let is_pipe = self.number.load(Ordering::Acquire) == PIPE;
            fence(Ordering::Acquire);
            if is_pipe && is_same() {
                frame.note_elsewhere(announcement);
                if frame.is_at(announcement) {
                    return;
                }
            }
            thread::yield_now();
        }
    }

    /// A snapshot in page `at`. The result is what it has to show.
    fn make_snapshot(&self, at: usize) -> u64 {
        self.world.active.raise();
        self.drain();
        let instant = self.world.file.load(Ordering::Relaxed);
        self.world.pages[at].publish(at as u32 + 1);
        // The commit.
        fence(Ordering::SeqCst);
        instant
    }

    fn is_right(&self, at: usize, instant: u64) -> bool {
        let is_exact = self.world.pages[at].snapshot.view().is_some_and(|view| view.head.state() == State::Exact);
        !is_exact || self.world.file.load(Ordering::Relaxed) == instant
    }
}

/// The file comes to the number after one creation has looked and before the next, which believes the first.
#[test]
fn a_creation_that_believes_an_earlier_one_is_right_or_its_snapshot_breaks() {
    for is_counted in [true, false] {
        model(move || {
            let all = Descriptors::new(PIPE);
            let (first, second) = (Arc::clone(&all), Arc::clone(&all));
            let writer = thread::spawn(move || first.write());
            let before = all.make_snapshot(0);
            let other = thread::spawn(move || second.replace(FILE, is_counted));
            let after = all.make_snapshot(1);
            writer.join().unwrap();
            other.join().unwrap();
            assert!(all.is_right(0, before) && all.is_right(1, after));
        });
    }
}

/// The call has taken the file when the number comes to lead to a pipe.
#[test]
fn a_number_that_led_to_the_file_before_tells_nothing() {
    model(|| {
        let all = Descriptors::new(FILE);
        let (first, second) = (Arc::clone(&all), Arc::clone(&all));
        let writer = thread::spawn(move || first.write());
        let other = thread::spawn(move || second.replace(PIPE, true));
        let instant = all.make_snapshot(0);
        writer.join().unwrap();
        other.join().unwrap();
        assert!(all.is_right(0, instant));
    });
}

//! A mapper changes its mapping while others push into it.

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use rustix::io::Errno;
use snapshim::protocol::bytes::{Found, Run, make_private};
use snapshim::protocol::cause::{Cause, Worth};
use snapshim::protocol::gate::{ActiveWord, Call, CallFrame};
use snapshim::protocol::snapshot::{Extent, SegmentFlags, Snapshot, SnapshotMeta, Splits, StateWord, View};
use snapshim::sys::sync::{Fault, planted};

use super::world::{ORIGIN, model, model_within};

/// What the kernel knows of two addresses of a mapper: whether the page there is private. It is changed under one lock.
struct Kernel {
    private: Mutex<[bool; 2]>,
}

const FIRST: u64 = 0;
const SECOND: u64 = 4096;

struct Mapping {
    snapshot: Snapshot,
    frame: CallFrame,
    kernel: Kernel,
    bit: AtomicU64,
    changed: AtomicU64,
}

impl Mapping {
    fn new() -> Arc<Self> {
        let mapping = Self {
            snapshot: Snapshot::default(),
            frame: CallFrame::default(),
            kernel: Kernel { private: Mutex::new([false, false]) },
            bit: AtomicU64::new(0),
            changed: AtomicU64::new(0),
        };
        let head = mapping.snapshot.claim(1, 1).expect("free");
        let meta = SnapshotMeta { origin: ORIGIN, owner: 1, size: 4096, base: 0, mapping: 1 };
        mapping.snapshot.describe(head, &meta, &extent(FIRST), SegmentFlags::NONE);
        mapping.snapshot.publish(head, Worth::Exact);
        Arc::new(mapping)
    }

    /// What a writer does before its change lands.
    fn preserve_and_change(&self) {
        let announcement = self.frame.announce(&Call { descriptor: 3, ..Call::default() });
        assert!(self.frame.pass(announcement));
        while self.bit.load(Ordering::Acquire) == 0 {
            let Some(view) = self.snapshot.view() else { break };
            if view.head.is_changing() || !self.push(view.head, view.extent.address) {
                thread::yield_now();
            }
        }
        self.changed.store(1, Ordering::Relaxed);
        self.frame.clear(announcement);
    }

    fn push(&self, head: StateWord, address: u64) -> bool {
        self.frame.start_pushing(0, false);
        let mut done = false;
        if self.snapshot.is_still(head) {
            let at = (address / 4096) as usize;
            self.kernel.private.lock().unwrap()[at] = true;
            let private = self.kernel.private.lock().unwrap()[at];
            if private && self.snapshot.is_still(head) {
                self.bit.store(1, Ordering::Release);
                done = true;
            }
        }
        self.frame.stop_pushing();
        done
    }

    fn lies_at(&self) -> usize {
        (self.snapshot.view().expect("live").extent.address / 4096) as usize
    }
}

fn extent(address: u64) -> Extent {
    Extent { address, first: 0, pages: 1, protection: 3 }
}

#[test]
fn a_push_into_a_mapping_that_moves_reaches_it() {
    model(|| {
        let mapping = Mapping::new();
        let other = Arc::clone(&mapping);
        let writer = thread::spawn(move || other.preserve_and_change());
        // mremap(2): the page goes along with its privacy, and something else comes to lie where it was.
        mapping.snapshot.begin_change(1).expect("nobody else changes it");
        {
            let mut private = mapping.kernel.private.lock().unwrap();
            private[1] = private[0];
            private[0] = true;
        }
        mapping.snapshot.set_extent(&extent(SECOND));
        mapping.snapshot.end_change();
        writer.join().unwrap();
        assert_eq!(mapping.changed.load(Ordering::Relaxed), 1);
        assert!(
            mapping.kernel.private.lock().unwrap()[mapping.lies_at()],
            "the file changed, the snapshot shares its page"
        );
    });
}

#[test]
fn a_drop_never_takes_a_preserved_page() {
    model(|| {
        let mapping = Mapping::new();
        let other = Arc::clone(&mapping);
        let writer = thread::spawn(move || other.preserve_and_change());
        // madvise(MADV_DONTNEED): a page that has no bit is dropped.
        mapping.snapshot.begin_change(1).expect("nobody else changes it");
        while mapping.frame.is_pushing(0, false) && !planted(Fault::PusherDrain) {
            thread::yield_now();
        }
        if mapping.bit.load(Ordering::Acquire) == 0 {
            mapping.kernel.private.lock().unwrap()[0] = false;
        }
        mapping.snapshot.end_change();
        writer.join().unwrap();
        assert!(mapping.kernel.private.lock().unwrap()[0], "the file changed, the snapshot shares its page");
    });
}

/// A snapshot of two pages, in the back record. Its second page is split off into the front record, which a walk comes to first.
struct Segments {
    front: Snapshot,
    back: Snapshot,
    splits: Splits,
    active: ActiveWord,
}

const WHOLE: Extent = Extent { address: 4096, first: 0, pages: 2, protection: 3 };
const SPLIT_OFF: Extent = Extent { address: 8192, first: 1, pages: 1, protection: 3 };

impl Segments {
    fn new() -> Arc<Self> {
        let segments = Self {
            front: Snapshot::default(),
            back: Snapshot::default(),
            splits: Splits::default(),
            active: ActiveWord::default(),
        };
        segments.active.raise();
        let head = segments.back.claim(1, 1).expect("free");
        segments.back.describe(head, &Self::meta(), &WHOLE, SegmentFlags::NONE);
        segments.back.publish(head, Worth::Exact);
        Arc::new(segments)
    }

    fn meta() -> SnapshotMeta {
        SnapshotMeta { origin: ORIGIN, owner: 1, size: 8192, base: 0, mapping: 1 }
    }

    /// What a mapper does that changes only a part.
    fn split(&self) {
        // A mark can come in between.
        while self.back.begin_change(1).is_none() {}
        let before = self.back.view().expect("live").head;
        let head = self.front.claim(2, 1).expect("free");
        self.front.describe(head, &Self::meta(), &SPLIT_OFF, SegmentFlags::NONE);
        self.front.publish(head, before.worth());
        if let Some(worse) = self.splits.note(&self.active, &self.back, before.state()) {
            self.front.mark(2, worse);
        }
        self.back.set_extent(&Extent { pages: 1, ..WHOLE });
    }

    /// What a mapper does that gives a part up.
    fn split_and_retire(&self) {
        self.split();
        self.back.retire(1);
    }

    fn walk(&self) -> impl Iterator<Item = (&Snapshot, View)> {
        [&self.front, &self.back].into_iter().filter_map(|segment| Some((segment, segment.view()?)))
    }
}

#[test]
fn a_walk_meets_the_segment_that_is_split_off() {
    model(|| {
        let segments = Segments::new();
        let other = Arc::clone(&segments);
        let mapper = thread::spawn(move || {
            other.split();
            other.back.end_change();
        });
        thread::yield_now();
        let mut reached = [false; 2];
        segments.splits.over(|| -> Option<()> {
            for segment in [&segments.front, &segments.back] {
                // The writer waits for the mapper where a segment is changing.
                let view = loop {
                    match segment.view() {
                        Some(view) if view.head.is_changing() => thread::yield_now(),
                        view => break view,
                    }
                };
                for page in view.map_or(0..0, |view| view.extent.first..view.extent.first + view.extent.pages) {
                    reached[page as usize] = true;
                }
            }
            None
        });
        mapper.join().unwrap();
        assert_eq!(reached, [true; 2]);
    });
}

#[test]
fn an_origin_is_in_use_while_its_snapshot_is_split() {
    model(|| {
        let segments = Segments::new();
        let other = Arc::clone(&segments);
        let mapper = thread::spawn(move || other.split_and_retire());
        thread::yield_now();
        let found = segments.splits.over(|| segments.walk().next().map(|(_, view)| view.meta.origin));
        mapper.join().unwrap();
        assert_eq!(found, Some(ORIGIN), "a writer changes the file and preserves nothing");
    });
}

/// The walk is a single one here: only the raise keeps the flag up.
#[test]
fn the_flag_stays_up_while_the_only_snapshot_is_split() {
    model(|| {
        let segments = Segments::new();
        let other = Arc::clone(&segments);
        let mapper = thread::spawn(move || other.split_and_retire());
        thread::yield_now();
        segments.active.lower_if(|| segments.walk().next().is_none());
        mapper.join().unwrap();
        assert!(segments.active.is_raised());
    });
}

#[test]
fn a_doubt_reaches_the_segment_that_is_split_off() {
    model(|| {
        let segments = Segments::new();
        let other = Arc::clone(&segments);
        let mapper = thread::spawn(move || other.split_and_retire());
        thread::yield_now();
        segments.splits.over(|| -> Option<()> {
            for (segment, view) in segments.walk() {
                segment.mark(view.head.incarnation(), Worth::Doubtful(Cause::Unseen));
            }
            None
        });
        mapper.join().unwrap();
        let left = segments.front.view().expect("live").head.worth();
        assert_eq!(left, Worth::Doubtful(Cause::Unseen), "the snapshot shows what was doubted, and says exact");
    });
}

/// A process that asks why meets the cause of the state that it has found, whatever the mapper does meanwhile.
#[test]
fn a_state_and_its_cause_are_of_one_mark() {
    model(|| {
        let segments = Segments::new();
        let marks = [Worth::Doubtful(Cause::Ring), Worth::Doubtful(Cause::Alias), Worth::Broken(Cause::NoMemory)];
        let [ring, alias, memory] = marks;
        let mark = |worth| {
            let other = Arc::clone(&segments);
            thread::spawn(move || other.back.mark(1, worth))
        };
        let (first, second) = (mark(ring), mark(memory));
        if segments.back.begin_change(1).is_some() {
            segments.back.end_change();
        }
        let marked = segments.back.mark(1, alias);
        let found = segments.back.head().worth();
        assert!(marks.contains(&found), "{found:?}");
        let (first, second) = (first.join().unwrap(), second.join().unwrap());
        assert!(second && !(first && marked), "two made it doubtful");
        assert_eq!(segments.back.head().worth(), memory);
    });
}

/// A record whose snapshot ends, and which the next snapshot takes.
#[test]
fn what_is_seen_of_a_snapshot_is_of_one_life() {
    // Many loads: the fault needs no more than two preemptions.
    model_within(2, || {
        let record = Arc::new(Snapshot::default());
        let take = |record: &Snapshot, incarnation: u32| {
            let (size, address) = (u64::from(incarnation) * 4096, u64::from(incarnation) * 4096);
            let meta = SnapshotMeta { origin: ORIGIN, owner: 1, size, base: 0, mapping: u64::from(incarnation) };
            let head = record.claim(incarnation, 1).expect("free");
            record.describe(head, &meta, &Extent { address, first: 0, pages: 1, protection: 3 }, SegmentFlags::NONE);
            record.publish(head, Worth::Exact);
        };
        take(&record, 1);
        let other = Arc::clone(&record);
        let mapper = thread::spawn(move || {
            other.retire(1);
            take(&other, 2);
        });
        if let Some(view) = record.view() {
            let incarnation = u64::from(view.head.incarnation());
            assert_eq!((view.meta.mapping, view.meta.size), (incarnation, incarnation * 4096));
            assert_eq!(view.extent.address, incarnation * 4096);
        }
        mapper.join().unwrap();
    });
}

/// One page of a file and of a read-only snapshot of it.
struct ReadOnly {
    file: Mutex<u8>,
    private: Mutex<Option<u8>>,
}

const BEFORE: u8 = 1;
const AFTER: u8 = 2;

impl ReadOnly {
    /// What a writer does before its change lands.
    fn preserve_and_change(&self) {
        assert_eq!(make_private(self), Ok(1));
        *self.file.lock().unwrap() = AFTER;
    }
}

impl Run for ReadOnly {
    fn len(&self) -> usize {
        1
    }

    /// The kernel pins the page that lies there, and copies from it later.
    fn read(&self, bytes: &mut [u8]) -> Result<(), Errno> {
        let pinned = *self.private.lock().unwrap();
        bytes[0] = pinned.unwrap_or_else(|| *self.file.lock().unwrap());
        Ok(())
    }

    fn check(&self, found: &mut [Found]) -> Result<(), Errno> {
        found[0] = if self.private.lock().unwrap().is_some() { Found::Private } else { Found::Shared };
        Ok(())
    }

    fn store(&self, _first: usize, bytes: &[u8]) -> Result<usize, Errno> {
        *self.private.lock().unwrap() = Some(bytes[0]);
        Ok(1)
    }
}

#[test]
fn a_byte_that_was_pinned_before_a_change_and_copied_after_it_is_not_stored() {
    model(|| {
        let page = Arc::new(ReadOnly { file: Mutex::new(BEFORE), private: Mutex::new(None) });
        let other = Arc::clone(&page);
        let writer = thread::spawn(move || other.preserve_and_change());
        page.preserve_and_change();
        writer.join().unwrap();
        assert_eq!(*page.private.lock().unwrap(), Some(BEFORE), "the snapshot shows what came after it");
    });
}

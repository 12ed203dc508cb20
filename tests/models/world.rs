//! What models share: one file with an old and a new content, writers of it, and snapshots of its one page.

use std::cell::Cell;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use snapshim::protocol::cause::Worth;
use snapshim::protocol::creation::{Creations, Intent, Intents, Scope, Ticket};
use snapshim::protocol::gate::{ActiveWord, Call, CallFrame, Entry, Gate, Writer};
use snapshim::protocol::origin::{Origin, Target};
use snapshim::protocol::process_id::ProcessId;
use snapshim::protocol::snapshot::{Extent, SegmentFlags, Snapshot, SnapshotMeta};
use snapshim::sys::sync::{Fault, planted};

pub const ORIGIN: Origin = Origin::file(1, 2);
pub const OLD: u64 = 10;
pub const NEW: u64 = 11;

pub const DEAD: ProcessId = ProcessId::new(100, 1);
pub const NEXT: ProcessId = ProcessId::new(101, 2);

/// Up to three preemptions.
///
/// Of each object loom remembers the last access only. So a thread that loads and then exchanges hides from loom that another
/// thread loaded before. Where that is so, the first thread yields before its part, so that the part of the second one is
/// interrupted.
pub fn model(body: impl Fn() + Sync + Send + 'static) {
    model_within(3, body);
}

/// Every interleaving with at most so many preemptions.
pub fn model_within(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(body);
}

/// One page of one snapshot: the copy that a push makes, and whether it was made.
pub struct Page {
    pub snapshot: Snapshot,
    pub copy: AtomicU64,
    pub preserved: AtomicU64,
}

impl Page {
    pub fn new() -> Self {
        Self { snapshot: Snapshot::default(), copy: AtomicU64::new(0), preserved: AtomicU64::new(0) }
    }

    pub fn publish(&self, incarnation: u32) {
        let head = self.snapshot.claim(incarnation, 1).expect("free");
        let meta = SnapshotMeta { origin: ORIGIN, owner: 1, size: 4096, base: 0, mapping: 1 };
        let extent = Extent { address: 4096, first: 0, pages: 1, protection: 3 };
        self.snapshot.describe(head, &meta, &extent, SegmentFlags::NONE);
        self.snapshot.publish(head, Worth::Exact);
    }

    pub fn push(&self, file: &AtomicU64) {
        if self.snapshot.view().is_some_and(|view| view.head.wants_pages())
            && self.preserved.load(Ordering::Acquire) == 0
        {
            self.copy.store(file.load(Ordering::Relaxed), Ordering::Relaxed);
            self.preserved.store(1, Ordering::Release);
        }
    }

    pub fn shows(&self, file: &AtomicU64) -> u64 {
        if self.preserved.load(Ordering::Acquire) == 1 {
            self.copy.load(Ordering::Relaxed)
        } else {
            file.load(Ordering::Relaxed)
        }
    }
}

/// The table, as far as a model needs it. `pages[0]` is the parent's, `pages[1]` the child's.
pub struct World {
    pub active: ActiveWord,
    pub creations: Creations,
    /// Of each creator, by its slot.
    pub intents: [Intent; 2],
    pub frames: [CallFrame; 2],
    pub pages: [Page; 2],
    pub file: AtomicU64,
}

impl Intents for World {
    fn intent(&self, owner: u16) -> Option<&Intent> {
        self.intents.get(usize::from(owner))
    }

    fn is_held(&self, _owner: u16, origin: Origin) -> bool {
        origin == ORIGIN && self.pages[0].snapshot.view().is_some()
    }

    fn is_in_group(&self, _owner: u16, _origin: Origin) -> bool {
        false
    }
}

impl World {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            active: ActiveWord::default(),
            creations: Creations::default(),
            intents: [Intent::default(), Intent::default()],
            frames: [CallFrame::default(), CallFrame::default()],
            pages: [Page::new(), Page::new()],
            file: AtomicU64::new(OLD),
        })
    }

    pub fn gate(&self) -> Gate<'_, Self> {
        Gate { active: &self.active, creations: &self.creations, intents: self }
    }

    /// A whole write in frame `depth`.
    pub fn write(&self, depth: usize, value: u64, writer: &impl Writer) {
        let frame = &self.frames[depth];
        let (entry, announcement) =
            self.gate().enter(frame, &self.frames[..depth], Call { descriptor: 3, ..Call::default() }, writer);
        if entry != Entry::Free {
            for page in &self.pages {
                page.push(&self.file);
            }
        }
        self.file.store(value, Ordering::Relaxed);
        frame.clear(announcement);
    }

    pub fn drain(&self) {
        if planted(Fault::Drain) {
            return;
        }
        for frame in &self.frames {
            while frame.load().0.is_under_way() {
                thread::yield_now();
            }
        }
    }

    /// Proposes a creation by creator `owner`.
    pub fn propose(&self, owner: u16, scope: Scope) -> Ticket {
        self.intents[usize::from(owner)].declare(scope, 0);
        let ticket = self.creations.claim(owner).expect("a free record");
        self.active.raise();
        ticket
    }

    pub fn collect(&self, scope: Scope) -> Ticket {
        let ticket = self.propose(0, scope);
        let ticket = self.creations.settle(ticket).unwrap_or(ticket);
        self.drain();
        ticket
    }
}

impl World {
    /// The instant of a creation whose writers are drained: the snapshot is published and committed. The content of the file then.
    pub fn take(&self, ticket: Ticket) -> u64 {
        let instant = self.file.load(Ordering::Relaxed);
        self.pages[0].publish(1);
        assert!(self.creations.commit(ticket));
        self.creations.release(ticket);
        instant
    }

    /// Ends every creation under way in the place of its owner.
    pub fn end_all(&self) {
        self.creations.under_way().for_each(|seen| self.creations.end(seen));
    }
}

/// A writer that waits for creations as long as they take, or aborts them at once. A handler may run when it looks at its
/// descriptor.
pub struct Thread<'a> {
    pub world: &'a World,
    pub aborts: bool,
    pub handler: Cell<Option<u64>>,
}

impl Writer for Thread<'_> {
    fn target(&self, _descriptor: u32) -> Target {
        if let Some(value) = self.handler.take() {
            self.world.write(1, value, &Thread { world: self.world, aborts: self.aborts, handler: Cell::new(None) });
        }
        Target::Origin(ORIGIN)
    }

    fn target_since(&self, descriptor: u32, _seen: u32) -> Target {
        self.target(descriptor)
    }

    fn unplaced(&self) -> u64 {
        0
    }

    fn wait_for(&self, seen: Ticket) {
        if self.aborts && self.world.creations.abort(seen) {
            return;
        }
        while self.world.creations.is(seen) {
            thread::yield_now();
        }
    }
}

pub fn spawn_writer(world: &Arc<World>, aborts: bool, handler: Option<u64>) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || {
        let writer = Thread { world: &world, aborts, handler: Cell::new(handler) };
        world.write(0, NEW, &writer);
    })
}

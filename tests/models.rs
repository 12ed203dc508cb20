//! Models of the state machine: every interleaving (bounded) of the parties, on the code that the library runs.
//!
//! Run by `make models`; `make planted` runs each again with one step of the protocol left out and wants it to fail.

#![cfg(loom)]

use std::cell::Cell;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use snapshim::creation::{Creation, Intent, Intents, Scope, Ticket};
use snapshim::foreign::{Changes, Modified, Sight, look};
use snapshim::gate::{ActiveWord, Call, Entry, Frame, Gate, Phase, Writer};
use snapshim::origin::{Origin, Place};
use snapshim::preserved::{Bits, Block, Pool};
use snapshim::sharing::Sharing;
use snapshim::snapshot::{Extent, Head, Identity, Snapshot, State};
use snapshim::sync::{Fault, planted};
use snapshim::table::process::{Birth, Dead, Process, ProcessId};
use snapshim::table::writer::{Answer, Request, Task, WriterSlot, slot_owner};

const ORIGIN: Origin = Origin::file(1, 2);
const OLD: u64 = 10;
const NEW: u64 = 11;

fn model(body: impl Fn() + Sync + Send + 'static) {
    model_within(3, body);
}

/// Every interleaving with so many preemptions at the most.
fn model_within(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(body);
}

/// One page of one snapshot: the copy that a push makes, and whether it was made.
struct Page {
    snapshot: Snapshot,
    copy: AtomicU64,
    preserved: AtomicU64,
}

impl Page {
    fn new() -> Self {
        Self { snapshot: Snapshot::new(), copy: AtomicU64::new(0), preserved: AtomicU64::new(0) }
    }

    fn publish(&self, life: u32) {
        let head = self.snapshot.claim(life, 1).expect("free");
        let identity = Identity { origin: ORIGIN, owner: 1, size: 4096, base: 0, mapping: 1 };
        let extent = Extent { address: 4096, first: 0, pages: 1, protection: 3 };
        self.snapshot.describe(head, &identity, &extent, 0);
        self.snapshot.publish(head, State::Exact);
    }

    fn push(&self, file: &AtomicU64) {
        if self.snapshot.view().is_some_and(|view| view.head.wants_pages())
            && self.preserved.load(Ordering::Acquire) == 0
        {
            self.copy.store(file.load(Ordering::Relaxed), Ordering::Relaxed);
            self.preserved.store(1, Ordering::Release);
        }
    }

    fn shows(&self, file: &AtomicU64) -> u64 {
        if self.preserved.load(Ordering::Acquire) == 1 {
            self.copy.load(Ordering::Relaxed)
        } else {
            file.load(Ordering::Relaxed)
        }
    }
}

/// The table, as far as a model needs it. `pages[0]` is the parent's, `pages[1]` the child's.
struct World {
    active: ActiveWord,
    creation: Creation,
    intent: Intent,
    frames: [Frame; 2],
    pages: [Page; 2],
    file: AtomicU64,
}

impl Intents for World {
    fn intent(&self, _owner: u16) -> Option<&Intent> {
        Some(&self.intent)
    }
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            active: ActiveWord::new(),
            creation: Creation::new(),
            intent: Intent::new(),
            frames: [Frame::new(), Frame::new()],
            pages: [Page::new(), Page::new()],
            file: AtomicU64::new(OLD),
        })
    }

    fn gate(&self) -> Gate<'_, Self> {
        Gate { active: &self.active, creation: &self.creation, intents: self }
    }

    /// A whole write in frame `depth`.
    fn write(&self, depth: usize, value: u64, writer: &impl Writer) {
        let frame = &self.frames[depth];
        let (entry, turn) =
            self.gate().enter(frame, &self.frames[..depth], Call { descriptor: 3, ..Call::default() }, writer);
        if entry != Entry::Free {
            for page in &self.pages {
                page.push(&self.file);
            }
        }
        self.file.store(value, Ordering::Relaxed);
        frame.clear(turn);
    }

    fn drain(&self) {
        if planted(Fault::Drain) {
            return;
        }
        for frame in &self.frames {
            while frame.look().0.is_under_way() {
                thread::yield_now();
            }
        }
    }

    fn collect(&self, scope: Scope) -> Ticket {
        self.intent.declare(scope, 0);
        let ticket = self.creation.claim(0).expect("one creator");
        self.active.raise();
        self.drain();
        ticket
    }
}

/// A writer that waits for creations as they take, or aborts them at once; a handler may run when it looks at its descriptor.
struct Thread<'a> {
    world: &'a World,
    aborts: bool,
    handler: Cell<Option<u64>>,
}

impl Writer for Thread<'_> {
    fn place(&self, _descriptor: u32) -> Place {
        if let Some(value) = self.handler.take() {
            self.world.write(1, value, &Thread { world: self.world, aborts: self.aborts, handler: Cell::new(None) });
        }
        Place::Origin(ORIGIN)
    }

    fn floating(&self) -> u64 {
        0
    }

    fn wait_for(&self, seen: Ticket) {
        if self.aborts && self.world.creation.abort(seen) {
            return;
        }
        while self.world.creation.look() == seen {
            thread::yield_now();
        }
    }
}

fn spawn_writer(world: &Arc<World>, aborts: bool, handler: Option<u64>) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || {
        let writer = Thread { world: &world, aborts, handler: Cell::new(handler) };
        world.write(0, NEW, &writer);
    })
}

#[test]
fn a_write_is_before_the_instant_or_preserved() {
    model(|| {
        let world = World::new();
        let writer = spawn_writer(&world, false, None);
        let ticket = world.collect(Scope::One(ORIGIN));
        let instant = world.file.load(Ordering::Relaxed);
        world.pages[0].publish(1);
        assert!(world.creation.commit(ticket));
        world.creation.release(ticket);
        writer.join().unwrap();
        assert_eq!(world.pages[0].shows(&world.file), instant);
    });
}

#[test]
fn commit_and_abort_exclude_each_other() {
    model(|| {
        let world = World::new();
        let writer = spawn_writer(&world, true, None);
        let ticket = world.collect(Scope::One(ORIGIN));
        let instant = world.file.load(Ordering::Relaxed);
        world.pages[0].publish(1);
        let committed = world.creation.commit(ticket);
        world.creation.release(ticket);
        writer.join().unwrap();
        if committed {
            assert_eq!(world.pages[0].shows(&world.file), instant);
        }
        assert!(!world.creation.look().is_busy());
    });
}

#[test]
fn an_aborted_creation_stays_aborted() {
    model(|| {
        let world = World::new();
        world.intent.declare(Scope::One(ORIGIN), 0);
        let ticket = world.creation.claim(0).expect("free");
        let other = Arc::clone(&world);
        let aborter = thread::spawn(move || other.creation.abort(ticket));
        let committed = world.creation.commit(ticket);
        assert_ne!(committed, aborter.join().unwrap());
    });
}

#[test]
fn a_handler_that_writes_inside_a_write_neither_deadlocks_nor_is_missed() {
    model(|| {
        let world = World::new();
        // The flag is up already: the interrupted write is between its announcement and its passing.
        world.active.raise();
        let writer = spawn_writer(&world, false, Some(NEW + 1));
        let ticket = world.collect(Scope::One(ORIGIN));
        let instant = world.file.load(Ordering::Relaxed);
        world.pages[0].publish(1);
        assert!(world.creation.commit(ticket));
        world.creation.release(ticket);
        writer.join().unwrap();
        assert_eq!(world.pages[0].shows(&world.file), instant);
    });
}

#[test]
fn fork_of_a_mapper_is_one_instant_for_both() {
    model(|| {
        let world = World::new();
        world.active.raise();
        world.pages[0].publish(1);
        let writer = spawn_writer(&world, false, None);
        let ticket = world.collect(Scope::All);
        // The child's record is published with the parent's bits, then the address space is copied: a page whose bit is not
        // copied has to be shared still.
        let bits = world.pages[0].preserved.load(Ordering::Acquire);
        world.pages[1].publish(2);
        world.pages[1].copy.store(world.pages[0].copy.load(Ordering::Relaxed), Ordering::Relaxed);
        world.pages[1].preserved.store(bits, Ordering::Release);
        assert!(world.creation.commit(ticket));
        world.creation.release(ticket);
        writer.join().unwrap();
        assert_eq!(world.pages[0].shows(&world.file), OLD);
        assert_eq!(world.pages[1].shows(&world.file), OLD);
    });
}

#[test]
fn the_flag_stays_up_for_a_snapshot_that_comes_while_the_last_one_goes() {
    model(|| {
        let world = World::new();
        world.active.raise();
        let other = Arc::clone(&world);
        let retirer = thread::spawn(move || {
            other.active.lower_if(|| !other.creation.look().is_busy() && other.pages[0].snapshot.view().is_none());
        });
        let ticket = world.collect(Scope::One(ORIGIN));
        world.pages[0].publish(1);
        assert!(world.creation.commit(ticket));
        world.creation.release(ticket);
        retirer.join().unwrap();
        assert!(world.active.is_raised());
    });
}

/// A shared mapping of the file: whether the kernel lets stores through, changed under one lock.
struct Shared {
    world: Arc<World>,
    sharing: Sharing,
    is_open: Mutex<bool>,
}

const EPOCH: u32 = 7;

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self { world: World::new(), sharing: Sharing::new(), is_open: Mutex::new(false) })
    }

    /// Makes the way through the gate, then `act` with whether snapshots may exist.
    fn announced(&self, act: impl FnOnce(bool)) {
        let world = &self.world;
        let writer = Thread { world, aborts: false, handler: Cell::new(None) };
        let call = Call { place: Place::Origin(ORIGIN), ..Call::default() };
        let (entry, turn) = world.gate().enter(&world.frames[0], &[], call, &writer);
        act(entry != Entry::Free);
        world.frames[0].clear(turn);
    }

    fn map(&self) {
        let make = |is_watched: bool| {
            self.sharing.describe([ORIGIN].into_iter());
            *self.is_open.lock().unwrap() = !(is_watched && self.world.pages[0].snapshot.view().is_some());
        };
        if planted(Fault::MappingAnnouncement) { make(false) } else { self.announced(make) }
    }

    fn store(&self, value: u64) {
        loop {
            {
                let is_open = self.is_open.lock().unwrap();
                if *is_open {
                    return self.world.file.store(value, Ordering::Relaxed);
                }
            }
            self.announced(|is_watched| {
                if is_watched {
                    self.world.pages[0].push(&self.world.file);
                }
                *self.is_open.lock().unwrap() = true;
            });
        }
    }

    /// What the agent does for the creation that it finds.
    fn arm(&self) {
        let seen = self.world.creation.look();
        let is_time = seen.is_arming() || planted(Fault::ArmingAfterDrain) && seen.is_busy();
        if is_time && !self.sharing.is_armed_for(EPOCH, seen) {
            *self.is_open.lock().unwrap() = false;
            self.sharing.acknowledge(EPOCH, seen);
        }
    }
}

/// `storer` maps and stores; the agent may look for creations at any time, not only when it was rung for.
fn a_snapshot_beside_a_storer() {
    let shared = Shared::new();
    let other = Arc::clone(&shared);
    let storer = thread::spawn(move || {
        other.map();
        other.store(NEW);
    });
    let other = Arc::clone(&shared);
    let agent = thread::spawn(move || other.arm());
    let world = &shared.world;
    let scope = Scope::One(ORIGIN);
    let ticket = world.collect(scope);
    let ticket = world.creation.start_arming(ticket).expect("nobody aborts");
    if shared.sharing.includes(scope) && !shared.sharing.is_armed_for(EPOCH, ticket) {
        shared.arm();
        assert!(shared.sharing.is_armed_for(EPOCH, ticket));
    }
    let instant = world.file.load(Ordering::Relaxed);
    world.pages[0].publish(1);
    assert!(world.creation.commit(ticket));
    world.creation.release(ticket);
    storer.join().unwrap();
    agent.join().unwrap();
    assert_eq!(world.pages[0].shows(&world.file), instant);
}

#[test]
fn a_store_through_a_shared_mapping_is_before_the_instant_or_preserved() {
    // Three threads; the faults need no more than two preemptions.
    model_within(2, a_snapshot_beside_a_storer);
}

/// What the kernel keeps of two addresses of a mapper: whether the page there is private, changed under one lock.
struct Kernel {
    private: Mutex<[bool; 2]>,
}

const FIRST: u64 = 0;
const SECOND: u64 = 4096;

struct Mapping {
    snapshot: Snapshot,
    frame: Frame,
    kernel: Kernel,
    bit: AtomicU64,
    changed: AtomicU64,
}

impl Mapping {
    fn new() -> Arc<Self> {
        let mapping = Self {
            snapshot: Snapshot::new(),
            frame: Frame::new(),
            kernel: Kernel { private: Mutex::new([false, false]) },
            bit: AtomicU64::new(0),
            changed: AtomicU64::new(0),
        };
        let head = mapping.snapshot.claim(1, 1).expect("free");
        let identity = Identity { origin: ORIGIN, owner: 1, size: 4096, base: 0, mapping: 1 };
        mapping.snapshot.describe(head, &identity, &extent(FIRST), 0);
        mapping.snapshot.publish(head, State::Exact);
        Arc::new(mapping)
    }

    /// What a writer does before its change lands.
    fn preserve_and_change(&self) {
        let turn = self.frame.announce(&Call { descriptor: 3, ..Call::default() });
        assert!(self.frame.pass(turn));
        while self.bit.load(Ordering::Acquire) == 0 {
            let Some(view) = self.snapshot.view() else { break };
            if view.head.is_changing() || !self.push(view.head, view.extent.address) {
                thread::yield_now();
            }
        }
        self.changed.store(1, Ordering::Relaxed);
        self.frame.clear(turn);
    }

    fn push(&self, head: Head, address: u64) -> bool {
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
        // mremap: the page goes along with its privacy; something else comes to lie where it was.
        mapping.snapshot.begin_change(1).expect("nobody else changes it");
        {
            let mut private = mapping.kernel.private.lock().unwrap();
            private[1] = private[0];
            private[0] = true;
        }
        mapping.snapshot.place(&extent(SECOND));
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
        // madvise(MADV_DONTNEED): what has no bit is dropped.
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

/// One block, that every life takes.
struct OneBlock(Block);

impl Pool for OneBlock {
    fn block(&self, index: u32) -> Option<&Block> {
        (index == 0).then_some(&self.0)
    }

    fn take(&self, _life: u32) -> Option<u32> {
        Some(0)
    }

    fn give_back(&self, _index: u32, _life: u32) {}
}

#[test]
fn a_late_bit_of_a_former_snapshot_is_not_seen_in_the_next() {
    model(|| {
        let pool = Arc::new((OneBlock(Block(std::array::from_fn(|_| AtomicU64::new(0)))), AtomicU64::new(1 << 32)));
        let (first, last) = (Arc::clone(&pool), Arc::clone(&pool));
        let late = thread::spawn(move || {
            Bits { root: &first.1, life: 1, pages: 64, pool: &first.0 }.set(5..6);
        });
        // The record's next life, which takes the same block.
        let root = AtomicU64::new(snapshim::preserved::empty_root(2));
        let bits = Bits { root: &root, life: 2, pages: 64, pool: &last.0 };
        bits.set(7..8);
        assert!(!bits.is_set(5));
        late.join().unwrap();
        assert!(!bits.is_set(5));
    });
}

/// A file that is watched: what a write does to its time of modification, and who announces himself.
struct Watched {
    frame: Frame,
    changes: Changes,
    modified: AtomicU64,
}

impl Watched {
    fn new() -> Arc<Self> {
        Arc::new(Self { frame: Frame::new(), changes: Changes::new(), modified: AtomicU64::new(0) })
    }

    fn write(&self) {
        let turn = self.frame.announce(&Call { descriptor: 3, ..Call::default() });
        assert!(self.frame.pass(turn));
        self.changes.note();
        self.change();
        self.frame.clear(turn);
    }

    /// What the kernel does.
    fn change(&self) {
        self.modified.fetch_add(1, Ordering::Relaxed);
    }

    fn look(&self) -> Option<Sight> {
        let is_quiet = || !self.frame.look().0.is_under_way();
        look(&self.changes, is_quiet, || Some(Modified { time: self.modified.load(Ordering::Relaxed), size: 0 }))
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
        let mut seen = Sight { counted: 0, file: Modified { time: 0, size: 0 } };
        for _ in 0..2 {
            if let Some(sight) = watched.look() {
                assert!(!sight.tells_on_somebody_since(&seen));
                seen = sight;
            }
        }
        writer.join().unwrap();
        let last = watched.look().expect("nobody is under way");
        assert!(!last.tells_on_somebody_since(&seen));
    });
}

#[test]
fn a_change_that_nobody_announced_is_told_on() {
    model(|| {
        let watched = Watched::new();
        watched.write();
        let seen = watched.look().expect("nobody is under way");
        let other = Arc::clone(&watched);
        let foreigner = thread::spawn(move || other.change());
        let during = watched.look().expect("nobody is under way");
        foreigner.join().unwrap();
        let after = watched.look().expect("nobody is under way");
        assert!(during.tells_on_somebody_since(&seen) || after.tells_on_somebody_since(&during));
    });
}

const DEAD: ProcessId = ProcessId::new(100, 1);
const NEXT: ProcessId = ProcessId::new(101, 2);

#[test]
fn a_late_release_of_a_slot_leaves_its_next_owner_alone() {
    model(|| {
        let slot = Arc::new(WriterSlot::new());
        let (dead, next) = (slot_owner(DEAD.owner_word(0), 1), slot_owner(NEXT.owner_word(0), 2));
        assert!(slot.claim(dead));
        let turn = slot.frames()[0].announce(&Call { descriptor: 3, ..Call::default() });
        assert!(slot.frames()[0].pass(turn));
        let late = Arc::clone(&slot);
        let late = thread::spawn(move || late.release(dead));
        slot.release(dead);
        assert!(!slot.frames()[0].look().0.is_under_way());
        assert!(slot.claim(next));
        let turn = slot.frames()[0].announce(&Call { descriptor: 3, ..Call::default() });
        late.join().unwrap();
        assert_eq!(slot.owner(), next);
        assert_eq!(slot.frames()[0].look(), (Phase::Announced, turn));
    });
}

/// A process record and a snapshot record, buried by two at once.
struct Grave {
    record: Process,
    snapshot: Snapshot,
}

impl Grave {
    /// Recovery, as far as these two are concerned.
    fn bury(&self) {
        let dead = Dead { index: 0, record: &self.record, id: DEAD };
        self.snapshot.retire_claim(0, || dead.has_record());
        self.record.free(DEAD);
    }
}

#[test]
fn a_late_burial_leaves_the_claims_of_the_records_next_owner_alone() {
    model(|| {
        let grave = Arc::new(Grave { record: Process::new(), snapshot: Snapshot::new() });
        assert!(grave.record.claim(DEAD));
        grave.snapshot.claim(1, DEAD.owner_word(0) & 0xffff_ffff).expect("free");
        let late = Arc::clone(&grave);
        let late = thread::spawn(move || late.bury());
        grave.bury();
        assert_eq!(grave.snapshot.head().state(), State::Free);
        assert!(grave.record.claim(NEXT));
        let claimed = grave.snapshot.claim(2, NEXT.owner_word(0) & 0xffff_ffff).expect("free");
        late.join().unwrap();
        assert_eq!(grave.record.id(), Some(NEXT));
        assert_eq!(grave.snapshot.head(), claimed);
    });
}

/// A parent, dead in the middle of its fork, and what it prepared for its child.
struct Family {
    parent: Process,
    child: Process,
}

#[test]
fn a_child_whose_parent_died_hears_of_it_or_finds_its_record_gone() {
    model(|| {
        let family = Arc::new(Family { parent: Process::new(), child: Process::new() });
        let unborn = ProcessId::unborn(0, 7);
        let born = ProcessId::new(102, 7);
        assert!(family.parent.claim(DEAD));
        assert!(family.child.claim(unborn));
        family.child.expect_birth(unborn, DEAD.owner_word(0));
        let bury = |family: &Family| {
            let dead = Dead { index: 0, record: &family.parent, id: DEAD };
            family.child.lose_parent(&dead, false, |_| {});
            family.parent.free(DEAD);
        };
        let other = Arc::clone(&family);
        let burier = thread::spawn(move || bury(&other));
        family.child.christen(unborn, born);
        let is_there = family.child.id() == Some(born);
        burier.join().unwrap();
        // Who waits looks for the parent by its identity.
        if family.parent.id() == Some(DEAD) {
            bury(&family);
        }
        if is_there {
            assert_eq!(family.child.id(), Some(born));
            assert_eq!(family.child.birth(born), Birth::Failed);
        } else {
            assert_eq!(family.child.id(), None);
        }
    });
}

#[test]
fn a_late_burial_of_a_parent_leaves_the_next_parents_child_alone() {
    model(|| {
        let family = Arc::new(Family { parent: Process::new(), child: Process::new() });
        assert!(family.parent.claim(DEAD));
        assert!(family.child.claim(ProcessId::unborn(0, 7)));
        let bury = |family: &Family| {
            let dead = Dead { index: 0, record: &family.parent, id: DEAD };
            family.child.lose_parent(&dead, false, |_| {});
            family.parent.free(DEAD);
        };
        let other = Arc::clone(&family);
        let late = thread::spawn(move || bury(&other));
        bury(&family);
        assert!(family.parent.claim(NEXT));
        let next = ProcessId::unborn(0, 8);
        assert!(family.child.claim(next));
        late.join().unwrap();
        assert_eq!(family.child.id(), Some(next));
    });
}

#[test]
fn a_call_without_a_slot_is_before_the_instant_or_sees_the_snapshot() {
    model(|| {
        let world = World::new();
        let record = Arc::new(Process::new());
        assert!(record.claim(NEXT));
        let (other, own) = (Arc::clone(&world), Arc::clone(&record));
        let writer = thread::spawn(move || {
            own.enter_unannounced(NEXT);
            if !other.active.is_raised() {
                other.file.store(NEW, Ordering::Relaxed);
            }
            own.leave_unannounced(NEXT);
        });
        let ticket = world.collect(Scope::One(ORIGIN));
        while record.unannounced(NEXT) != 0 && !planted(Fault::UnannouncedDrain) {
            thread::yield_now();
        }
        let instant = world.file.load(Ordering::Relaxed);
        assert!(world.creation.commit(ticket));
        writer.join().unwrap();
        assert_eq!(world.file.load(Ordering::Relaxed), instant);
    });
}

#[test]
fn calls_of_a_dead_image_do_not_count_for_the_next() {
    model(|| {
        let record = Process::new();
        assert!(record.claim(DEAD));
        record.enter_unannounced(DEAD);
        assert!(record.free(DEAD) && record.claim(NEXT));
        assert_eq!(record.unannounced(NEXT), 0);
    });
}

#[test]
fn an_answer_is_that_of_its_own_request() {
    model(|| {
        let slot = Arc::new(WriterSlot::new());
        let asks = |first: u64| Request { snapshot: 0, life: 1, task: Task::Preserve, first, count: 1 };
        let served = Arc::new(AtomicU64::new(u64::MAX));
        let (other, told) = (Arc::clone(&slot), Arc::clone(&served));
        let agent = thread::spawn(move || {
            if let Some((request, number)) = other.pending() {
                told.store(request.first, Ordering::Relaxed);
                other.answer(number, true);
            }
        });
        // The first is given up, or answered already; what is answered to the second was done for the second.
        let first = slot.ask(asks(1));
        slot.withdraw_request(first);
        let second = slot.ask(asks(2));
        if slot.look_for_answer(second) == Answer::Done {
            assert_eq!(served.load(Ordering::Relaxed), 2);
        }
        agent.join().unwrap();
        if slot.look_for_answer(second) == Answer::Done {
            assert_eq!(served.load(Ordering::Relaxed), 2);
        }
    });
}

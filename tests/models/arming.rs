//! Stores through shared mappings are before the instant, or trap.

use std::cell::Cell;

use loom::sync::atomic::Ordering;
use loom::sync::{Arc, Mutex};
use loom::thread;
use snapshim::protocol::creation::{Scope, Ticket};
use snapshim::protocol::gate::{Call, Entry};
use snapshim::protocol::origin::{Origin, Target};
use snapshim::protocol::sharing::Sharing;
use snapshim::sys::sync::{Fault, planted};

use super::world::{NEW, ORIGIN, Thread, World, model_within};

/// A shared mapping of the file: whether the kernel lets stores through, changed under one lock.
struct Shared {
    world: Arc<World>,
    sharing: Sharing,
    is_open: Mutex<bool>,
}

const EPOCH: u32 = 7;

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self { world: World::new(), sharing: Sharing::default(), is_open: Mutex::new(false) })
    }

    /// Goes through the gate, then calls `act` with whether snapshots may exist.
    fn announced(&self, act: impl FnOnce(bool)) {
        let world = &self.world;
        let writer = Thread { world, aborts: false, handler: Cell::new(None) };
        let call = Call { target: Target::Origin(ORIGIN), ..Call::default() };
        let (entry, announcement) = world.gate().enter(&world.frames[0], &[], call, &writer);
        act(entry != Entry::Free);
        world.frames[0].clear(announcement);
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

    /// What the agent does for each creation that it finds.
    fn arm(&self) {
        self.world.creations.under_way().for_each(|seen| self.arm_for(seen));
    }

    fn arm_for(&self, seen: Ticket) {
        let is_time = seen.is_arming() || planted(Fault::ArmingAfterDrain) && seen.is_busy();
        if is_time && !self.sharing.is_armed_for(EPOCH, seen) {
            *self.is_open.lock().unwrap() = false;
            self.sharing.acknowledge(EPOCH, seen);
        }
    }
}

/// `storer` maps and stores. The agent may look for creations at any time, not only when it was rung for.
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
    let ticket = world.creations.start_arming(ticket).expect("nobody aborts");
    if shared.sharing.includes(ORIGIN) && !shared.sharing.is_armed_for(EPOCH, ticket) {
        shared.arm();
        assert!(shared.sharing.is_armed_for(EPOCH, ticket));
    }
    let instant = world.take(ticket);
    storer.join().unwrap();
    agent.join().unwrap();
    assert_eq!(world.pages[0].shows(&world.file), instant);
}

#[test]
fn a_store_through_a_shared_mapping_is_before_the_instant_or_preserved() {
    // Three threads: the faults need no more than two preemptions.
    model_within(2, a_snapshot_beside_a_storer);
}

/// Two creations wait for one process at once.
#[test]
fn a_process_that_arms_for_one_creation_takes_no_answer_from_another() {
    model_within(1, || {
        let world = World::new();
        let sharing = Sharing::default();
        // The first record has been used before: the creations have different numbers.
        assert!(world.creations.abort(world.propose(0, Scope::One(ORIGIN))));
        let tickets = [world.propose(0, Scope::One(ORIGIN)), world.propose(1, Scope::One(Origin::file(1, 3)))];
        tickets.iter().for_each(|ticket| sharing.acknowledge(EPOCH, *ticket));
        assert!(tickets.iter().all(|ticket| sharing.is_armed_for(EPOCH, *ticket)));
    });
}

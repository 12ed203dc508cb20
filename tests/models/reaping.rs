//! Any process takes out the dead: several at once, and late.

use loom::sync::Arc;
use loom::thread;
use snapshim::protocol::gate::{Call, Phase};
use snapshim::protocol::process::{Dead, ForkOutcome, Process};
use snapshim::protocol::process_id::ProcessId;
use snapshim::protocol::snapshot::{Snapshot, State};
use snapshim::protocol::writer_slot::WriterSlot;

use super::world::{DEAD, NEXT, model};

/// The next thread may have the id of the one that ended.
#[test]
fn a_late_release_of_a_slot_leaves_its_next_owner_alone() {
    for (next, thread) in [(NEXT, 2), (DEAD, 1)] {
        model(move || {
            let slot = Arc::new(WriterSlot::default());
            assert!(slot.claim(DEAD.owner_word(0), 1));
            let ended = slot.lease();
            let announcement = slot.frames()[0].announce(&Call { descriptor: 3, ..Call::default() });
            assert!(slot.frames()[0].pass(announcement));
            let late = Arc::clone(&slot);
            let late = thread::spawn(move || late.release(ended));
            slot.release(ended);
            assert!(!slot.frames()[0].load().0.is_under_way());
            assert!(slot.claim(next.owner_word(0), thread));
            let mine = slot.lease();
            let announcement = slot.frames()[0].announce(&Call { descriptor: 3, ..Call::default() });
            late.join().unwrap();
            assert_eq!((slot.lease(), slot.thread(mine)), (mine, thread));
            assert_eq!(slot.frames()[0].load(), (Phase::Announced, announcement));
        });
    }
}

/// A process that looks at the slot meanwhile never takes a thread that ended for the one that has the slot.
#[test]
fn the_thread_of_one_lease_is_not_told_for_the_next() {
    model(|| {
        let slot = Arc::new(WriterSlot::default());
        assert!(slot.claim(DEAD.owner_word(0), 1));
        let other = Arc::clone(&slot);
        let looker = thread::spawn(move || {
            let lease = other.lease();
            (lease, other.thread(lease))
        });
        let first = slot.lease();
        slot.release(first);
        assert!(slot.claim(DEAD.owner_word(0), 2));
        let second = slot.lease();
        let (lease, told) = looker.join().unwrap();
        assert!(told == 0 || (lease, told) == (first, 1) || (lease, told) == (second, 2), "{lease:?} {told}");
    });
}

/// A process record and a snapshot record, reaped by two at once.
struct Records {
    record: Process,
    snapshot: Snapshot,
}

impl Records {
    /// Recovery, as far as it concerns these two records.
    fn reap(&self) {
        let dead = Dead { index: 0, record: &self.record, id: DEAD };
        self.snapshot.retire_claim(0, || dead.has_record());
        self.record.free(DEAD);
    }
}

#[test]
fn a_late_burial_leaves_the_claims_of_the_records_next_owner_alone() {
    model(|| {
        let records = Arc::new(Records { record: Process::default(), snapshot: Snapshot::default() });
        assert!(records.record.claim(DEAD));
        records.snapshot.claim(1, DEAD.owner_word(0) & 0xffff_ffff).expect("free");
        let late = Arc::clone(&records);
        let late = thread::spawn(move || late.reap());
        records.reap();
        assert_eq!(records.snapshot.head().state(), State::Free);
        assert!(records.record.claim(NEXT));
        let claimed = records.snapshot.claim(2, NEXT.owner_word(0) & 0xffff_ffff).expect("free");
        late.join().unwrap();
        assert_eq!(records.record.id(), Some(NEXT));
        assert_eq!(records.snapshot.head(), claimed);
    });
}

/// The bucket of the only snapshot record.
const BUCKET: usize = 3;

/// Two images that have one process record after each other, and the only snapshot record.
#[derive(Default)]
struct Successors {
    record: Process,
    snapshot: Snapshot,
}

impl Successors {
    /// The image `id` takes the record, and claims the snapshot record. It is killed after as many steps as are `made`.
    fn live(&self, id: ProcessId, made: usize) {
        let steps: [&dyn Fn(); 4] = [
            &|| assert!(self.record.claim(id)),
            &|| self.record.holdings.begin(),
            &|| self.record.holdings.note_snapshot(BUCKET),
            &|| assert!(self.snapshot.claim(id.epoch(), id.owner_word(0) & 0xffff_ffff).is_some()),
        ];
        steps.iter().take(made).for_each(|step| step());
    }

    /// Recovery of `id`, which looks only where something of its may stand.
    fn reap(&self, id: ProcessId) {
        let dead = Dead { index: 0, record: &self.record, id };
        if self.record.places_of(dead.owner()).buckets().any(|bucket| bucket == BUCKET) {
            self.snapshot.retire_claim(0, || dead.has_record());
        }
        self.record.free(id);
    }
}

#[test]
fn a_claim_is_found_wherever_its_process_was_killed() {
    for made in 0..=4 {
        model(move || {
            let successors = Arc::new(Successors::default());
            successors.live(DEAD, 4);
            let late = Arc::clone(&successors);
            let late = thread::spawn(move || late.reap(DEAD));
            successors.reap(DEAD);
            let is_found = successors.snapshot.head().state() == State::Free;
            if is_found {
                successors.live(NEXT, made);
            }
            late.join().unwrap();
            assert!(is_found, "the record is lost for good");
            let is_claimed = successors.snapshot.head().state() == State::Claimed;
            assert_eq!(is_claimed, made == 4);
            successors.reap(NEXT);
            assert_eq!(successors.snapshot.head().state(), State::Free);
            assert_eq!(successors.record.id(), None);
        });
    }
}

/// A child that never was, and whose record was freed, has snapshots in the table until its parent's reaper retires them.
#[test]
fn what_a_freed_record_leaves_behind_is_found_beside_its_next_image() {
    model(|| {
        let successors = Arc::new(Successors::default());
        let pending = ProcessId::pending_child(1, 7);
        successors.live(pending, 4);
        let reaper = Arc::clone(&successors);
        let reaper = thread::spawn(move || {
            assert!(reaper.record.free(pending));
            reaper.record.places_of(pending.owner_word(0)).buckets().any(|bucket| bucket == BUCKET)
        });
        if successors.record.claim(NEXT) {
            successors.record.holdings.begin();
        }
        assert!(reaper.join().unwrap(), "its snapshots keep the active word raised");
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
        let family = Arc::new(Family { parent: Process::default(), child: Process::default() });
        let pending = ProcessId::pending_child(0, 7);
        let forked = ProcessId::new(102, 7);
        assert!(family.parent.claim(DEAD));
        assert!(family.child.claim(pending));
        family.child.expect_fork(pending, DEAD.owner_word(0));
        let reap = |family: &Family| {
            let dead = Dead { index: 0, record: &family.parent, id: DEAD };
            family.child.resolve_orphan(&dead, false, |_| {});
            family.parent.free(DEAD);
        };
        let other = Arc::clone(&family);
        let reaper = thread::spawn(move || reap(&other));
        family.child.set_pid(pending, forked);
        let is_there = family.child.id() == Some(forked);
        reaper.join().unwrap();
        // A process that waits looks for the parent by its id.
        if family.parent.id() == Some(DEAD) {
            reap(&family);
        }
        if is_there {
            assert_eq!(family.child.id(), Some(forked));
            assert_eq!(family.child.fork_outcome(forked), ForkOutcome::Failed);
        } else {
            assert_eq!(family.child.id(), None);
        }
    });
}

/// The parent reads the child's start time, and writes it when the child is over, and its record another's.
#[test]
fn a_late_parent_leaves_the_start_of_the_records_next_owner_alone() {
    model(|| {
        let record = Arc::new(Process::default());
        let (pending, forked) = (ProcessId::pending_child(0, 7), ProcessId::new(102, 7));
        assert!(record.claim(pending));
        let other = Arc::clone(&record);
        let parent = thread::spawn(move || {
            other.set_pid(pending, forked);
            other.describe_start_of_child(forked, 1000);
        });
        record.set_pid(pending, forked);
        assert!(record.free(forked) && record.claim(NEXT));
        record.describe_start(NEXT, 5000);
        parent.join().unwrap();
        assert_eq!(record.is_start(NEXT, 5000), Some(true), "nobody can tell the process from a later one of that pid");
    });
}

#[test]
fn a_late_burial_of_a_parent_leaves_the_next_parents_child_alone() {
    model(|| {
        let family = Arc::new(Family { parent: Process::default(), child: Process::default() });
        assert!(family.parent.claim(DEAD));
        assert!(family.child.claim(ProcessId::pending_child(0, 7)));
        let reap = |family: &Family| {
            let dead = Dead { index: 0, record: &family.parent, id: DEAD };
            family.child.resolve_orphan(&dead, false, |_| {});
            family.parent.free(DEAD);
        };
        let other = Arc::clone(&family);
        let late = thread::spawn(move || reap(&other));
        reap(&family);
        assert!(family.parent.claim(NEXT));
        let next = ProcessId::pending_child(0, 8);
        assert!(family.child.claim(next));
        late.join().unwrap();
        assert_eq!(family.child.id(), Some(next));
    });
}

#[test]
fn calls_of_a_dead_image_do_not_count_for_the_next() {
    model(|| {
        let record = Process::default();
        assert!(record.claim(DEAD));
        record.enter_unannounced(DEAD);
        assert!(record.free(DEAD) && record.claim(NEXT));
        assert_eq!(record.unannounced(NEXT), 0);
    });
}

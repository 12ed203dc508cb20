//! The instant: a write is before it or sees the snapshot, whatever becomes of the creator.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use snapshim::protocol::creation::{Rival, Scope};
use snapshim::protocol::gate::{Call, Phase};
use snapshim::protocol::origin::{Origin, Target};
use snapshim::protocol::process::Process;
use snapshim::protocol::writer_slot::WriterSlot;
use snapshim::sys::sync::{Fault, planted};

use super::world::{NEW, NEXT, OLD, ORIGIN, World, model, model_within, spawn_writer};

#[test]
fn a_write_is_before_the_instant_or_preserved() {
    model(|| {
        let world = World::new();
        let writer = spawn_writer(&world, false, None);
        let ticket = world.collect(Scope::One(ORIGIN));
        let instant = world.take(ticket);
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
        let committed = world.creations.commit(ticket);
        world.creations.release(ticket);
        writer.join().unwrap();
        if committed {
            assert_eq!(world.pages[0].shows(&world.file), instant);
        }
        assert!(world.creations.under_way().next().is_none());
    });
}

#[test]
fn an_aborted_creation_stays_aborted() {
    model(|| {
        let world = World::new();
        world.intents[0].declare(Scope::One(ORIGIN), 0);
        let ticket = world.creations.claim(0).expect("free");
        let other = Arc::clone(&world);
        let aborter = thread::spawn(move || other.creations.abort(ticket));
        let committed = world.creations.commit(ticket);
        assert_ne!(committed, aborter.join().unwrap());
    });
}

/// A creator proposes a creation of the file, and goes on if no other is in the way. False: it has given way.
fn creates(world: &World, owner: u16, going: &AtomicU64) -> bool {
    let ticket = world.propose(owner, Scope::One(ORIGIN));
    loop {
        match world.creations.rival(ticket, Scope::One(ORIGIN), world) {
            None => break,
            Some(Rival::Undecided(_)) => thread::yield_now(),
            Some(Rival::First(_)) => {
                assert!(world.creations.abort(ticket));
                return false;
            }
        }
    }
    let ticket = world.creations.settle(ticket).expect("nobody aborts");
    assert_eq!(going.fetch_add(1, Ordering::Relaxed), 0, "two at once");
    going.fetch_sub(1, Ordering::Relaxed);
    assert!(world.creations.commit(ticket));
    world.creations.release(ticket);
    true
}

#[test]
fn of_two_creations_of_one_file_one_goes_on_and_never_both_at_once() {
    model(|| {
        let world = World::new();
        let going = Arc::new(AtomicU64::new(0));
        let (other, others) = (Arc::clone(&world), Arc::clone(&going));
        let creator = thread::spawn(move || creates(&other, 1, &others));
        let has_gone_on = creates(&world, 0, &going);
        assert!(creator.join().unwrap() || has_gone_on, "both gave way");
    });
}

/// The creation of another file comes first, and lasts.
#[test]
fn a_write_waits_for_the_creation_of_its_file_and_for_no_other() {
    model(|| {
        let world = World::new();
        let lasting = world.propose(1, Scope::One(ELSEWHERE));
        let writer = spawn_writer(&world, false, None);
        let ticket = world.collect(Scope::One(ORIGIN));
        let instant = world.take(ticket);
        writer.join().unwrap();
        assert_eq!(world.pages[0].shows(&world.file), instant);
        assert!(world.creations.is(lasting));
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
        let instant = world.take(ticket);
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
        let ticket = world.collect(Scope::Held);
        // The child's record is published with the parent's bits, then the address space is copied: a page whose bit is not
        // copied has to be shared still.
        let bits = world.pages[0].preserved.load(Ordering::Acquire);
        world.pages[1].publish(2);
        world.pages[1].copy.store(world.pages[0].copy.load(Ordering::Relaxed), Ordering::Relaxed);
        world.pages[1].preserved.store(bits, Ordering::Release);
        assert!(world.creations.commit(ticket));
        world.creations.release(ticket);
        writer.join().unwrap();
        assert_eq!(world.pages[0].shows(&world.file), OLD);
        assert_eq!(world.pages[1].shows(&world.file), OLD);
    });
}

/// A thread makes a snapshot of a file that its process has none of. It publishes it while another thread, which forks, has closed
/// the gate and waits for the lock over the mappings: the fork drains again.
#[test]
fn a_fork_beside_a_creation_of_its_process_is_exact() {
    // The yields are where the writer has to come in.
    model_within(1, || {
        let world = World::new();
        // The record that a writer looks at first is left for the fork.
        let first = world.propose(1, Scope::One(ELSEWHERE));
        let creation = world.propose(1, Scope::One(ORIGIN));
        assert!(world.creations.abort(first));
        let mut fork = world.collect(Scope::Held);
        let writer = spawn_writer(&world, false, None);
        thread::yield_now();
        let instant = world.file.load(Ordering::Relaxed);
        world.pages[0].publish(1);
        let creation = world.creations.settle(creation).expect("no process aborts it");
        assert!(world.creations.commit(creation));
        world.creations.release(creation);
        if !planted(Fault::PublishedBeside) {
            assert!(world.creations.abort(fork));
            fork = world.collect(Scope::Held);
        }
        let bits = world.pages[0].preserved.load(Ordering::Acquire);
        thread::yield_now();
        world.pages[1].publish(2);
        world.pages[1].copy.store(world.pages[0].copy.load(Ordering::Relaxed), Ordering::Relaxed);
        world.pages[1].preserved.store(bits, Ordering::Release);
        assert!(world.creations.commit(fork));
        world.creations.release(fork);
        writer.join().unwrap();
        assert_eq!(world.pages[0].shows(&world.file), instant);
        assert_eq!(world.pages[1].shows(&world.file), instant);
    });
}

#[test]
fn the_flag_stays_up_for_a_snapshot_that_comes_while_the_last_one_goes() {
    model(|| {
        let world = World::new();
        world.active.raise();
        let other = Arc::clone(&world);
        let retirer = thread::spawn(move || {
            other
                .active
                .lower_if(|| other.creations.under_way().next().is_none() && other.pages[0].snapshot.view().is_none());
        });
        let ticket = world.collect(Scope::One(ORIGIN));
        world.pages[0].publish(1);
        assert!(world.creations.commit(ticket));
        world.creations.release(ticket);
        retirer.join().unwrap();
        assert!(world.active.is_raised());
    });
}

#[test]
fn a_call_without_a_slot_is_before_the_instant_or_sees_the_snapshot() {
    model(|| {
        let world = World::new();
        let record = Arc::new(Process::default());
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
        assert!(world.creations.commit(ticket));
        writer.join().unwrap();
        assert_eq!(world.file.load(Ordering::Relaxed), instant);
    });
}

/// Which file the call changes is not known before it has ended.
#[test]
fn a_call_by_path_is_before_the_instant_or_is_not_made_so() {
    model(|| {
        let world = World::new();
        let other = Arc::clone(&world);
        let writer = thread::spawn(move || {
            let [frame, ..] = &other.frames;
            assert!(frame.take(1));
            if let Some(announcement) = other.gate().enter_unused(frame, &[]) {
                other.file.store(NEW, Ordering::Relaxed);
                assert!(frame.clear(announcement));
            }
            assert!(!frame.is_in_use());
        });
        let ticket = world.collect(Scope::One(ORIGIN));
        let instant = world.take(ticket);
        writer.join().unwrap();
        assert_eq!(world.pages[0].shows(&world.file), instant);
    });
}

/// A thread that has no slot yet takes the first, and writes.
#[test]
fn a_slot_that_was_never_used_is_looked_at_from_its_first_call_on() {
    model(|| {
        let world = World::new();
        let slot = Arc::new((WriterSlot::default(), loom::sync::atomic::AtomicU32::new(0)));
        let (other, own) = (Arc::clone(&world), Arc::clone(&slot));
        let note = |slot: &(WriterSlot, loom::sync::atomic::AtomicU32)| slot.1.fetch_max(1, Ordering::AcqRel);
        let writer = thread::spawn(move || {
            if !planted(Fault::UsedFirst) {
                note(&own);
            }
            assert!(own.0.claim(NEXT.owner_word(0), 1));
            let frame = &own.0.frames()[0];
            let announcement = frame.announce(&Call { descriptor: 3, ..Call::default() });
            if !other.active.is_raised() && frame.pass(announcement) {
                other.file.store(NEW, Ordering::Relaxed);
            }
            frame.clear(announcement);
            frame.reclaim(announcement);
            note(&own);
        });
        let ticket = world.collect(Scope::One(ORIGIN));
        let used = slot.1.load(Ordering::Acquire) as usize;
        for frame in slot.0.frames().iter().take(used) {
            while matches!(frame.load().0, Phase::Announced | Phase::Passed) {
                thread::yield_now();
            }
        }
        let instant = world.file.load(Ordering::Relaxed);
        assert!(world.creations.commit(ticket));
        writer.join().unwrap();
        assert_eq!(world.file.load(Ordering::Relaxed), instant);
    });
}

const ELSEWHERE: Origin = Origin::file(1, 3);

/// A creation of one file is given up, and the same thread begins a creation of another file.
#[test]
fn what_a_creation_covers_is_its_own() {
    model(|| {
        let world = World::new();
        world.intents[0].declare(Scope::One(ORIGIN), 0);
        let first = world.creations.claim(0).expect("free");
        let other = Arc::clone(&world);
        let creator = thread::spawn(move || {
            assert!(other.creations.abort(first));
            other.intents[0].declare(Scope::One(ELSEWHERE), 0);
            other.creations.claim(0).expect("free")
        });
        let covers = world.creations.scope(first, &*world);
        let spared = world.creations.naming(Target::Origin(ORIGIN), &*world, |_| false);
        assert!(covers.is_none_or(|scope| scope == Scope::One(ORIGIN)));
        let second = creator.join().unwrap();
        assert!(spared.is_none_or(|seen| seen == first), "waits for a creation that does not concern it");
        assert_eq!(world.creations.naming(Target::Origin(ELSEWHERE), &*world, |_| false), Some(second));
    });
}

/// The creator dies between its commit and the wake. Two waiting threads find that, and end what it left.
#[test]
fn a_creation_whose_owner_died_behind_its_commit_is_carried_out() {
    model(|| {
        let world = World::new();
        let ticket = world.collect(Scope::One(ORIGIN));
        world.pages[0].publish(1);
        assert!(world.creations.commit(ticket));
        let other = Arc::clone(&world);
        let waiter = thread::spawn(move || other.end_all());
        world.end_all();
        waiter.join().unwrap();
        assert!(world.creations.under_way().next().is_none());
        assert!(world.pages[0].snapshot.view().is_some());
    });
}

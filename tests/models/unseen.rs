//! A process that changes the file unseen: no snapshot that its change may have reached stays exact.

use std::cell::Cell;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use snapshim::protocol::cause::{Cause, Worth};
use snapshim::protocol::creation::Scope;
use snapshim::protocol::snapshot::State;
use snapshim::protocol::unseen::{Unseen, UnseenCount, Who};
use snapshim::sys::sync::{Fault, planted};

use super::world::{NEW, ORIGIN, World, model};

const WHO: Who = Who { pid: 4711, start: 1 };

/// The snapshots there are.
fn doubt_all(world: &World) {
    for page in &world.pages {
        if let Some(view) = page.snapshot.view() {
            page.snapshot.mark(view.head.incarnation(), Worth::Doubtful(Cause::Unseen));
        }
    }
}

/// Publishes a snapshot beside `writer`, and checks that what it shows is what it showed at its instant.
fn is_exact_or_says_so(writer: impl Fn(&World, &Unseen) + Send + Sync + 'static) {
    is_exact_or_says_so_after(|_, _| (), writer);
}

/// The same; before that, `tidy` takes out the processes that are over.
fn is_exact_or_says_so_after(tidy: impl Fn(&World, &Unseen), writer: impl Fn(&World, &Unseen) + Send + Sync + 'static) {
    let world = World::new();
    let unseen = Arc::new(Unseen::default());
    let (other, entries) = (Arc::clone(&world), Arc::clone(&unseen));
    let writer = thread::spawn(move || writer(&other, &entries));
    tidy(&world, &unseen);
    let ticket = world.collect(Scope::One(ORIGIN));
    let before = Cell::new(unseen.observe());
    let instant = world.file.load(Ordering::Acquire);
    world.pages[0].publish(1);
    let after = if planted(Fault::UnseenAfterPublishing) { before.get() } else { unseen.observe_after_publishing() };
    if planted(Fault::UnseenBeforeInstant) {
        before.set(unseen.observe());
    }
    let vouches = |before: UnseenCount| before.vouches_until(&after);
    if !vouches(before.get()) {
        world.pages[0].snapshot.mark(1, Worth::Doubtful(Cause::Unseen));
    }
    assert!(world.creations.commit(ticket));
    writer.join().unwrap();
    let state = world.pages[0].snapshot.head().state();
    assert!(world.file.load(Ordering::Relaxed) == instant || state == State::Doubtful);
}

#[test]
fn a_snapshot_that_an_unseen_change_may_have_reached_is_doubtful() {
    model(|| {
        is_exact_or_says_so(|world, unseen| {
            unseen.raise(WHO);
            doubt_all(world);
            world.file.store(NEW, Ordering::Release);
        });
    });
}

/// The process joins, or ends, when its change has landed.
#[test]
fn so_is_one_that_comes_about_while_the_last_unseen_process_ends() {
    model(|| {
        is_exact_or_says_so(|world, unseen| {
            unseen.raise(WHO);
            doubt_all(world);
            world.file.store(NEW, Ordering::Release);
            unseen.lower(WHO, || doubt_all(world));
        });
    });
}

/// The process has no more of the table than the page with the entries: a process that finds it over makes the snapshots doubtful.
#[test]
fn so_is_one_that_the_unseen_process_cannot_reach() {
    model(|| {
        is_exact_or_says_so(|world, unseen| {
            unseen.raise(WHO);
            world.file.store(NEW, Ordering::Release);
            unseen.lower(WHO, || doubt_all(world));
        });
    });
}

/// The process has no name, and is over when no process holds the lock. The creation itself may find that before its instant, and
/// so may another creation while this one is under way.
#[test]
fn so_is_one_beside_an_unseen_process_without_a_name() {
    model(|| {
        let lock = Arc::new(AtomicBool::new(false));
        let writers = Arc::clone(&lock);
        is_exact_or_says_so_after(
            move |world, unseen| unseen.lower_nameless(|| lock.load(Ordering::Acquire), || doubt_all(world)),
            move |world, unseen| {
                writers.store(true, Ordering::Release);
                unseen.raise_nameless();
                world.file.store(NEW, Ordering::Release);
                writers.store(false, Ordering::Release);
                unseen.lower_nameless(|| writers.load(Ordering::Acquire), || doubt_all(world));
            },
        );
    });
}

/// An image raises the entry before exec. The next image, which joins, lowers it, or the first one does if exec failed. A creation
/// meanwhile takes out what is over.
#[test]
fn so_is_one_beside_an_exec_that_leads_out_of_reach() {
    model(|| {
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        is_exact_or_says_so_after(
            move |world, unseen| {
                if is_over.load(Ordering::Acquire) {
                    unseen.lower(WHO, || doubt_all(world));
                }
            },
            move |world, unseen| {
                unseen.raise(WHO);
                doubt_all(world);
                world.file.store(NEW, Ordering::Release);
                ends.store(true, Ordering::Release);
            },
        );
    });
}

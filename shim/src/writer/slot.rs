//! The thread as the gate and the core know it: one that waits, and that preserves; and what becomes of a call for which there is no
//! slot.

use core::sync::atomic::{Ordering, fence};

use rustix::io::Errno;
use snapshim::cooperate::locate::place_behind;
use snapshim::preserve::Pusher;
use snapshim::protocol::creation::Ticket;
use snapshim::protocol::gate::{Frame, Turn, Writer};
use snapshim::protocol::origin::Place;
use snapshim::sys::raw;
use snapshim::sys::wait::Patience;
use snapshim::table::Table;

use super::report::Teller;
use super::touch::Touch;
use crate::address_space::freeze::Trap;
use crate::base::arena;
use crate::base::config::config;
use crate::process::log::{Level, say};
use crate::process::thread::{self, Seat, Thread};
use crate::process::{identity, membership};
use crate::signals;

/// The call is over.
#[inline]
pub fn clear(thread: &Thread, frame: &Frame, turn: Turn) {
    // In a child that no hook saw being forked inside the call, the slot is the parent's.
    if thread.has_slot() && !frame.clear(turn) {
        doubt_after_return(thread.own.table);
    }
}

/// A call that was taken for left has come back: what it changed may be in snapshots that were made meanwhile, or come into them.
#[cold]
fn doubt_after_return(table: &Table) {
    table.doubt_every_snapshot();
    say!(
        Level::Error,
        "a write of process {} went on although its thread had jumped out of it (longjmp) further up the same stack, as a program \
         may that keeps the stacks of several threads of its own in one: all snapshots are doubtful",
        raw::own_pid()
    );
}

/// The thread cannot announce its call, for want of a slot (`EAGAIN`), or because its process could not join the table: that has said
/// so there if it can reach it, and goes on as it would without the shim. `None`: the call must not be made. The error: it can by now.
#[cold]
pub fn without_thread<T>(error: Errno, call: &impl Fn() -> T) -> Result<Option<T>, Seat> {
    let mut error = error;
    loop {
        if error == Errno::AGAIN && identity::attached().is_some() {
            return without_slot(call);
        }
        if let Some(result) = membership::unseen(call) {
            return Ok(Some(result));
        }
        match Seat::take() {
            Ok(seat) => return Err(seat),
            Err(other) => error = other,
        }
    }
}

/// All slots are taken. While there are no snapshots the call is only counted; else it waits for a slot. `None`: none came free.
#[cold]
fn without_slot<T>(call: &impl Fn() -> T) -> Result<Option<T>, Seat> {
    let Some(own) = crate::process::identity::attached() else { return Ok(Some(call())) };
    let deadline = raw::now() + config().timeout;
    let mut patience = Patience::default();
    loop {
        let Some(record) = own.record() else { return Ok(Some(call())) };
        if own.table.enter_unannounced(record, own.id) {
            let (result, is_counted) = thread::in_call_without_slot(call);
            // In a child that a handler forked inside the call, the count is the parent's.
            if own.is_this_image() {
                if is_counted {
                    record.leave_unannounced(own.id);
                } else {
                    doubt_after_return(own.table);
                }
            }
            return Ok(Some(result));
        }
        if let Ok(seat) = Seat::take() {
            return Err(seat);
        }
        if raw::now() > deadline {
            say!(
                Level::Error,
                "a write of process {} failed (ENOSPC): all {} slots of the table are taken and snapshots exist; end some threads",
                raw::own_pid(),
                snapshim::protocol::limits::WRITERS
            );
            return Ok(None);
        }
        patience.pause();
    }
}

/// The thread as one that preserves.
pub fn pusher<'a>(thread: &'a Thread, frame: &'a Frame) -> Pusher<'a, Teller, Trap> {
    Pusher {
        table: thread.own.table,
        own: thread.own.caller(),
        slot: thread.slot,
        frame,
        kept: identity::kept(),
        headroom: identity::headroom(),
        holdings: identity::holdings(),
        unreadable: arena::unreadable_page(),
        way: config().way,
        on_failure: config().on_failure,
        patience: config().timeout,
        report: &Teller,
        stores: &Trap,
        read_in: &|_| (),
        ahead: 0,
        is_interruptible: signals::may_handle(),
        size: &|| None,
    }
}

/// What the gate asks of this thread.
pub struct Surroundings<'a, T> {
    pub thread: &'a Thread,
    pub touch: &'a T,
}

impl<T: Touch> Writer for Surroundings<'_, T> {
    fn place(&self, descriptor: u32) -> Place {
        self.touch.place(descriptor)
    }

    fn place_since(&self, descriptor: u32, seen: u32) -> Place {
        let place = place_behind(descriptor);
        // Acquire: pairs with the Release in `Process::change_descriptor`: the look was before any change that is not counted.
        fence(Ordering::Acquire);
        let is_same = self.thread.record.is_some_and(|record| record.descriptors(descriptor) == seen);
        if is_same { place } else { Place::Unknown }
    }

    fn floating(&self) -> u64 {
        if self.touch.offset().is_none() { self.touch.length() } else { 0 }
    }

    fn wait_for(&self, seen: Ticket) {
        self.thread.own.table.await_creation(seen);
    }
}

//! The calling thread at the gate: how its call enters and is cleared, what the gate asks of it, and what it preserves with.
//!
//! A call for which no slot is free is only counted while there are no snapshots. While there are, it waits for a slot.

use core::sync::atomic::{Ordering, fence};

use rustix::io::Errno;
use snapshim::cooperate::locate::target_of_descriptor;
use snapshim::preserve::Pusher;
use snapshim::preserve::policy::PushMode;
use snapshim::protocol::cause::Cause;
use snapshim::protocol::creation::Ticket;
use snapshim::protocol::gate::{Announcement, Call, CallFrame, Entry, Writer};
use snapshim::protocol::origin::Target;
use snapshim::sys::wait::{Backoff, Deadline};
use snapshim::sys::{permission, raw};
use snapshim::table::Table;
use syscalls::Sysno;

use super::report::LogReporter;
use super::touch::Touch;
use crate::address_space::freeze::Freezer;
use crate::base::config::config;
use crate::base::{arena, own_stacks};
use crate::process::log::{Level, Program, say};
use crate::process::thread::{self, Seat, Thread};
use crate::process::{identity, membership};
use crate::signals::threads;

/// Does `act` announced, in a frame that is taken, behind those of calls that this one may have interrupted: no snapshot that the
/// call may spoil comes into being meanwhile.
///
/// Holds nothing that needs dropping while `act` runs.
#[inline(always)]
pub fn enter<T>(
    thread: &Thread,
    (outer, frame): (&[CallFrame], &CallFrame),
    call: Call,
    touch: &impl Touch,
    act: impl FnOnce(Entry) -> T,
) -> T {
    let context = GateContext { thread, touch };
    let (entry, announcement) = thread.own.table.gate().enter(frame, outer, call, &context);
    let result = act(entry);
    clear(thread, frame, announcement);
    result
}

/// A seat for a call of the calling thread. The error: `call` has been made without one, and its result; `None`: it must not be
/// made.
pub fn seat_for<T>(call: &impl Fn() -> T) -> Result<Seat, Option<T>> {
    Seat::take().or_else(|error| match without_thread(error, call) {
        Ok(made) => Err(made),
        Err(seat) => Ok(seat),
    })
}

/// Ends the announcement of a call that is over.
#[inline]
pub fn clear(thread: &Thread, frame: &CallFrame, announcement: Announcement) {
    // In a child that was forked inside the call, and by no hook, the slot is the parent's.
    if thread.has_slot() && !frame.clear(announcement) {
        doubt_after_return(thread.own.table);
    }
}

/// For a call that was given up as left and has come back: the bytes that it changed, or still changes, may be in snapshots that
/// were made meanwhile.
#[cold]
fn doubt_after_return(table: &Table) {
    table.doubt_every_snapshot(Cause::WriteCameBack);
    say!(
        Level::Error,
        "all snapshots are doubtful: {}",
        Cause::WriteCameBack.of(format_args!("a write of {}", Program(raw::own_pid()))).in_full()
    );
}

/// Makes a call that its thread cannot announce: because no slot is free (`EAGAIN`), or because the process could not join the
/// table. In the second case the process is listed there as unseen, if it can reach the table, and goes on as without the shim.
///
/// `None`: the call must not be made. The error: the call can be announced by now, with this seat.
#[cold]
fn without_thread<T>(error: Errno, call: &impl Fn() -> T) -> Result<Option<T>, Seat> {
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

/// The same where all slots are taken. `None`: snapshots exist, and no slot came free.
#[cold]
fn without_slot<T>(call: &impl Fn() -> T) -> Result<Option<T>, Seat> {
    let Some(own) = crate::process::identity::attached() else { return Ok(Some(call())) };
    let mut deadline = Deadline::at(raw::now() + config().timeout);
    let mut backoff = Backoff::default();
    loop {
        let Some(record) = own.record() else { return Ok(Some(call())) };
        if own.table.enter_unannounced(record, own.id) {
            let (result, is_counted) = thread::in_call_without_slot(call);
            // In a child that a handler forked inside the call, the count belongs to the parent.
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
        if permission::is_confined() {
            membership::stay_unseen_confined("writes in a thread that has no slot");
            return Ok(Some(call()));
        }
        if deadline.expired_twice(&backoff) {
            say!(
                Level::Error,
                "a write of process {} failed (ENOSPC): all {} slots of the table are taken and snapshots exist; end some threads",
                raw::own_pid(),
                snapshim::protocol::limits::WRITERS
            );
            return Ok(None);
        }
        backoff.pause();
    }
}

/// What the thread preserves with.
pub fn pusher<'a>(thread: &'a Thread, frame: &'a CallFrame) -> Pusher<'a, LogReporter, Freezer> {
    Pusher {
        table: thread.own.table,
        own: thread.own.caller(),
        slot: thread.slot,
        frame,
        proc_fds: identity::proc_fds(),
        headroom: identity::headroom(),
        own_ranges: identity::own_ranges(),
        unreadable: arena::unreadable_page(),
        mode: push_mode(),
        on_failure: config().on_failure,
        timeout: config().timeout,
        report: &LogReporter,
        store_barrier: &Freezer,
        read_in: &|_| (),
        ahead: &|| 0,
        size: &|| None,
        aside: own_stacks::aside,
    }
}

/// By which means: a process that may not make the calls of a push asks the mappers' agents.
fn push_mode() -> PushMode {
    use Sysno as S;
    const PUSHING: &[S] = &[
        S::openat,
        S::newfstatat,
        S::read,
        S::pread64,
        S::pwrite64,
        S::lseek,
        S::close,
        S::fcntl,
        S::fstatfs,
        S::ioctl,
        S::madvise,
        S::fadvise64,
        S::mmap,
        S::mprotect,
        S::gettid,
        S::rt_sigprocmask,
    ];
    if permission::forbids_any(PUSHING) { PushMode::Agent } else { config().push_mode }
}

/// What the gate asks of this thread.
pub struct GateContext<'a, T> {
    pub thread: &'a Thread,
    pub touch: &'a T,
}

impl<T: Touch> Writer for GateContext<'_, T> {
    fn target(&self, descriptor: u32) -> Target {
        self.touch.target(descriptor)
    }

    fn target_since(&self, descriptor: u32, seen: u32) -> Target {
        let target = target_of_descriptor(descriptor);
        // Acquire: pairs with the Release in `Process::begin_change`. If the count is the same, the number was looked up
        // before any change that followed `seen`.
        fence(Ordering::Acquire);
        let is_same = self.thread.record.is_some_and(|record| record.descriptors(descriptor) == seen);
        if is_same { target } else { Target::Unknown }
    }

    fn unplaced(&self) -> u64 {
        if self.touch.offset().is_none() { self.touch.length() } else { 0 }
    }

    fn wait_for(&self, seen: Ticket) {
        threads::answer_summons();
        self.thread.own.table.await_creation(seen);
    }
}

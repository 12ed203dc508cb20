//! Changes that reach their origin without a descriptor: a store through a shared mapping, or the making of such a mapping.

use core::ops::Range;

use rustix::io::Errno;
use snapshim::preserve::policy::{Failure, OnFailure, PushMode};
use snapshim::preserve::proc_fd_cache::ProcFdCache;
use snapshim::preserve::{Mutation, Pusher};
use snapshim::protocol::gate::{Call, CallFrame, Entry, NO_DESCRIPTOR, Writer};
use snapshim::protocol::origin::{Origin, Target};
use snapshim::table::Table;

use super::slot::{GateContext, clear, enter, pusher, seat_for};
use super::touch::NoBytes;
use crate::base::stack_pointer;
use crate::process::membership;
use crate::process::thread::Thread;

/// Such a change, announced: while it lasts, no snapshot of the origin comes into being.
pub struct Announced<'a> {
    thread: &'a Thread,
    frame: &'a CallFrame,
    origin: Origin,
    /// Whether snapshots of the origin may exist.
    is_watched: bool,
}

impl Announced<'_> {
    /// Whether a snapshot of the origin exists.
    pub fn is_in_use(&self) -> bool {
        self.is_watched && self.thread.own.table.is_origin_in_use(self.origin)
    }

    /// The table that has the snapshots.
    pub fn table(&self) -> &'static Table {
        self.thread.own.table
    }

    /// Preserves what snapshots have of `bytes`. After success the bytes may change, until the announcement ends.
    pub fn make_way(&self, bytes: Range<u64>) -> Result<(), Failure> {
        self.make_way_reading(bytes, &|_| ())
    }

    /// The same for bytes that `read_in` can have the kernel read from the disk.
    pub fn make_way_reading(&self, bytes: Range<u64>, read_in: &dyn Fn(&Range<u64>)) -> Result<(), Failure> {
        if !self.is_watched {
            return Ok(());
        }
        let pusher = Pusher { read_in, ..pusher(self.thread, self.frame) };
        let made = pusher.make_way(self.origin, &Mutation::Bytes(bytes));
        if made.is_err() && self.thread.own.leaves_damaged() { Ok(()) } else { made }
    }

    /// The same for the agent, which asks no other agent for help: agents must not wait for each other. It fails where a snapshot
    /// would need such help, and breaks none.
    pub fn make_way_alone(&self, bytes: Range<u64>, proc_fds: &ProcFdCache) -> Result<(), Failure> {
        if !self.is_watched {
            return Ok(());
        }
        // For a mapper that changes its mapping it waits no longer than this, nanoseconds.
        const MOMENT: u64 = 10_000_000;
        let pusher = pusher(self.thread, self.frame);
        let alone =
            Pusher { proc_fds, mode: PushMode::Alone, on_failure: OnFailure::FailWrite, timeout: MOMENT, ..pusher };
        alone.make_way(self.origin, &Mutation::Bytes(bytes))
    }
}

/// Does `act` announced: no snapshot of `origin` comes into being meanwhile. `act` gets `None` where the call cannot be announced,
/// and no snapshot can be concerned.
///
/// Errors: `ENOSPC`, no slot is free although snapshots exist.
pub fn announced<T>(origin: Origin, act: impl Fn(Option<&Announced<'_>>) -> T) -> Result<T, Errno> {
    let seat = match seat_for(&|| act(None)) {
        Ok(seat) => seat,
        Err(made) => return made.ok_or(Errno::NOSPC),
    };
    let (thread, frames) = (&seat.thread, seat.frames());
    membership::check_table_now_and_then(&thread.own);
    Ok(enter(thread, frames, without_descriptor(origin), &NoBytes, |entry| {
        let is_watched = matches!(entry, Entry::Origin(_));
        act(Some(&Announced { thread, frame: frames.1, origin, is_watched }))
    }))
}

/// Does `act` announced, with what `hold` takes: a lock that a creation may need. So a thread that has to wait for a creation gives
/// it up, and takes it again.
///
/// Errors: as of [`announced`].
pub fn announced_holding<H, T>(
    origin: Origin,
    hold: impl Fn() -> H,
    act: impl Fn(&H, Option<&Announced<'_>>) -> T,
) -> Result<T, Errno> {
    let seat = match seat_for(&|| act(&hold(), None)) {
        Ok(seat) => seat,
        Err(made) => return made.ok_or(Errno::NOSPC),
    };
    let (thread, (outer, frame)) = (&seat.thread, seat.frames());
    membership::check_table_now_and_then(&thread.own);
    let context = GateContext { thread, touch: &NoBytes };
    loop {
        let held = hold();
        match thread.own.table.gate().enter_at_once(frame, outer, without_descriptor(origin), &context) {
            Ok((entry, announcement)) => {
                let is_watched = matches!(entry, Entry::Origin(_));
                let result = act(&held, Some(&Announced { thread, frame, origin, is_watched }));
                clear(thread, frame, announcement);
                return Ok(result);
            }
            Err(seen) => {
                drop(held);
                context.wait_for(seen);
            }
        }
    }
}

/// What the gate is told of such a change.
fn without_descriptor(origin: Origin) -> Call {
    Call { descriptor: NO_DESCRIPTOR, descriptors_seen: 0, target: Target::Origin(origin) }
}

/// The same for the agent, which does not wait: a creation may be waiting for the agent itself. `None`: a creation is under way.
pub fn announced_by_agent<T>(thread: &Thread, origin: Origin, act: impl FnOnce(&Announced<'_>) -> T) -> Option<T> {
    let frame = thread.slot.frames().first().filter(|frame| frame.take(stack_pointer::stack_pointer()))?;
    let context = GateContext { thread, touch: &NoBytes };
    let call = without_descriptor(origin);
    let (entry, announcement) = thread.own.table.gate().enter_without_waiting(frame, call, &context)?;
    let is_watched = matches!(entry, Entry::Origin(_));
    let result = act(&Announced { thread, frame, origin, is_watched });
    clear(thread, frame, announcement);
    Some(result)
}

//! A change that reaches its origin without a descriptor: a store through a shared mapping, or the making of one.

use core::ops::Range;

use rustix::io::Errno;
use snapshim::preserve::kept::KeptFiles;
use snapshim::preserve::policy::{Failure, OnFailure, Way};
use snapshim::preserve::{Change, Pusher};
use snapshim::protocol::gate::{Call, Entry, Frame};
use snapshim::protocol::origin::{Origin, Place};
use snapshim::table::Table;

use super::slot::{Surroundings, clear, pusher, without_thread};
use super::touch::Nowhere;
use crate::base::stack_pointer;
use crate::process::thread::{Seat, Thread};

/// A change that reaches its origin without a descriptor: a store through a shared mapping, or the making of one.
pub struct Announced<'a> {
    thread: &'a Thread,
    frame: &'a Frame,
    origin: Origin,
    /// Whether snapshots may exist.
    is_watched: bool,
}

impl Announced<'_> {
    /// Whether somebody holds a snapshot of the origin.
    pub fn is_in_use(&self) -> bool {
        self.is_watched && self.thread.own.table.is_origin_in_use(self.origin)
    }

    /// Where snapshots are found.
    pub fn table(&self) -> &'static Table {
        self.thread.own.table
    }

    /// Preserves what snapshots have of `bytes`. After success they may change, until the announcement is over.
    pub fn make_way(&self, bytes: Range<u64>) -> Result<(), Failure> {
        self.make_way_reading(bytes, &|_| ())
    }

    /// The same for bytes that `read_in` can have read in.
    pub fn make_way_reading(&self, bytes: Range<u64>, read_in: &dyn Fn(&Range<u64>)) -> Result<(), Failure> {
        if !self.is_watched {
            return Ok(());
        }
        let pusher = Pusher { read_in, ..pusher(self.thread, self.frame) };
        let made = pusher.make_way(self.origin, &Change::Bytes(bytes));
        if made.is_err() && self.thread.own.leaves_damaged() { Ok(()) } else { made }
    }

    /// The same for the agent, without asking anybody for help, and without breaking a snapshot that would need it: agents must not
    /// wait for each other.
    pub fn make_way_alone(&self, bytes: Range<u64>, kept: &KeptFiles) -> Result<(), Failure> {
        if !self.is_watched {
            return Ok(());
        }
        // It waits no longer for a mapper that changes its mapping either.
        const MOMENT: u64 = 10_000_000;
        let pusher = pusher(self.thread, self.frame);
        let alone = Pusher { kept, way: Way::Alone, on_failure: OnFailure::FailWrite, patience: MOMENT, ..pusher };
        alone.make_way(self.origin, &Change::Bytes(bytes))
    }
}

/// Does `act` announced: no snapshot of `origin` comes into being meanwhile. `None` is handed over where no snapshot can be
/// concerned.
///
/// Errors: `ENOSPC`, no slot is free although snapshots exist.
pub fn announced<T>(origin: Origin, act: impl Fn(Option<&Announced<'_>>) -> T) -> Result<T, Errno> {
    let seat = match Seat::take() {
        Ok(seat) => seat,
        Err(error) => match without_thread(error, &|| act(None)) {
            Ok(Some(result)) => return Ok(result),
            Ok(None) => return Err(Errno::NOSPC),
            Err(seat) => seat,
        },
    };
    let (thread, (outer, frame)) = (seat.thread, seat.frames());
    let surroundings = Surroundings { thread: &thread, touch: &Nowhere };
    let (entry, turn) = thread.own.table.gate().enter(frame, outer, without_descriptor(origin), &surroundings);
    let is_watched = matches!(entry, Entry::Origin(_));
    let result = act(Some(&Announced { thread: &thread, frame, origin, is_watched }));
    clear(&thread, frame, turn);
    Ok(result)
}

fn without_descriptor(origin: Origin) -> Call {
    Call { descriptor: u32::MAX, descriptors_seen: 0, place: Place::Origin(origin) }
}

/// See [`announced`]; for the agent, which waits for nobody who may wait for it. `None`: it is not the time.
pub fn announced_by_agent<T>(thread: &Thread, origin: Origin, act: impl FnOnce(&Announced<'_>) -> T) -> Option<T> {
    let frame = thread.slot.frames().first().filter(|frame| frame.take(stack_pointer::stack_pointer()))?;
    let surroundings = Surroundings { thread, touch: &Nowhere };
    let call = without_descriptor(origin);
    let (entry, turn) = thread.own.table.gate().enter_without_waiting(frame, call, &surroundings)?;
    let is_watched = matches!(entry, Entry::Origin(_));
    let result = act(&Announced { thread, frame, origin, is_watched });
    clear(thread, frame, turn);
    Some(result)
}

//! The counts of another process's direct writes, and the kernel's rings, as a creation reads them.
//!
//! See [`aio_queues`](crate::protocol::aio_queues) for what is counted, and why the ring tells the rest.

use super::drain::Straggler;
use crate::protocol::aio_queues::{CLAIMED, ENDING, FREE, QUEUES, QUEUES_AT, WORDS, is_aimed};
use crate::protocol::delay::Cause;
use crate::protocol::origin::Origin;
use crate::protocol::process::Process;
use crate::protocol::process_id::ProcessId;
use crate::sys::raw;
use crate::sys::sync::{Ordering, fence};
use crate::sys::wait::{Backoff, Deadline};
use crate::table::Table;

/// The beginning of `struct aio_ring` (fs/aio.c).
#[derive(Clone, Copy, Debug)]
struct Ring {
    room: u32,
    tail: u32,
}

impl Ring {
    const MAGIC: u32 = 0xa10a_10a1;

    fn read(tid: u32, context: u64) -> Option<Self> {
        let word = |index: u64| raw::read_remote_word(tid, context + index * 8).ok();
        let (room, tail, magic) = ((word(0)? >> 32) as u32, (word(1)? >> 32) as u32, word(2)? as u32);
        (magic == Self::MAGIC && room > 0 && tail < room).then_some(Self { room, tail })
    }

    fn is_idle(self, taken: u64) -> bool {
        taken % u64::from(self.room) == u64::from(self.tail)
    }
}

impl Table {
    /// Waits until no direct write of `origin` is under way. The gate is closed and drained. The error names a process that still
    /// has one. A process that never wrote the origin past the page cache is not waited for, and its memory not looked at.
    pub fn await_queues(&self, origin: Origin, deadline: u64) -> Result<(), Straggler> {
        for (index, record) in self.processes_used().iter().enumerate() {
            let has_written = |id: &ProcessId| record.has_queues(*id) && record.direct.may_include(origin);
            let Some(id) = record.id().filter(has_written) else { continue };
            let (mut backoff, mut deadline) = (Backoff::default(), Deadline::at(deadline));
            let mut is_noted = false;
            while !is_idle(record, id, origin) {
                if backoff.is_sleeping() && self.reap_if_dead(id.owner_word(index as u32)) {
                    break;
                }
                if backoff.is_sleeping() {
                    record.delay.note(id, Cause::DirectWrite, 0, Some(origin), raw::now());
                    is_noted = true;
                }
                if deadline.expired_twice(&backoff) {
                    return Err(Straggler { pid: id.pid(), delay: record.delay.of(id) });
                }
                backoff.pause();
            }
            if is_noted {
                record.delay.clear();
            }
        }
        Ok(())
    }
}

/// Whether certainly no direct write of `origin` is under way in the process.
fn is_idle(record: &Process, id: ProcessId, origin: Origin) -> bool {
    let Some(cookie) = record.cookie(id) else { return false };
    let queues = cookie + QUEUES_AT;
    let word = |address: u64| raw::read_remote_word(id.pid(), address).ok();
    let is_counted = word(cookie) == Some(id.to_word()) && word(queues) == Some(0);
    is_counted
        && (0..QUEUES as u64).all(|index| {
            let at = |field: u64| word(queues + 8 + (index * WORDS as u64 + field) * 8);
            is_queue_idle(id.pid(), at, origin).unwrap_or(false)
        })
}

/// The same of one queue; `None` if that cannot be seen.
fn is_queue_idle(tid: u32, at: impl Fn(u64) -> Option<u64>, origin: Origin) -> Option<bool> {
    const CONTEXT: u64 = 0;
    const TARGET: u64 = 1;
    const BEGUN: u64 = 2;
    const ENDED: u64 = 3;
    const TAKEN: u64 = 4;
    let context = at(CONTEXT)?;
    // No write of the origin begins while the gate is closed. So an entry that is free now has none, even if a context takes it
    // next.
    if context == FREE || context == CLAIMED || !is_aimed(at(TARGET)?, origin) {
        return Some(true);
    }
    if context & ENDING != 0 {
        return Some(false);
    }
    let ended = at(ENDED)?;
    let is_between = at(BEGUN)? == ended;
    let taken = at(TAKEN)?;
    let ring = Ring::read(tid, context)?;
    fence(Ordering::SeqCst);
    // No submission was under way while the ring was looked at, so the count and the tail are of one moment.
    Some(is_between && at(BEGUN)? == ended && at(CONTEXT)? == context && ring.is_idle(taken))
}

//! `SNAPSHIM_SHARED=eager`: after a snapshot was made the agent preserves what the shared mappings of its process cover and opens them,
//! so that few stores trap. Until it has come to a page a store into it traps as ever, so the snapshot is as exact.
//!
//! The agent waits for nobody who may wait for it: while it waits for a creation it answers, and where only another agent could
//! preserve, stores go on trapping.

use core::cell::Cell;
use core::ops::Range;

use snapshim::PAGE;
use snapshim::raw::SignalsBlocked;

use super::{list, set_protection};
use crate::config::config;
use crate::hooks::change::{Announced, announced_by};
use crate::process::Own;
use crate::thread::{self, Thread};

/// How far the agent has come.
#[derive(Default)]
pub struct Eager {
    thread: Option<Thread>,
    /// Everything below is open, as far as this agent is concerned.
    next: Option<u64>,
}

/// Bytes that are preserved between two looks at what else the agent has to do.
const PIECE: u64 = 1024 * PAGE;

impl Eager {
    /// The mappings have been armed.
    pub fn begin_anew(&mut self) {
        if config().opens_eagerly {
            self.next = Some(0);
        }
    }

    /// Opens one more piece. False: there is none. `answer` does what others wait for; true if the mappings have been armed.
    pub fn open_piece(&mut self, own: &Own, answer: impl Fn() -> bool) -> bool {
        let Some(next) = self.next else { return false };
        self.thread = self.thread.filter(|thread| thread.own.id == own.id).or_else(|| thread::without_storage(*own));
        let is_armed_anew = Cell::new(false);
        let meanwhile = || is_armed_anew.set(is_armed_anew.get() | answer());
        let done = self.thread.as_ref().and_then(|thread| open_from(thread, next, meanwhile));
        self.next = if is_armed_anew.get() { Some(0) } else { done };
        self.next.is_some()
    }
}

/// Opens a piece at or behind `next`, the address behind it; `None` if there is none, or it cannot be preserved: then its stores trap.
fn open_from(thread: &Thread, next: u64, meanwhile: impl Fn()) -> Option<u64> {
    let (part, origin) = {
        let _signals = SignalsBlocked::new();
        let list = list::read();
        let behind = list.touching(&(next..u64::MAX)).filter(|entry| entry.is_writable());
        let entry = behind.min_by_key(|entry| entry.range.start.max(next))?;
        let start = entry.range.start.max(next);
        (start..entry.range.end.min(start + PIECE), entry.origin)
    };
    let open = |announced: Option<&Announced<'_>>| {
        let bytes = bytes_of(&part)?;
        announced?.try_make_way(bytes.clone()).ok()?;
        let list = list::read();
        let entry = list.at(part.start).filter(|entry| entry.is_writable() && entry.origin == origin)?;
        if entry.part(&part) == part && entry.bytes(&part) == bytes {
            set_protection(entry, &part, true).ok()?;
        }
        Some(part.end)
    };
    let wait = |seen| thread.own.table.await_creation_and(seen, &meanwhile);
    announced_by(thread, origin, wait, open).ok().flatten()
}

fn bytes_of(part: &Range<u64>) -> Option<Range<u64>> {
    let list = list::read();
    list.at(part.start).filter(|entry| entry.part(part) == *part).map(|entry| entry.bytes(part))
}

//! `SNAPSHIM_SHARED=eager`: after a snapshot was made, the agent preserves what the shared mappings of its process cover and opens
//! them, so that few stores trap. A store into a page that the agent has not reached yet traps as without it, so the snapshot is
//! exact all the same.

use core::ops::Range;

use snapshim::PAGE;
use snapshim::preserve::proc_fd_cache::ProcFdCache;
use snapshim::protocol::origin::Origin;

use super::list;
use super::protection::set_protection;
use super::robust_futex::{self, Progress};
use crate::base::config::config;
use crate::process::identity::ThisProcess;
use crate::process::thread::{self, Thread};
use crate::writer::announced::{Announced, announced_by_agent};

/// How far the agent has come.
#[derive(Default)]
pub struct Prefault {
    /// The agent's writer slot, once it has needed one.
    thread: Option<Thread>,
    /// The agent has done everything below this address; `None`: there is nothing to do.
    next: Option<u64>,
}

/// How many bytes are preserved before the agent turns to its other work.
const BATCH: u64 = 1024 * PAGE;

impl Prefault {
    /// Begins at the lowest address again: the mappings have been armed.
    pub fn begin_anew(&mut self) {
        if config().opens_eagerly {
            self.next = Some(0);
        }
    }

    /// Opens one more part. Words that the kernel may have to mark come first, with or without `SNAPSHIM_SHARED=eager`. `proc_fds`
    /// has the agent's files in /proc.
    pub fn open_batch(&mut self, own: &ThisProcess, proc_fds: &ProcFdCache) -> Progress {
        let open_word = |part: &Range<u64>, origin| {
            self.thread(own).map_or(Progress::Over, |thread| open_part(thread, part, origin, proc_fds))
        };
        if let Progress::Later = robust_futex::open_lock_words(open_word) {
            return Progress::Later;
        }
        let Some(next) = self.next else { return Progress::Over };
        let Some(thread) = self.thread(own) else { return Progress::Over };
        let progress =
            batch_from(next).map_or(Progress::Over, |(part, origin)| open_part(thread, &part, origin, proc_fds));
        match progress {
            Progress::Until(next) => self.next = Some(next),
            Progress::Over => self.next = None,
            Progress::Later => {}
        }
        progress
    }

    fn thread(&mut self, own: &ThisProcess) -> Option<&Thread> {
        self.thread = self.thread.filter(|thread| thread.own.id == own.id).or_else(|| thread::without_storage(*own));
        self.thread.as_ref()
    }
}

/// Preserves and opens a part of one mapping.
fn open_part(thread: &Thread, part: &Range<u64>, origin: Origin, proc_fds: &ProcFdCache) -> Progress {
    let open = |announced: &Announced<'_>| {
        let bytes = bytes_of(part)?;
        announced.make_way_alone(bytes.clone(), proc_fds).ok()?;
        let list = list::read();
        let entry = list.at(part.start).filter(|entry| entry.is_writable() && entry.origin == origin)?;
        if entry.part(part) == *part && entry.bytes(part) == bytes {
            set_protection(entry, part, true).ok()?;
        }
        Some(part.end)
    };
    match announced_by_agent(thread, origin, open) {
        None => Progress::Later,
        Some(None) => Progress::Over,
        Some(Some(end)) => Progress::Until(end),
    }
}

/// The first part to open at or behind `next`, and the origin that it shows.
fn batch_from(next: u64) -> Option<(Range<u64>, Origin)> {
    let list = list::read();
    let entry = list.touching(&(next..u64::MAX)).rfind(|entry| entry.is_writable())?;
    let start = entry.range.start.max(next);
    Some((start..entry.range.end.min(start + BATCH), entry.origin))
}

/// The bytes of the origin that a part shows; `None`: the mapping has changed.
fn bytes_of(part: &Range<u64>) -> Option<Range<u64>> {
    let list = list::read();
    list.at(part.start).filter(|entry| entry.part(part) == *part).map(|entry| entry.bytes(part))
}

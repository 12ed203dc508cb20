//! What a process holds back: the creation that waits for it, or waited in vain, since when, and for what.
//!
//! It is for people: the log and `snapshim status` show it. No decision rests on it. Creations write it, several at once may, and a
//! reader may find the words of different ones.

use super::gate::Announcement;
use super::origin::{AtomicTarget, Origin, Target};
use super::process_id::ProcessId;
use crate::sys::sync::{AtomicU64, Ordering};

/// Why a creation waits for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A thread is in a call that may write the file. Which call, and by which descriptor; `u32::MAX`: by none.
    Write(Announcement, u32),
    /// It may have the file mapped shared, and has not armed its mappings.
    Mapping,
    /// It has direct writes under way.
    DirectWrite,
}

/// One wait for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// Why.
    pub cause: Cause,
    /// For which of its threads; 0: not for a certain one.
    pub thread: u32,
    /// The file of which a snapshot was wanted; `None`: several.
    pub origin: Option<Origin>,
    /// When a creation first had to wait for this (CLOCK_MONOTONIC, nanoseconds).
    pub since: u64,
}

/// A [`Delay`] in a process record. All-zero: none.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C)]
pub struct AtomicDelay {
    /// epoch:32 | kind:8 | thread:24.
    what: AtomicU64,
    announcement: AtomicU64,
    descriptor: AtomicU64,
    since: AtomicU64,
    origin: AtomicTarget,
}

const KIND_SHIFT: u32 = 24;
const THREAD: u64 = (1 << KIND_SHIFT) - 1;

impl AtomicDelay {
    /// Notes that a creation waits for `id`. If it waited for the same before, the time of that stays.
    pub fn note(&self, id: ProcessId, cause: Cause, thread: u32, origin: Option<Origin>, now: u64) {
        let (kind, announcement, descriptor) = match cause {
            Cause::Write(announcement, descriptor) => (1, announcement.number(), descriptor),
            Cause::Mapping => (2, 0, 0),
            Cause::DirectWrite => (3, 0, 0),
        };
        let what = u64::from(id.epoch()) << 32 | kind << KIND_SHIFT | u64::from(thread) & THREAD;
        let is_same = self.what.load(Ordering::Relaxed) == what
            && self.announcement.load(Ordering::Relaxed) == announcement
            && self.origin() == origin;
        if is_same {
            return;
        }
        self.announcement.store(announcement, Ordering::Relaxed);
        self.descriptor.store(u64::from(descriptor), Ordering::Relaxed);
        self.since.store(now, Ordering::Relaxed);
        self.origin.store(origin.map_or(Target::Elsewhere, Target::Origin));
        self.what.store(what, Ordering::Relaxed);
    }

    /// A creation waits no longer: what it waited for is over.
    pub fn clear(&self) {
        if self.what.load(Ordering::Relaxed) != 0 {
            self.what.store(0, Ordering::Relaxed);
        }
    }

    /// What was noted last of `id`.
    pub fn of(&self, id: ProcessId) -> Option<Delay> {
        let what = self.what.load(Ordering::Relaxed);
        if what >> 32 != u64::from(id.epoch()) {
            return None;
        }
        let descriptor = self.descriptor.load(Ordering::Relaxed) as u32;
        let cause = match what >> KIND_SHIFT & 0xff {
            1 => Cause::Write(Announcement::of_number(self.announcement.load(Ordering::Relaxed)), descriptor),
            2 => Cause::Mapping,
            3 => Cause::DirectWrite,
            _ => return None,
        };
        let thread = (what & THREAD) as u32;
        Some(Delay { cause, thread, origin: self.origin(), since: self.since.load(Ordering::Relaxed) })
    }

    fn origin(&self) -> Option<Origin> {
        match self.origin.load() {
            Target::Origin(origin) => Some(origin),
            Target::Unknown | Target::Elsewhere => None,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn the_time_of_the_first_wait_stays() {
        let noted = AtomicDelay::new_zeroed();
        let id = ProcessId::new(100, 7);
        let origin = Some(Origin::file(64, 5));
        assert_eq!(noted.of(id), None);
        noted.note(id, Cause::Mapping, 3, origin, 10);
        noted.note(id, Cause::Mapping, 3, origin, 20);
        let expected = Delay { cause: Cause::Mapping, thread: 3, origin, since: 10 };
        assert_eq!(noted.of(id), Some(expected));
        noted.note(id, Cause::Mapping, 4, origin, 30);
        assert_eq!(noted.of(id).map(|found| found.since), Some(30));
        assert_eq!(noted.of(ProcessId::new(100, 8)), None, "of an earlier image");
        noted.clear();
        assert_eq!(noted.of(id), None);
    }

    #[test]
    fn a_call_is_told_by_its_announcement() {
        let noted = AtomicDelay::new_zeroed();
        let id = ProcessId::new(100, 7);
        let cause = |number| Cause::Write(Announcement::of_number(number), 4);
        noted.note(id, cause(1), 3, None, 10);
        noted.note(id, cause(2), 3, None, 20);
        assert_eq!(noted.of(id), Some(Delay { cause: cause(2), thread: 3, origin: None, since: 20 }));
    }
}

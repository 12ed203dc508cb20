//! Counted changes: by which a change that nobody counted is told.
//!
//! Whoever cooperates counts each change of an origin ([`Changes`]) before it lands. Now and then the mapper looks at the file
//! ([`look`]): if its time of modification moved and the count did not, somebody changed it who does not cooperate.

use crate::sys::sync::{AtomicU64, Fault, Ordering, fence, planted};

/// Counts the cooperating changes of an origin, or of several that share the counter: then a foreign change may go unnoticed, and
/// nobody is suspected for nothing.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[derive(Debug)]
#[repr(transparent)]
pub struct Changes(AtomicU64);

impl Changes {
    /// None so far.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts a change that has been announced and is about to land.
    #[inline]
    pub fn note(&self) {
        if planted(Fault::CountedChange) {
            return;
        }
        // Release: pairs with the Acquire in `count`; the announcement is visible to who finds the change counted.
        self.0.fetch_add(1, Ordering::Release);
        // Release: pairs with the Acquire fence in `look`; who sees what the call does to the file finds it counted.
        fence(Ordering::Release);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// When a file was modified last, and its size: what a change of its bytes moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modified {
    /// Nanoseconds after the epoch.
    pub time: u64,
    /// Bytes.
    pub size: u64,
}

impl Modified {
    /// From the fields of a `stat`.
    #[must_use]
    pub const fn new(seconds: i64, nanoseconds: u64, size: u64) -> Self {
        Self { time: seconds.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(nanoseconds), size }
    }
}

/// How a file was, and how many changes had been counted by then: all that were counted had landed, and what had landed was
/// counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// By [`Changes`].
    pub counted: u64,
    /// The file.
    pub file: Modified,
}

/// Looks at a file. `None`: a change is under way, and nothing can be said.
///
/// One count for each change is enough, although the change lands later than it is counted:
/// - what is counted by the first look at the count and has not landed has its frame under way still, because it was announced before
///   it was counted; `is_quiet` looks at the frames after the count and before the file;
/// - what landed before the look at the file was counted before, so the second look at the count finds it.
pub fn look(
    changes: &Changes,
    is_quiet: impl FnOnce() -> bool,
    file: impl FnOnce() -> Option<Modified>,
) -> Option<Sight> {
    let counted = changes.count();
    if !is_quiet() && !planted(Fault::QuietLook) {
        return None;
    }
    let file = file()?;
    // Acquire: pairs with the Release fence in `Changes::note`: the file before the count.
    fence(Ordering::Acquire);
    (changes.count() == counted || planted(Fault::SecondCount)).then_some(Sight { counted, file })
}

impl Sight {
    /// Whether somebody who does not cooperate changed the file since `earlier`.
    ///
    /// A file that only grew without being modified is one whose appends are completed late (xfs, asynchronous ones).
    #[must_use]
    pub fn tells_on_somebody_since(&self, earlier: &Self) -> bool {
        let moved = self.file.time != earlier.file.time || self.file.size < earlier.file.size;
        moved && self.counted == earlier.counted
    }
}

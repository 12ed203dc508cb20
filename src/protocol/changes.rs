//! Counted changes: how a change by a program without the shim is found.
//!
//! Each cooperating process counts each change of an origin ([`Changes`]) before it lands. Now and then the mapper looks at the
//! file ([`observe`]). If the file's time of modification moved and the count did not, a process changed it that does not
//! cooperate.

use crate::sys::sync::{AtomicU64, Fault, Ordering, fence, planted};

/// Counts the cooperating changes of an origin, or of several that share the counter. Where they share it, a foreign change may go
/// unnoticed, but no change is taken for a foreign one by mistake.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(transparent)]
pub struct Changes(AtomicU64);

impl Changes {
    /// Counts a change that has been announced and is about to land.
    #[inline]
    pub fn note(&self) {
        if planted(Fault::CountedChange) {
            return;
        }
        // Release: pairs with the Acquire in `count`; a thread that finds the change counted sees the announcement.
        self.0.fetch_add(1, Ordering::Release);
        // Release: pairs with the Acquire fence in `observe`; a thread that sees what the call does to the file finds it counted.
        fence(Ordering::Release);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// When a file was modified last, and its size: a change of its bytes moves one of them.
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

/// How a file was, and how many changes had been counted by then: each counted change had landed, and each that had landed was
/// counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// By [`Changes`].
    pub counted: u64,
    /// The file.
    pub file: Modified,
}

/// Looks at a file. `None`: a change is under way, and nothing can be said.
///
/// One count for each change is enough, although the change lands later than it is counted:
/// - A change that the first look at the count finds, and that has not landed, still has its frame under way, because it was
///   announced before it was counted. `is_quiet` looks at the frames after the count and before the file.
/// - A change that landed before the look at the file was counted before that, so the second look at the count finds it.
pub fn observe(
    changes: &Changes,
    is_quiet: impl FnOnce() -> bool,
    file: impl FnOnce() -> Option<Modified>,
) -> Option<Observation> {
    let counted = changes.count();
    if !is_quiet() && !planted(Fault::QuietCheck) {
        return None;
    }
    let file = file()?;
    // Acquire: pairs with the Release fence in `Changes::note`; orders the look at the file before the second look at the count.
    fence(Ordering::Acquire);
    (changes.count() == counted || planted(Fault::SecondCount)).then_some(Observation { counted, file })
}

impl Observation {
    /// Whether a process that does not cooperate changed the file since `earlier`.
    ///
    /// A file that only grew, and whose time of modification did not move, is no sign: xfs completes asynchronous appends late.
    #[must_use]
    pub fn indicates_foreign_change_since(&self, earlier: &Self) -> bool {
        let moved = self.file.time != earlier.file.time || self.file.size < earlier.file.size;
        moved && self.counted == earlier.counted
    }
}

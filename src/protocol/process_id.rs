//! Names of processes: of one image of one process, of what records refer to it by, and of the process that makes a call.

use crate::sys::sync::{AtomicU64, Ordering};

/// One image of one process, or a pending child; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId(u64);

/// An epoch has as many bits as a writer slot has room for. It tells an image from the next image with the same record, to which
/// something left behind would seem to belong: the chance of a mistake is one in 67 million for each such leftover.
pub const EPOCH_BITS: u32 = 26;

/// No pid is as large (linux/threads.h, PID_MAX_LIMIT).
const PENDING_CHILD: u32 = 1 << 31;

impl ProcessId {
    /// The image `epoch` (random, not 0) of `pid`.
    #[must_use]
    pub const fn new(pid: u32, epoch: u32) -> Self {
        let epoch = epoch & ((1 << EPOCH_BITS) - 1);
        let epoch = if epoch == 0 { 1 } else { epoch };
        Self((epoch as u64) << 32 | pid as u64)
    }

    /// A pending child: process record `parent` is about to fork it. One exchange claims its record and says which process answers
    /// for it.
    #[must_use]
    pub fn pending_child(parent: u32, epoch: u32) -> Self {
        Self::new(PENDING_CHILD | parent, epoch)
    }

    /// The process record that forks it, if it is pending.
    #[must_use]
    pub fn parent_of_pending(self) -> Option<u32> {
        let low = self.0 as u32;
        (low & PENDING_CHILD != 0).then_some(low & !PENDING_CHILD)
    }

    /// From a word that [`ProcessId::to_word`] made.
    #[must_use]
    pub fn from_word(word: u64) -> Option<Self> {
        (word != 0).then_some(Self(word))
    }

    /// As a word of the table.
    #[must_use]
    pub fn to_word(self) -> u64 {
        self.0
    }

    /// The process id; 0 for a pending child.
    #[must_use]
    pub fn pid(self) -> u32 {
        if self.parent_of_pending().is_some() { 0 } else { self.0 as u32 }
    }

    /// The image epoch.
    #[must_use]
    pub fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// How records refer to process record `index` of this image.
    #[must_use]
    pub fn owner_word(self, index: u32) -> u64 {
        u64::from(self.epoch()) << 32 | u64::from(index + 1)
    }
}

/// The process record index in an owner word.
#[must_use]
pub fn owner_index(owner: u64) -> Option<u32> {
    (owner as u32).checked_sub(1)
}

/// The image epoch in an owner word.
#[must_use]
pub fn owner_epoch(owner: u64) -> u32 {
    (owner >> 32) as u32
}

/// The calling process, for a call that may find itself in a child: a handler that interrupted it may have forked.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Owner word of the image that made the call.
    pub owner: u64,
    /// The word by which the process is known; another in a child, or zero.
    pub image: &'a AtomicU64,
    /// Whether the calling process is a child that acts in the image's memory, as after vfork(2), while the image's threads go on.
    pub is_vfork_child: bool,
}

impl Caller<'_> {
    /// Whether the calling process still is the one that made the call.
    #[must_use]
    pub fn is_here(&self) -> bool {
        (self.image.load(Ordering::Relaxed) >> 32) as u32 == owner_epoch(self.owner)
    }

    /// Whether a record that refers to `owner` is the calling process's own.
    #[must_use]
    pub fn is(&self, owner: u64) -> bool {
        owner == self.owner && self.is_here()
    }

    /// Whether the calling process may change the mappings of `owner`. A child that acts in this memory may not: it may be killed
    /// half-way, alone.
    #[must_use]
    pub fn may_change(&self, owner: u64) -> bool {
        self.is(owner) && !self.is_vfork_child
    }
}

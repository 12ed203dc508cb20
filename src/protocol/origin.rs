//! An origin: the file or block device a snapshot was taken of.

use core::fmt;

use crate::sys::mix::mix;
use crate::sys::sync::{AtomicU64, Ordering};

/// Identity of an origin: `(st_dev, st_ino)` of a regular file, `st_rdev` of a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    device: u64,
    inode: u64,
}

/// Where a call's bytes go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Not looked at yet.
    #[default]
    Unknown,
    /// To something that can be no origin: a pipe, a socket, a terminal.
    Elsewhere,
    /// A file or block device.
    Origin(Origin),
}

const KNOWN: u64 = 1 << 62;
const BLOCK: u64 = 1 << 61;

impl Origin {
    /// The regular file with these `stat` fields.
    #[must_use]
    pub const fn file(st_dev: u64, st_ino: u64) -> Self {
        Self { device: st_dev | KNOWN, inode: st_ino }
    }

    /// The block device with this `st_rdev`.
    #[must_use]
    pub const fn block_device(st_rdev: u64) -> Self {
        Self { device: st_rdev | KNOWN | BLOCK, inode: 0 }
    }

    /// Whether this is a block device.
    #[must_use]
    pub const fn is_block_device(self) -> bool {
        self.device & BLOCK != 0
    }

    /// `st_dev` of a file, `st_rdev` of a block device.
    #[must_use]
    pub const fn device(self) -> u64 {
        self.device & !(KNOWN | BLOCK)
    }

    /// `st_ino` of a file, 0 of a block device.
    #[must_use]
    pub const fn inode(self) -> u64 {
        self.inode
    }

    /// A non-zero 64-bit fingerprint. Equal origins have equal ones, and few others do.
    #[must_use]
    pub const fn fingerprint(self) -> u64 {
        let mixed = mix(self.device, self.inode.rotate_left(32)) ^ self.inode;
        if mixed == 0 { 1 } else { mixed }
    }
}

/// For a person: as stat(1) and lsblk(8) name it.
impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = (rustix::fs::major(self.device()), rustix::fs::minor(self.device()));
        if self.is_block_device() {
            write!(formatter, "block device {major}:{minor}")
        } else {
            write!(formatter, "inode {} of device {major}:{minor}", self.inode())
        }
    }
}

/// A [`Target`] in the table. All-zero is [`Target::Unknown`].
///
/// One thread at a time writes it, with `store`. A reader may find the two words of different stores: afterwards it looks at the
/// word that says whether the record has changed meanwhile.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C)]
pub struct AtomicTarget {
    device: AtomicU64,
    inode: AtomicU64,
}

const ELSEWHERE: u64 = u64::MAX;

impl AtomicTarget {
    /// A cell that says [`Target::Unknown`].
    #[cfg(not(loom))]
    #[must_use]
    #[allow(clippy::new_without_default, reason = "outside of the table only ever in a static")]
    pub const fn new() -> Self {
        Self { device: AtomicU64::new(0), inode: AtomicU64::new(0) }
    }

    /// Replaces the target.
    pub fn store(&self, target: Target) {
        let (device, inode) = match target {
            Target::Unknown => (0, 0),
            Target::Elsewhere => (ELSEWHERE, 0),
            Target::Origin(origin) => (origin.device, origin.inode),
        };
        self.inode.store(inode, Ordering::Relaxed);
        // Release: pairs with the Acquire in `load`; a thread that sees this device sees this inode or a later one.
        self.device.store(device, Ordering::Release);
    }

    /// The target, possibly torn between two stores.
    pub fn load(&self) -> Target {
        // Acquire: pairs with the Release in `store`.
        match self.device.load(Ordering::Acquire) {
            0 => Target::Unknown,
            ELSEWHERE => Target::Elsewhere,
            device => Target::Origin(Origin { device, inode: self.inode.load(Ordering::Relaxed) }),
        }
    }
}

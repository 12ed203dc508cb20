//! What may be done with pages, and changing it.

use core::ffi::c_void;
use core::ops::BitOr;

use rustix::mm::{MprotectFlags, mprotect};

use crate::{Error, Known, Result, known, page};

/// A set of READ, WRITE and EXECUTE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection(u32);

impl Protection {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// May be read.
    pub const READ: Self = Self(MprotectFlags::READ.bits());
    /// May be stored into.
    pub const WRITE: Self = Self(MprotectFlags::WRITE.bits());
    /// May be executed.
    pub const EXECUTE: Self = Self(MprotectFlags::EXEC.bits());
    /// Both.
    pub const READ_WRITE: Self = Self(Self::READ.0 | Self::WRITE.0);
    /// Both.
    pub const READ_EXECUTE: Self = Self(Self::READ.0 | Self::EXECUTE.0);
    /// All.
    pub const READ_WRITE_EXECUTE: Self = Self(Self::READ_WRITE.0 | Self::EXECUTE.0);

    /// Whether all of `other` is in it.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Protection {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Changes the protection of the pages that `length` bytes at `address` touch. There is nothing to change where it is known to be
/// so.
///
/// # Safety
/// See mprotect(2): whoever uses these pages gets along with it.
pub unsafe fn protect<T>(address: *const T, length: usize, protection: Protection) -> Result<()> {
    if length == 0 {
        return Err(Error::InvalidParameter("length"));
    }
    let pages = page::around(address, length);
    let mut known = known();
    if known
        .iter()
        .flat_map(|known| &known.regions)
        .any(|region| region.holds(&pages) && region.protection == protection)
    {
        return Ok(());
    }
    let start = address.with_addr(pages.start).cast_mut().cast::<c_void>();
    // SAFETY: the caller's promise.
    let changed = unsafe { mprotect(start, pages.len(), MprotectFlags::from_bits_retain(protection.0)) };
    if let Some(known) = &mut *known {
        match known.regions.iter_mut().find(|region| region.range == pages) {
            Some(region) if changed.is_ok() => region.protection = protection,
            _ => *known = Known::default(),
        }
    }
    Ok(changed?)
}

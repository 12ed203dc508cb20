//! Whether another process really has an origin mapped shared and writable. Its record in the table says only that it may.

use core::ops::ControlFlow;
use core::ptr;

use rustix::fd::BorrowedFd;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use snapshim::PAGE;
use snapshim::protocol::origin::Origin;
use snapshim::sys::raw;

use crate::base::file_mappings::{Backing, Filter, each_mapping, maps_of};

/// Whether process `pid` has certainly no writable shared mapping of `origin`, which is open at `file`. The gate of the origin is
/// closed, so no such mapping is made, moved or opened while this looks.
///
/// A mapping that an earlier creation has armed is not writable. No process opens it again while the gate is closed.
pub fn has_none(pid: u32, origin: Origin, file: BorrowedFd<'_>) -> bool {
    let Some(backing) = find_backing(origin, file) else { return false };
    let Ok(maps) = maps_of(pid) else { return false };
    let mut is_none = true;
    let seen = each_mapping(&maps, Filter::WritableAndShared, |mapping| {
        is_none &= mapping.backing != backing;
        if is_none { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    seen.is_ok() && is_none
}

/// How the kernel names the origin in lists of mappings. What stat(2) says may be something else, so a mapping of the origin is
/// made and looked at. A block device is named by the node that it was opened by, and there may be several: `None`.
fn find_backing(origin: Origin, file: BorrowedFd<'_>) -> Option<Backing> {
    if origin.is_block_device() {
        return None;
    }
    let length = PAGE as usize;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address = unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, file, 0) }.ok()?;
    let mut found = None;
    let seen = maps_of(raw::own_pid()).and_then(|maps| {
        each_mapping(&maps, Filter::At(address as u64), |mapping| {
            found = Some(mapping.backing);
            ControlFlow::Break(())
        })
    });
    // SAFETY: the mapping was just made, and no other code has its address.
    let _ = unsafe { munmap(address, length) };
    seen.ok().and(found)
}

//! Preserving in the mapper's own process: what its agent does when asked, and what a process does for itself.
//!
//! Everything here changes the mapping under an odd generation, so no hook of another thread changes it at the same time.

use core::ffi::c_void;
use core::ops::Range;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, madvise};
use syscalls::{Sysno, syscall};

use super::{kept::KeptFiles, record, unshare, verify};
use crate::PAGE;
use crate::drain::Patience;
use crate::raw;
use crate::snapshot::{Extent, Snapshot, State, View};
use crate::table::Table;
use crate::table::writer::Request;

/// Does what `request` asks of the calling process, whose owner word is `own`. True once it is done and verified.
pub fn serve(table: &Table, own: u64, request: &Request, kept: &KeptFiles, deadline: u64) -> bool {
    let Some(snapshot) = table.snapshot(request.snapshot) else { return false };
    if request.count == 0 {
        return break_snapshot(table, request.snapshot, request.life, deadline);
    }
    let Some(view) = begin_change(snapshot, request.life, deadline) else { return is_over(snapshot, request.life) };
    let kept_pages = view.kept();
    let start = request.first.max(kept_pages.start);
    let end = request.first.saturating_add(request.count).min(kept_pages.end);
    let done =
        view.identity.owner == own && (start >= end || copy(table, request.snapshot, &view, start..end, kept).is_ok());
    snapshot.end_change();
    done
}

/// Makes the whole piece fault (SIGBUS) and says so in its state.
pub fn break_snapshot(table: &Table, index: u32, life: u32, deadline: u64) -> bool {
    let Some(snapshot) = table.snapshot(index) else { return false };
    let _signals = raw::SignalsBlocked::new();
    let Some(view) = begin_change(snapshot, life, deadline) else { return is_over(snapshot, life) };
    let length = (view.extent.pages * PAGE) as usize;
    let broken = map_faulting(view.extent.address, length).is_ok();
    if broken {
        snapshot.mark(life, State::Broken);
    }
    snapshot.end_change();
    broken
}

fn is_over(snapshot: &Snapshot, life: u32) -> bool {
    let head = snapshot.head();
    head.life() != life || !head.wants_pages()
}

/// Even -> odd, waiting for other threads of the process that are changing the mapping. `None` when it is over, or too late.
pub fn begin_change(snapshot: &Snapshot, life: u32, deadline: u64) -> Option<View> {
    let mut patience = Patience::default();
    while !is_over(snapshot, life) || snapshot.head().state() == State::Broken && snapshot.head().life() == life {
        if snapshot.begin_change(life).is_some() {
            return snapshot.view();
        }
        if patience.is_tried() && raw::now() > deadline {
            return None;
        }
        patience.pause();
    }
    None
}

/// Copies `pages` of the piece, verifies and records it. The generation is odd.
fn copy(table: &Table, index: u32, view: &View, pages: Range<u64>, kept: &KeptFiles) -> Result<(), Errno> {
    let (_, _, id) = table.owner(view.identity.owner).ok_or(Errno::SRCH)?;
    let address = view.address_of(pages.start);
    let count = pages.end - pages.start;
    if unshare::is_writable(view.extent.protection) {
        // SAFETY: the range is part of the snapshot, which no other thread changes now; populating changes no byte.
        unsafe { madvise(address as *mut c_void, (count * PAGE) as usize, Advice::LinuxPopulateWrite) }?;
    } else if view.extent.protection != Extent::PROTECTION_UNKNOWN {
        replace_by_copy(address, (count * PAGE) as usize, view.extent.protection)?;
    } else {
        return Err(Errno::ACCESS);
    }
    // Where even /proc/self cannot be read, the kernel's success has to do: nobody but this thread changes the mapping.
    if verify::private_pages(id, address, count, kept).is_ok_and(|private| private < count) {
        return Err(Errno::NOMEM);
    }
    record(table, index, view, pages);
    Ok(())
}

/// Puts anonymous memory with the same bytes and protection in place of a range that cannot be written.
///
/// The bytes come from the mapping itself, never from the origin. process_vm_readv(2) answers EFAULT where a load would fault.
fn replace_by_copy(address: u64, length: usize, protection: u32) -> Result<(), Errno> {
    let wanted = MprotectFlags::from_bits_retain(protection);
    // SAFETY: a new anonymous mapping at an address that the kernel chooses.
    let memory = unsafe {
        rustix::mm::mmap_anonymous(core::ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    }?;
    let copied = readable(address, length, wanted, || read_own(address, memory, length)).and_then(|()| {
        // SAFETY: `memory` is ours until it replaces the range at `address`, which is a snapshot that no other thread changes now;
        // the replacement is atomic for threads that read it.
        unsafe {
            rustix::mm::mprotect(memory, length, wanted)?;
            rustix::mm::mremap_fixed(memory, length, length, MremapFlags::MAYMOVE, address as *mut c_void).map(drop)
        }
    });
    if copied.is_err() {
        // SAFETY: `memory` was not moved, it is still ours.
        let _ = unsafe { rustix::mm::munmap(memory, length) };
    }
    copied
}

/// Calls `read` while the range is readable; a range without PROT_READ is opened for that long.
fn readable(
    address: u64,
    length: usize,
    wanted: MprotectFlags,
    read: impl FnOnce() -> Result<(), Errno>,
) -> Result<(), Errno> {
    if wanted.contains(MprotectFlags::READ) {
        return read();
    }
    let at = address as *mut c_void;
    // SAFETY: the range is part of the snapshot, which no other thread changes now; more access breaks nobody.
    unsafe { rustix::mm::mprotect(at, length, wanted | MprotectFlags::READ) }?;
    let result = read();
    // SAFETY: as above; this is the protection it had.
    unsafe { rustix::mm::mprotect(at, length, wanted) }?;
    result
}

fn read_own(address: u64, to: *mut c_void, length: usize) -> Result<(), Errno> {
    let local = [to as usize, length];
    let remote = [address as usize, length];
    let own = raw::own_tid();
    // SAFETY: the local iovec is writable for `length` bytes; the kernel checks the remote one.
    let result = unsafe { syscall!(Sysno::process_vm_readv, own, local.as_ptr(), 1, remote.as_ptr(), 1, 0) };
    match result {
        Ok(count) if count == length => Ok(()),
        Ok(_) => Err(Errno::FAULT),
        Err(error) => Err(Errno::from_raw_os_error(error.into_raw())),
    }
}

/// Maps `length` bytes at `address` so that every access raises SIGBUS, as past the end of a file: an empty memfd.
pub fn map_faulting(address: u64, length: usize) -> Result<(), Errno> {
    let empty = rustix::fs::memfd_create(c"snapshim", MemfdFlags::CLOEXEC)?;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the caller owns the range and wants it replaced.
    unsafe { rustix::mm::mmap(address as *mut c_void, length, access, MapFlags::PRIVATE | MapFlags::FIXED, &empty, 0) }
        .map(drop)
}

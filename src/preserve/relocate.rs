//! Relocate: move a range of the mapping onto memory that does not belong to the file.
//!
//! Truncation and its kin take even private copies of file pages away; anonymous memory they cannot reach. The bytes come from the
//! mapping itself, never from the origin, and mremap(2) puts the copy in place atomically for whoever reads meanwhile.
//!
//! The kernel pins a page before it copies it, but what it copies here is never newer than the snapshot, though nothing is looked at
//! behind the copy. The generation is odd. A writer takes a page for private only if it finds the generation even and unchanged
//! behind its proof, so the page was private before the generation became odd, and before it was pinned here: the copy is of the
//! private page. A page that is shared when it is pinned has no change until the generation is even again, by when the copy stands in
//! its place. A pusher that began before may store a byte into the copy: by [`super::bytes`], one that is there already.

use core::ffi::c_void;
use core::ptr;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, madvise};
use syscalls::{Sysno, syscall};

use super::unshare;
use crate::raw;
use crate::snapshot::{LOCKED, NOT_INHERITED, View};

/// Keeps the process's other threads from storing into a range while it is copied.
pub trait Stores {
    /// From now on stores into the range trap and wait. False: they cannot be kept from it.
    fn hold(&self, address: u64, length: usize, protection: u32) -> bool;
    /// The range is writable again, or given up; those who wait go on.
    fn release(&self);
}

/// Moves a range to memory of its own, stores of other threads included up to the moment it is replaced.
pub fn move_to_own_memory(address: u64, length: usize, view: &View, stores: &impl Stores) -> Result<(), Errno> {
    let protection = view.extent.protection;
    if protection == crate::snapshot::Extent::PROTECTION_UNKNOWN {
        return Err(Errno::ACCESS);
    }
    if !unshare::is_writable(protection) {
        return replace_by_copy(address, length, view);
    }
    if !stores.hold(address, length, protection) {
        return Err(Errno::AGAIN);
    }
    let replaced = replace_by_copy(address, length, view);
    if replaced.is_err() {
        let wanted = MprotectFlags::from_bits_retain(protection);
        // SAFETY: the range is part of the snapshot, which no other thread changes now; this is the protection it had.
        let _ = unsafe { rustix::mm::mprotect(address as *mut c_void, length, wanted) };
    }
    stores.release();
    replaced
}

/// Puts anonymous memory with the same bytes and protection in place of a range that nobody stores into now.
///
/// process_vm_readv(2) answers EFAULT where a load would fault.
pub fn replace_by_copy(address: u64, length: usize, view: &View) -> Result<(), Errno> {
    let wanted = MprotectFlags::from_bits_retain(view.extent.protection);
    let memory = Memory::like(address, length)?;
    let copied = readable(address, length, wanted, || read_own(address, memory.start, length)).and_then(|()| {
        // SAFETY: the memory is ours until it replaces the range at `address`, which is a snapshot that no other thread changes
        // now; the replacement is atomic for threads that read it.
        unsafe {
            rustix::mm::mprotect(memory.start, length, wanted)?;
            if view.flags & NOT_INHERITED != 0 {
                madvise(memory.start, length, Advice::LinuxDontFork)?;
            }
            rustix::mm::mremap_fixed(memory.start, length, length, MremapFlags::MAYMOVE, address as *mut c_void)
                .map(drop)
        }
    });
    memory.give_back(copied.is_ok());
    if copied.is_ok() && view.flags & LOCKED != 0 {
        // Only now, so that both are never counted; what cannot be locked stays readable.
        // SAFETY: locking changes no byte.
        let _ = unsafe { rustix::mm::mlock(address as *mut c_void, length) };
    }
    copied
}

const HUGE_PAGE: usize = 2 << 20;

/// New anonymous memory, and what was reserved around it to align it.
struct Memory {
    reserved: *mut c_void,
    reserved_length: usize,
    start: *mut c_void,
    length: usize,
}

impl Memory {
    /// For `length` bytes that go to `address`: from a huge page's length on, aligned alike and of huge pages, which moves them
    /// whole and copies several times faster than page by page.
    fn like(address: u64, length: usize) -> Result<Self, Errno> {
        let wants_huge = length >= HUGE_PAGE;
        let reserved_length = if wants_huge { length + HUGE_PAGE } else { length };
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | if wants_huge { MapFlags::NORESERVE } else { MapFlags::empty() };
        // SAFETY: a new anonymous mapping at an address that the kernel chooses.
        let reserved = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), reserved_length, access, flags) }?;
        let shift = if wants_huge { (address as usize).wrapping_sub(reserved as usize) % HUGE_PAGE } else { 0 };
        let start = reserved.wrapping_byte_add(shift);
        if wants_huge {
            // SAFETY: inside the mapping just made.
            let _ = unsafe { madvise(start, length, Advice::LinuxHugepage) };
        }
        Ok(Self { reserved, reserved_length, start, length })
    }

    /// Unmaps what did not move.
    fn give_back(self, moved: bool) {
        let before = self.start as usize - self.reserved as usize;
        let end = self.start.wrapping_byte_add(self.length);
        let after = self.reserved_length - before - self.length;
        let middle = if moved { 0 } else { self.length };
        for (start, length) in [(self.reserved, before), (self.start, middle), (end, after)] {
            if length > 0 {
                // SAFETY: a part of our own mapping that nobody else knows of.
                let _ = unsafe { rustix::mm::munmap(start, length) };
            }
        }
    }
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

/// Most bytes that one process_vm_readv(2) is asked for.
const READ: usize = 1 << 30;

fn read_own(address: u64, to: *mut c_void, length: usize) -> Result<(), Errno> {
    let own = raw::own_tid();
    let mut done = 0;
    while done < length {
        let wanted = (length - done).min(READ);
        let local = [to as usize + done, wanted];
        let remote = [address as usize + done, wanted];
        // SAFETY: the local iovec is writable for `wanted` bytes; the kernel checks the remote one.
        let result = unsafe { syscall!(Sysno::process_vm_readv, own, local.as_ptr(), 1, remote.as_ptr(), 1, 0) };
        match result {
            Ok(0) => return Err(Errno::FAULT),
            Ok(count) => done += count,
            Err(error) => return Err(Errno::from_raw_os_error(error.into_raw())),
        }
    }
    Ok(())
}

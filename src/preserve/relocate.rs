//! Relocate: move a range of the mapping onto memory that does not belong to the file.
//!
//! Truncation and its kin take even private copies of file pages away; anonymous memory they cannot reach. The bytes come from the
//! mapping itself, never from the origin, and mremap(2) puts the copy in place atomically for threads that read meanwhile.
//!
//! The kernel pins a page before it copies it. Still, what it copies here is never newer than the snapshot, although nothing is
//! looked at after the copy, because the generation is odd:
//! - A writer takes a page for private only if it finds the generation even and unchanged after its proof. So such a page was
//!   private before the generation became odd, and before it was pinned here: the copy is of the private page.
//! - A page that is shared when it is pinned has no change until the generation is even again. By then the copy stands in its
//!   place.
//! - A pusher that began before may store a byte into the copy: by [`bytes`](crate::protocol::bytes) one that is there already.

use core::ffi::c_void;
use core::ops::Range;
use core::ptr;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MlockFlags, MprotectFlags, MremapFlags, ProtFlags, madvise};

use super::unshare;
use crate::PAGE;
use crate::protocol::snapshot::{LOCKED, NOT_INHERITED, View};
use crate::sys::raw;

/// Keeps the process's other threads from storing into a range while it is copied.
pub trait StoreBarrier {
    /// From now on stores into the range trap and wait. False: that cannot be done.
    fn freeze(&self, address: u64, length: usize, protection: u32) -> bool;
    /// The range is writable again, or given up. Threads that wait go on.
    fn thaw(&self);
}

/// Does `act` to a range while no other thread changes a byte of it.
pub fn with_frozen<T>(
    address: u64,
    length: usize,
    view: &View,
    barrier: &impl StoreBarrier,
    act: impl FnOnce() -> Result<T, Errno>,
) -> Result<T, Errno> {
    let protection = view.extent.protection;
    if protection == crate::protocol::snapshot::Extent::PROTECTION_UNKNOWN {
        return Err(Errno::ACCESS);
    }
    if !unshare::is_writable(protection) {
        return act();
    }
    if !barrier.freeze(address, length, protection) {
        return Err(Errno::BUSY);
    }
    let result = act();
    if result.is_err() {
        let wanted = MprotectFlags::from_bits_retain(protection);
        // SAFETY: the range is part of the snapshot, which no other thread changes now; this is the protection it had.
        let _ = unsafe { rustix::mm::mprotect(address as *mut c_void, length, wanted) };
    }
    barrier.thaw();
    result
}

/// Puts anonymous memory with the same bytes and protection in place of a range that no thread stores into now.
pub fn replace_by_copy(address: u64, length: usize, view: &View) -> Result<(), Errno> {
    Ground::under(&(address..address + length as u64), view)?.replace(address, length, view, &Copied::All)
}

/// What of a range is copied; the rest are zeros.
#[derive(Debug)]
pub enum Copied {
    /// Everything.
    All,
    /// These pages of the range.
    Only(Pages),
}

/// Pages of a slice.
#[derive(Debug, Default)]
pub struct Pages([u64; Pages::MOST as usize / 64]);

impl Pages {
    /// As many as a slice has.
    pub const MOST: u64 = HUGE_PAGE as u64 / PAGE;

    /// Adds pages below [`Pages::MOST`].
    pub fn add(&mut self, pages: Range<u64>) {
        pages.for_each(|page| self.0[page as usize / 64] |= 1 << (page % 64));
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    fn has(&self, page: u64) -> bool {
        page < Self::MOST && self.0[page as usize / 64] >> (page % 64) & 1 == 1
    }

    /// The first run of them from page `at` on.
    fn run(&self, at: u64) -> Option<Range<u64>> {
        let start = (at..Self::MOST).find(|page| self.has(*page))?;
        let end = (start..).find(|page| !self.has(*page))?;
        Some(start..end)
    }
}

/// Puts untouched anonymous memory in place of a range that shows nothing but zeros, and that no thread stores into now.
///
/// mmap(2) with MAP_FIXED is atomic for threads that read: a fault waits until the new mapping is there.
pub fn replace_by_nothing(address: u64, length: usize, view: &View) -> Result<(), Errno> {
    let at = address as *mut c_void;
    let access = ProtFlags::from_bits_retain(view.extent.protection);
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    // SAFETY: the range is part of a snapshot that no other thread changes now.
    unsafe {
        rustix::mm::mmap_anonymous(at, length, access, flags)?;
        // Neither changes a byte, and no child is forked while the snapshot changes.
        let _ = madvise(at, length, Advice::LinuxNoHugepage);
        if view.flags.contains(NOT_INHERITED) {
            let _ = madvise(at, length, Advice::LinuxDontFork);
        }
    }
    lock(address, length, view, true);
    Ok(())
}

/// Locks the memory that has replaced a locked range. Not before, so that both are never counted at once. If it cannot be locked it
/// stays readable.
fn lock(address: u64, length: usize, view: &View, has_holes: bool) {
    if !view.flags.contains(LOCKED) {
        return;
    }
    // A hole stays one until it is touched.
    let flags = if has_holes { MlockFlags::ONFAULT } else { MlockFlags::empty() };
    // SAFETY: locking changes no byte.
    let _ = unsafe { rustix::mm::mlock_with(address as *mut c_void, length, flags) };
}

/// The most bytes that one slice has: what is copied and replaced at once.
pub const SLICE: u64 = HUGE_PAGE as u64;
const HUGE_PAGE: usize = 2 << 20;

/// New anonymous memory for the end of a range that is replaced slice by slice, from its end on.
///
/// Slices of one ground become one mapping of the kernel's again: they have their anon_vma and their order in common
/// (vma_merge_new_range, mm/vma.c).
#[derive(Debug)]
pub struct Ground {
    /// The addresses that the memory that is left goes to.
    target: Range<u64>,
    /// The reserved memory that is left.
    reserved: Range<u64>,
    /// Where the memory for the first address of `target` is.
    start: u64,
}

impl Ground {
    /// Memory for what goes to `target`. From a huge page's length on it is aligned like the target and of huge pages, which
    /// mremap(2) moves whole, and which are copied several times faster than page by page.
    pub fn under(target: &Range<u64>, view: &View) -> Result<Self, Errno> {
        let length = (target.end - target.start) as usize;
        let wants_huge = length >= HUGE_PAGE;
        let reserved_length = if wants_huge { length + HUGE_PAGE } else { length };
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | if wants_huge { MapFlags::NORESERVE } else { MapFlags::empty() };
        // SAFETY: a new anonymous mapping at an address that the kernel chooses.
        let reserved = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), reserved_length, access, flags) }?;
        let shift = if wants_huge { (target.start as usize).wrapping_sub(reserved as usize) % HUGE_PAGE } else { 0 };
        let start = reserved as u64 + shift as u64;
        let ground =
            Self { target: target.clone(), reserved: reserved as u64..reserved as u64 + reserved_length as u64, start };
        if view.flags.contains(NOT_INHERITED) {
            // SAFETY: the mapping just made.
            unsafe { madvise(reserved, reserved_length, Advice::LinuxDontFork) }?;
        }
        if wants_huge {
            // Once one page is there, all parts have one anon_vma. It is a small page that is given back soon.
            let margin = if shift > 0 { reserved } else { reserved.wrapping_byte_add(length) };
            // SAFETY: inside the mapping just made, outside of what is moved; no other thread knows of it.
            unsafe {
                margin.cast::<u8>().write_volatile(1);
                let _ = madvise(reserved, reserved_length, Advice::LinuxHugepage);
            }
        }
        Ok(ground)
    }

    /// Whether there is memory for a range.
    #[must_use]
    pub fn is_under(&self, address: u64, length: usize) -> bool {
        self.target.start <= address && address + length as u64 <= self.target.end
    }

    /// Puts memory with the same bytes and protection in place of a range that no thread stores into now. What lies behind the
    /// range is not replaced from here any more.
    ///
    /// process_vm_readv(2) answers EFAULT where a load would fault.
    pub fn replace(&mut self, address: u64, length: usize, view: &View, copied: &Copied) -> Result<(), Errno> {
        let from = self.start + (address - self.target.start);
        let has_holes = matches!(copied, Copied::Only(_));
        let result = self.fill(from, address, length, view, copied).and_then(|()| {
            // SAFETY: the memory is ours until it replaces the range at `address`, which is a snapshot that no other thread
            // changes now; the replacement is atomic for threads that read it.
            unsafe {
                let at = from as *mut c_void;
                rustix::mm::mremap_fixed(at, length, length, MremapFlags::MAYMOVE, address as *mut c_void).map(drop)
            }
        });
        let moved_to = from + length as u64;
        give_back(if result.is_ok() { moved_to } else { from }..self.reserved.end);
        self.reserved.end = from;
        self.target.end = address;
        if result.is_ok() {
            lock(address, length, view, has_holes);
        }
        result
    }

    fn fill(&self, to: u64, address: u64, length: usize, view: &View, copied: &Copied) -> Result<(), Errno> {
        let wanted = MprotectFlags::from_bits_retain(view.extent.protection);
        let at = to as *mut c_void;
        if matches!(copied, Copied::Only(_)) {
            // One page of data does not become 2 MiB, now or later (khugepaged).
            // SAFETY: our own memory, of which no other thread knows.
            let _ = unsafe { madvise(at, length, Advice::LinuxNoHugepage) };
        }
        readable(address, length, wanted, || match copied {
            Copied::All => read_own(address, to, length),
            Copied::Only(pages) => {
                let mut next = 0;
                while let Some(run) = pages.run(next) {
                    let (offset, bytes) = (run.start * PAGE, (run.end - run.start) * PAGE);
                    read_own(address + offset, to + offset, bytes as usize)?;
                    next = run.end;
                }
                Ok(())
            }
        })?;
        if wanted == MprotectFlags::READ | MprotectFlags::WRITE {
            return Ok(());
        }
        // SAFETY: as above.
        unsafe { rustix::mm::mprotect(at, length, wanted) }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        give_back(self.reserved.clone());
    }
}

fn give_back(memory: Range<u64>) {
    if !memory.is_empty() {
        // SAFETY: a part of our own mapping that no other thread knows of.
        let _ = unsafe { rustix::mm::munmap(memory.start as *mut c_void, (memory.end - memory.start) as usize) };
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
    // SAFETY: the range is part of the snapshot, which no other thread changes now; more access harms no thread.
    unsafe { rustix::mm::mprotect(at, length, wanted | MprotectFlags::READ) }?;
    let result = read();
    // SAFETY: as above; this is the protection it had.
    unsafe { rustix::mm::mprotect(at, length, wanted) }?;
    result
}

/// Most bytes that one process_vm_readv(2) is asked for.
const READ: usize = 1 << 30;

fn read_own(address: u64, to: u64, length: usize) -> Result<(), Errno> {
    let own = raw::own_tid();
    let mut done = 0;
    while done < length {
        let wanted = (length - done).min(READ);
        let at = (to as usize + done) as *mut c_void;
        // SAFETY: `to` is our own memory, of which no other thread knows, writable for `length` bytes.
        match unsafe { raw::read_remote(own, address + done as u64, at, wanted) }? {
            0 => return Err(Errno::FAULT),
            count => done += count,
        }
    }
    Ok(())
}

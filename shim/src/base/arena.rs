//! Memory of the library's own, at addresses that are reserved before the program starts.
//!
//! A program may unmap a range and map something at the same address later (MAP_FIXED). A mapping of the shim's that the kernel put
//! there in between would be replaced. So everything that the shim maps for long lies in one reservation.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use snapshim::PAGE;
use snapshim::table::Table;

/// Bytes for small things: the heap, the configuration, stacks of agents, single pages.
const SMALL: usize = 8 << 20;
const LENGTH: usize = size_of::<Table>() + SMALL;

/// Where the reservation starts, 0 if there is none.
static START: AtomicUsize = AtomicUsize::new(0);
/// How many bytes of `SMALL` have been given out.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Reserves the addresses. They cost no memory, but count where a program's address space is limited (RLIMIT_AS): there nothing is
/// reserved.
pub fn reserve() {
    if rustix::process::getrlimit(rustix::process::Resource::As).current.is_some() {
        return;
    }
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let reserved = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), LENGTH, ProtFlags::empty(), flags) };
    // Release: pairs with the Acquire in `place_for_table` and `carve`.
    START.store(reserved.map_or(0, |start| start as usize), Ordering::Release);
}

/// The addresses that are reserved.
pub fn reservation() -> core::ops::Range<u64> {
    // Acquire: as in `carve`.
    let start = START.load(Ordering::Acquire) as u64;
    start..start + if start == 0 { 0 } else { LENGTH as u64 }
}

/// The address at which the table is to be mapped; null: the kernel chooses.
pub fn place_for_table() -> *mut c_void {
    // Acquire: pairs with the Release in `reserve`.
    ptr::with_exposed_provenance_mut(START.load(Ordering::Acquire))
}

/// Zeroed memory of whole pages; `None` if there is none left anywhere.
pub fn memory(length: usize) -> Option<*mut c_void> {
    let page = PAGE as usize;
    let length = length.next_multiple_of(page);
    let access = ProtFlags::READ | ProtFlags::WRITE;
    match carve(length) {
        // SAFETY: the range is a part of the reservation, and `carve` gives out each part once.
        Some(start) => unsafe {
            rustix::mm::mprotect(start, length, MprotectFlags::READ | MprotectFlags::WRITE).ok()?;
            Some(start)
        },
        // SAFETY: a new mapping at an address that the kernel chooses.
        None => unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), length, access, MapFlags::PRIVATE) }.ok(),
    }
}

/// Takes the pages of `memory` away. Their addresses stay taken: to use them again is a fault.
pub fn give_back(start: *mut c_void, length: usize) {
    // SAFETY: the caller has them from `memory`, and uses them no more.
    unsafe {
        let _ = rustix::mm::madvise(start, length, rustix::mm::Advice::LinuxDontNeed);
        let _ = rustix::mm::mprotect(start, length, MprotectFlags::empty());
    }
}

/// The next part of the reservation. It stays without access until its protection is set.
fn carve(length: usize) -> Option<*mut c_void> {
    // Acquire: pairs with the Release in `reserve`.
    let start = START.load(Ordering::Acquire);
    if start == 0 {
        return None;
    }
    let taken = USED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
        used.checked_add(length).filter(|end| *end <= SMALL)
    });
    taken.ok().map(|used| ptr::with_exposed_provenance_mut(start + size_of::<Table>() + used))
}

/// A page without access: process_vm_writev(2) is told to copy from it, so that not one byte is copied.
pub fn unreadable_page() -> *const c_void {
    static FOUND: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    // Acquire: pairs with the AcqRel below: the page is mapped.
    let page = FOUND.load(Ordering::Acquire);
    if !page.is_null() {
        return page;
    }
    // A part of the reservation has no access until it is given some.
    let made = carve(PAGE as usize).ok_or(()).or_else(|()| {
        // SAFETY: a new mapping at an address that the kernel chooses.
        unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), PAGE as usize, ProtFlags::empty(), MapFlags::PRIVATE) }
    });
    let Ok(made) = made else { return ptr::without_provenance(usize::MAX & !0xfff) };
    // AcqRel: pairs with itself and with the Acquire above. The first of two threads wins, and the page of the other is lost, once.
    match FOUND.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => made,
        Err(first) => first,
    }
}

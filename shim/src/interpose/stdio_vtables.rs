//! How stdio's writes reach the hooks where libc's code cannot be patched: stdio calls the functions that write and close a
//! stream's file through tables of pointers, which are data.
//!
//! The loader makes these tables read-only. The constructor makes them writable for a moment, before the program's first thread. No
//! memory becomes executable. libc checks that a stream's table is one of its own; it does not check the pointers in it.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ops::Range;

use libc::ssize_t;
use rustix::mm::{MprotectFlags, mprotect};
use snapshim::PAGE;

use super::elf_symbols::{Where, find, read_only_data_of_libc};
use crate::interpose::EntryPoint;

/// Replaces each function in all tables by its hook. False: a function was found in no table.
#[must_use]
pub fn open(entry_points: &[&'static EntryPoint]) -> bool {
    let data = read_only_data_of_libc();
    // The part that the loader makes read-only ends at the last whole page.
    let pages = data.start / PAGE * PAGE..data.end / PAGE * PAGE;
    if pages.is_empty() || !protect(&pages, MprotectFlags::READ | MprotectFlags::WRITE) {
        return false;
    }
    let opened = entry_points.iter().all(|entry_point| redirect_tables(entry_point, data.start..pages.end));
    protect(&pages, MprotectFlags::READ) && opened
}

fn redirect_tables(entry_point: &EntryPoint, data: Range<u64>) -> bool {
    let function = find(Where::Libc, entry_point.name());
    if function.is_null() {
        return false;
    }
    entry_point.set_trampoline(function);
    let mut is_found = false;
    for place in (data.start.next_multiple_of(8)..data.end).step_by(8) {
        let place = place as *mut *const ();
        // SAFETY: an aligned word of libc's data, which `open` made writable; no other thread runs yet.
        unsafe {
            if *place == function {
                *place = entry_point.detoured;
                is_found = true;
            }
        }
    }
    is_found
}

fn protect(pages: &Range<u64>, protection: MprotectFlags) -> bool {
    // SAFETY: whole pages of libc's data, into which nothing is stored once the loader has made them read-only.
    unsafe { mprotect(pages.start as *mut c_void, (pages.end - pages.start) as usize, protection) }.is_ok()
}

/// Whether dprintf(3) writes through the tables: from glibc 2.37 on it does not.
pub fn carry_dprintf() -> bool {
    type Version = extern "C" fn() -> *const c_char;
    let function = find(Where::Libc, c"gnu_get_libc_version");
    if function.is_null() {
        return false;
    }
    // SAFETY: libc's function of that name, which returns a static C string.
    let version = unsafe { CStr::from_ptr(core::mem::transmute::<*const (), Version>(function)()) };
    let minor = version.to_str().ok().and_then(|text| text.split('.').nth(1)?.parse::<u32>().ok());
    minor.is_some_and(|minor| minor < 37)
}

/// The beginning of a stream: `struct _IO_FILE` (bits/types/struct_FILE.h), whose layout is part of libc's binary interface.
#[repr(C)]
pub struct Stream {
    flags: c_int,
    pointers: [*const c_void; 13],
    descriptor: c_int,
}

const _: () = assert!(core::mem::offset_of!(Stream, descriptor) == 112);

/// `_IO_ERR_SEEN`
const ERROR_SEEN: c_int = 0x20;

/// The descriptor of a stream.
///
/// # Safety
/// `stream` is an open stream of stdio's.
pub unsafe fn descriptor_of(stream: *mut Stream) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { (*stream).descriptor }
}

/// Answers as stdio's own function does when it could not write: no byte is written, and the stream has its error flag set.
///
/// # Safety
/// `stream` is a stream of stdio's, and the caller has locked it.
pub unsafe fn fail(stream: *mut Stream) -> ssize_t {
    // SAFETY: the caller's promise.
    unsafe { (*stream).flags |= ERROR_SEEN };
    0
}

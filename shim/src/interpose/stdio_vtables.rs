//! The way in for what stdio writes where libc's code cannot be patched: stdio calls the functions that write and close a stream's
//! file through tables of pointers, which are data.
//!
//! The loader makes these tables read-only. They are opened once in the constructor, before the program's first thread; no memory
//! becomes executable. libc checks that a stream's table is one of its own, not what stands in it.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ops::Range;

use libc::ssize_t;
use rustix::mm::{MprotectFlags, mprotect};
use snapshim::PAGE;

use super::elf_symbols::{Where, find, read_only_data_of_libc};
use crate::interpose::Door;

/// Makes every table lead to the hook instead of the door's function. False: some function stands in no table.
#[must_use]
pub fn open(doors: &[&'static Door]) -> bool {
    let data = read_only_data_of_libc();
    // What the loader makes read-only ends at the last whole page.
    let pages = data.start / PAGE * PAGE..data.end / PAGE * PAGE;
    if pages.is_empty() || !protect(&pages, MprotectFlags::READ | MprotectFlags::WRITE) {
        return false;
    }
    let opened = doors.iter().all(|door| lead_in(door, data.start..pages.end));
    protect(&pages, MprotectFlags::READ) && opened
}

fn lead_in(door: &Door, data: Range<u64>) -> bool {
    let function = find(Where::Libc, door.name);
    if function.is_null() {
        return false;
    }
    door.lead_detour_to(function);
    let mut is_found = false;
    for place in (data.start.next_multiple_of(8)..data.end).step_by(8) {
        let place = place as *mut *const ();
        // SAFETY: an aligned word of libc's data, which `open` made writable; no other thread runs yet.
        unsafe {
            if *place == function {
                *place = door.detoured;
                is_found = true;
            }
        }
    }
    is_found
}

fn protect(pages: &Range<u64>, protection: MprotectFlags) -> bool {
    // SAFETY: whole pages of libc's data, which nobody stores into after the loader.
    unsafe { mprotect(pages.start as *mut c_void, (pages.end - pages.start) as usize, protection) }.is_ok()
}

/// Whether dprintf(3) comes through the tables: glibc 2.37 gave it a way of its own.
pub fn carry_dprintf() -> bool {
    type Version = extern "C" fn() -> *const c_char;
    let function = find(Where::Libc, c"gnu_get_libc_version");
    if function.is_null() {
        return false;
    }
    // SAFETY: libc's function of that name, which returns a C string that stays.
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

/// The file of a stream.
///
/// # Safety
/// `stream` is one of stdio's that is open.
pub unsafe fn descriptor_of(stream: *mut Stream) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { (*stream).descriptor }
}

/// Answers as stdio's own function does when it could not write: so many bytes written, and the stream says that it failed.
///
/// # Safety
/// `stream` is one of stdio's that the caller has locked.
pub unsafe fn fail(stream: *mut Stream) -> ssize_t {
    // SAFETY: the caller's promise.
    unsafe { (*stream).flags |= ERROR_SEEN };
    0
}

//! The environment as it was at exec, and memory that lives as long as the process.
//!
//! It is taken from where the kernel put it: on the stack of the first thread, which the constructor is handed. /proc is no source:
//! it may not be mounted, and a program that its user may execute but not read (mode 0711) cannot read its own
//! /proc/self/environ. libc's `environ` is none either: a hook may run before libc has set it up.
//!
//! A program that runs with more rights than its caller obeys none of the shim's variables but `SNAPSHIM_DISABLE`
//! ([`is_obeyed`]).

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use snapshim::sys::raw;

use super::variables;

/// The environment that the constructor was handed; null before.
static HANDED: AtomicPtr<*const c_char> = AtomicPtr::new(ptr::null_mut());

/// Notes the environment that the constructor is handed.
///
/// # Safety
/// It is null, or a null-terminated array of C strings that stays.
pub unsafe fn note(variables: *const *const c_char) {
    HANDED.store(variables.cast_mut(), Ordering::Relaxed);
}

/// The shim's own variables as they were at exec: NAME=value, each followed by a NUL.
pub struct Environment {
    bytes: &'static [u8],
}

impl Environment {
    /// Copies them. A program may write over the strings on its stack (setproctitle(3)).
    pub fn read() -> Self {
        let length = own_variables().map(|text| text.to_bytes_with_nul().len()).sum();
        let Some(copy) = (if length == 0 { None } else { memory(length) }) else { return Self { bytes: b"" } };
        let mut end = 0;
        for text in own_variables().map(CStr::to_bytes_with_nul) {
            // The strings are counted above. A thread that changes them meanwhile does not make this go past the end.
            if let Some(place) = copy.get_mut(end..end + text.len()) {
                place.copy_from_slice(text);
                end += text.len();
            }
        }
        Self { bytes: &copy[..end] }
    }

    /// The value of a variable that is obeyed; `None` if it is not set.
    pub fn get(&self, name: &str) -> Option<&'static [u8]> {
        if is_obeyed(name) { self.find(name) } else { None }
    }

    /// The value of a variable that is set and not obeyed.
    pub fn get_disobeyed(&self, name: &str) -> Option<&'static [u8]> {
        if is_obeyed(name) { None } else { self.find(name) }
    }

    /// The names that begin as the shim's variables do, or nearly so, and that this process obeys if they are variables.
    pub fn names(&self) -> impl Iterator<Item = &'static [u8]> {
        let variables = self.bytes.split(|byte| *byte == 0).filter(|_| is_obeyed(""));
        variables.filter_map(|variable| variable.split(|byte| *byte == b'=').next().filter(|name| !name.is_empty()))
    }

    fn find(&self, name: &str) -> Option<&'static [u8]> {
        self.bytes
            .split(|byte| *byte == 0)
            .find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
}

/// Whether this process obeys the variable. A set-user-ID program and its kin (ld.so(8), secure-execution mode) has its environment
/// from a user with fewer rights, who could make it write a log file, or trust a table, with its rights. To take no part is left
/// to that user.
fn is_obeyed(name: &str) -> bool {
    // SAFETY: the argument is a value.
    name == "SNAPSHIM_DISABLE" || unsafe { libc::getauxval(libc::AT_SECURE) } == 0
}

/// The variables whose names begin as the shim's do, or nearly so.
fn own_variables() -> impl Iterator<Item = &'static CStr> {
    let mut next = all_variables();
    let each = core::iter::from_fn(move || {
        // SAFETY: `next` is null, or lies in a null-terminated array of C strings (`all_variables`).
        unsafe {
            let text = if next.is_null() { ptr::null() } else { *next };
            if text.is_null() {
                return None;
            }
            next = next.add(1);
            Some(CStr::from_ptr(text))
        }
    });
    each.filter(|text| variables::is_nearly_own(text.to_bytes()))
}

/// The environment that the constructor was handed, or, before it has run, what ld.so names.
fn all_variables() -> *const *const c_char {
    unsafe extern "C" {
        /// Where the kernel put the argument count, behind which the arguments and the environment lie (ld.so, GLIBC_2.2.5).
        static __libc_stack_end: *const c_void;
    }
    let handed = HANDED.load(Ordering::Relaxed);
    if !handed.is_null() {
        return handed;
    }
    // SAFETY: ld.so has set the variable before it called any function of a library. The count is followed by so many pointers and
    // a null pointer, and then by the environment (ELF, process initialisation).
    unsafe {
        let count = __libc_stack_end.cast::<isize>();
        if count.is_null() { ptr::null() } else { count.offset(1 + *count + 1).cast() }
    }
}

/// Zeroed memory of the library's own, each part of which is given out once. It has room for what every process leaks: from the
/// arena that would take a page for each.
#[repr(align(64))]
struct Room(UnsafeCell<[u8; ROOM]>);

const ROOM: usize = 1792;

// SAFETY: `memory` gives each part to one caller.
unsafe impl Sync for Room {}

static FIRST: Room = Room(UnsafeCell::new([0; ROOM]));
/// How many bytes of `FIRST` have been given out.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Zeroed memory that lives as long as the process.
fn memory(size: usize) -> Option<&'static mut [u8]> {
    let end_of = |used: usize| used.checked_add(size.checked_next_multiple_of(align_of::<Room>())?);
    let taken = USED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| end_of(used).filter(|end| *end <= ROOM));
    let address = match taken {
        Ok(start) => FIRST.0.get().cast::<c_void>().wrapping_byte_add(start),
        Err(_) => crate::base::arena::memory(size)?,
    };
    // SAFETY: `FIRST` or the arena gives this memory out once, `size` bytes of it, and never takes it back.
    Some(unsafe { core::slice::from_raw_parts_mut(address.cast::<u8>(), size) })
}

/// Moves `value` to memory that lives as long as the process; `None` if there is no memory.
pub fn try_leak<T>(value: T) -> Option<&'static T> {
    const { assert!(align_of::<T>() <= align_of::<Room>()) };
    let place = memory(size_of::<T>())?.as_mut_ptr().cast::<T>();
    // SAFETY: the memory is aligned as a `Room` or to a page, large enough, and known to this function alone.
    unsafe {
        place.write(value);
        Some(&*place)
    }
}

/// The same where nothing works without it, before `main`: ends the process if there is no memory.
pub fn leak<T>(value: T) -> &'static T {
    try_leak(value).unwrap_or_else(|| raw::abort())
}

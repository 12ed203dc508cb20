//! Libcs beside the program's own: dlmopen(3) loads one into each namespace that it makes, with code, data and an errno of its own.
//!
//! Before dlmopen(3) returns, only constructors of the loaded libraries run in such a libc. So this is the moment to make its
//! functions that change files or mappings jump to the hooks. There is no way back: such a hook goes on by the bare system call.
//! The errno that the hook sets is copied to the errno of those libcs.

use core::ffi::{CStr, c_int, c_void};
use core::iter;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::mm::{MprotectFlags, mprotect};
use snapshim::PAGE;
use snapshim::sys::wait::until_some;

use super::elf_symbols::{self, Loaded};
use crate::base::errno::{errno, set_errno};
use crate::base::user_memory::read_own;

/// A function of libc's, and the hook that its entry is made to jump to.
#[derive(Clone, Copy)]
pub struct EntryHook {
    /// libc's name for the function.
    pub name: &'static CStr,
    /// What the entry jumps to.
    pub hook: *const (),
}

// SAFETY: `hook` is the address of a function and never changes.
unsafe impl Sync for EntryHook {}

/// DL_NNS of glibc: there are never more namespaces.
const MOST: usize = 16;

type Location = unsafe extern "C" fn() -> *mut c_int;

/// The function that says where errno is in a libc whose functions jump to the hooks, and the first bytes of its code: a
/// namespace may be unloaded, and other code may be loaded at its place. Null is "free".
struct Errno {
    location: AtomicPtr<()>,
    code: [AtomicU64; 2],
}

static ERRNOS: [Errno; MOST] =
    [const { Errno { location: AtomicPtr::new(ptr::null_mut()), code: [const { AtomicU64::new(0) }; 2] } }; MOST];

impl Errno {
    fn note(&self, location: *const ()) {
        for (word, now) in self.code.iter().zip(read_code(location).unwrap_or_default()) {
            word.store(now, Ordering::Relaxed);
        }
        // Release: pairs with the Acquire in `location`; makes the code visible before the location.
        self.location.store(location.cast_mut(), Ordering::Release);
    }

    fn location(&self) -> Option<Location> {
        // Acquire: pairs with the Release in `note`.
        let location = self.location.load(Ordering::Acquire);
        let code = self.code.each_ref().map(|word| word.load(Ordering::Relaxed));
        if location.is_null() || read_code(location) != Some(code) {
            return None;
        }
        // SAFETY: address and code say that it is still the function of that name in a libc.
        Some(unsafe { core::mem::transmute::<*mut (), Location>(location) })
    }
}

/// The first bytes of a function; `None` if they cannot be read, because the function is gone.
fn read_code(function: *const ()) -> Option<[u64; 2]> {
    let mut code = [0u64; 2];
    (read_own(function as u64, (&raw mut code) as u64, 16) == 16).then_some(code)
}

/// What has become of the libc in the namespace of a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is the program's own, or there is none.
    Nothing,
    /// Its functions jump to the hooks, now or since earlier.
    Led,
    /// Its code cannot be changed.
    Closed,
}

/// Makes the functions of the libc in the namespace of `handle`, which dlmopen(3) returned, jump to the hooks.
pub fn patch<I: Iterator<Item = EntryHook>>(handle: *mut c_void, entry_hooks: impl Fn() -> I) -> Found {
    static ONE: Mutex<()> = Mutex::new(());
    // Never `lock`: parking_lot allocates in order to park.
    let _one = until_some(|| ONE.try_lock());
    let Some(libc) = elf_symbols::libc_beside(handle) else { return Found::Nothing };
    if !has_any(&libc, &entry_hooks, is_patched) && !note_errno(&libc) {
        return Found::Closed;
    }
    // Each of the libraries may have come to a namespace that was patched before.
    let mut libraries = iter::once(libc).chain(elf_symbols::parts_of_libc_beside(handle));
    if libraries.all(|library| lead(&library, &entry_hooks)) { Found::Led } else { Found::Closed }
}

/// Notes where errno is in a libc whose functions are about to jump to the hooks. False: that cannot be told.
fn note_errno(libc: &Loaded) -> bool {
    let location = libc.find(c"__errno_location");
    // The libc may have been loaded at the very place of one that is gone.
    let is_of_it = |place: &&Errno| ptr::eq(place.location.load(Ordering::Relaxed), location);
    let place = ERRNOS.iter().find(is_of_it).or_else(|| ERRNOS.iter().find(|place| place.location().is_none()));
    let (false, Some(place)) = (location.is_null(), place) else { return false };
    place.note(location);
    true
}

/// Makes the functions of a library that has just been loaded jump to the hooks, if they do not. False: its code cannot be changed.
fn lead<I: Iterator<Item = EntryHook>>(library: &Loaded, entry_hooks: &impl Fn() -> I) -> bool {
    let has = |library: &Loaded, entry_hook: EntryHook| !library.find(entry_hook.name).is_null();
    if has_any(library, entry_hooks, is_patched) || !has_any(library, entry_hooks, has) {
        return true;
    }
    let Some(code) = library.code() else { return false };
    if !protect(&code, MprotectFlags::READ | MprotectFlags::WRITE | MprotectFlags::EXEC) {
        return false;
    }
    // SAFETY: no thread runs in a library that has just been loaded, and its code was made writable.
    entry_hooks().for_each(|entry_hook| unsafe { redirect(library.find(entry_hook.name), &code, entry_hook.hook) });
    protect(&code, MprotectFlags::READ | MprotectFlags::EXEC)
}

fn has_any<I: Iterator<Item = EntryHook>>(
    library: &Loaded,
    entry_hooks: &impl Fn() -> I,
    holds: fn(&Loaded, EntryHook) -> bool,
) -> bool {
    entry_hooks().any(|entry_hook| holds(library, entry_hook))
}

/// `jmp [rip]`: the address that it jumps to follows the instruction.
const JUMP: [u8; 6] = [0xff, 0x25, 0, 0, 0, 0];
const LENGTH: usize = JUMP.len() + size_of::<u64>();

fn jump_to(hook: *const ()) -> [u8; LENGTH] {
    let mut jump = [0; LENGTH];
    jump[..JUMP.len()].copy_from_slice(&JUMP);
    jump[JUMP.len()..].copy_from_slice(&(hook as u64).to_le_bytes());
    jump
}

fn is_patched(library: &Loaded, entry_hook: EntryHook) -> bool {
    let (entry, mut code) = (library.find(entry_hook.name), [0; LENGTH]);
    !entry.is_null()
        && read_own(entry as u64, (&raw mut code) as u64, LENGTH as u64) == LENGTH as u64
        && code == jump_to(entry_hook.hook)
}

/// Writes a jump over the entry of a function in `code`. Functions begin at multiples of 16, so the jump fits.
///
/// # Safety
/// No other thread runs the function, and its code is writable.
pub unsafe fn redirect(entry: *const (), code: &Range<u64>, hook: *const ()) {
    let start = entry as u64;
    if start.is_multiple_of(16) && code.start <= start && start + LENGTH as u64 <= code.end {
        // SAFETY: the caller's promise.
        unsafe { ptr::copy_nonoverlapping(jump_to(hook).as_ptr(), entry.cast::<u8>().cast_mut(), LENGTH) };
    }
}

fn protect(code: &Range<u64>, protection: MprotectFlags) -> bool {
    let start = code.start / PAGE * PAGE;
    // SAFETY: the library's code stays readable and executable.
    unsafe { mprotect(start as *mut c_void, (code.end - start) as usize, protection) }.is_ok()
}

/// Makes `call` for a libc beside: the errno that it sets goes to that libc, and errno of the program's own libc stays.
///
/// Which of several libcs called is not known, so each gets it.
#[inline]
pub fn for_libc_beside<T>(call: impl FnOnce() -> T) -> T {
    let before = errno();
    set_errno(0);
    let result = call();
    let failure = errno();
    set_errno(before);
    if failure != 0 {
        for location in ERRNOS.iter().filter_map(Errno::location) {
            // SAFETY: libc gives the address of the calling thread's errno.
            unsafe { *location() = failure };
        }
    }
    result
}

//! The functions of libc that the shim calls for itself, past its own hooks.
//!
//! The constructor notes them once all entry points are open. Before that each makes the raw system call, or calls the next
//! library's function.

use core::ffi::{c_int, c_void};
use core::mem::transmute;
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicPtr, Ordering};

use libc::{nfds_t, pid_t, pollfd, sigset_t, timespec};
use syscalls::{Sysno, syscall};

use super::next_symbol;
use crate::base::errno::as_libc;

static SIGACTION: AtomicPtr<()> = AtomicPtr::new(null_mut());
static CLONE: AtomicPtr<()> = AtomicPtr::new(null_mut());
static PPOLL: AtomicPtr<()> = AtomicPtr::new(null_mut());

/// The function that the child of clone(3) runs.
pub type Main = unsafe extern "C-unwind" fn(*mut c_void) -> c_int;

type Sigaction = unsafe extern "C-unwind" fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int;
type Clone = unsafe extern "C-unwind" fn(
    Option<Main>,
    *mut c_void,
    c_int,
    *mut c_void,
    *mut pid_t,
    *mut c_void,
    *mut pid_t,
) -> c_int;
type Ppoll = unsafe extern "C-unwind" fn(*mut pollfd, nfds_t, *const timespec, *const sigset_t) -> c_int;

/// Notes the functions, in the constructor.
///
/// # Safety
/// Each is a function of that name, called as libc's is.
pub unsafe fn note(sigaction: *const (), clone: *const (), ppoll: *const ()) {
    // Relaxed: no other thread runs yet.
    SIGACTION.store(sigaction.cast_mut(), Ordering::Relaxed);
    CLONE.store(clone.cast_mut(), Ordering::Relaxed);
    PPOLL.store(ppoll.cast_mut(), Ordering::Relaxed);
}

/// sigaction(2); `None`: the constructor has not run.
///
/// # Safety
/// As sigaction(2).
pub unsafe fn real_sigaction(signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> Option<c_int> {
    let real = SIGACTION.load(Ordering::Relaxed);
    if real.is_null() {
        return None;
    }
    // SAFETY: a function of that name (`note`). The rest is the caller's promise.
    Some(unsafe { transmute::<*mut (), Sigaction>(real)(signal, new, old) })
}

/// Makes a thread or process of the shim's own, as clone(3) does.
///
/// # Safety
/// As for clone(3).
pub unsafe fn start_thread(main: Main, stack: *mut c_void, flags: c_int, argument: *mut c_void) -> c_int {
    let known = CLONE.load(Ordering::Relaxed).cast_const();
    let Some(real) = (if known.is_null() { next_symbol(c"clone") } else { Some(known) }) else {
        return as_libc(Err(syscalls::Errno::ENOSYS)) as c_int;
    };
    // SAFETY: a function of that name, from `note` or in the next library. The rest is the caller's promise.
    unsafe {
        transmute::<*const (), Clone>(real)(Some(main), stack, flags, argument, null_mut(), null_mut(), null_mut())
    }
}

/// ppoll(2) of one descriptor, without a timeout and without a mask.
pub fn ppoll(input: &mut pollfd) -> c_int {
    let real = PPOLL.load(Ordering::Relaxed);
    // SAFETY: a function of that name (`note`). The one entry is writable; timeout and mask are null.
    unsafe {
        if real.is_null() {
            as_libc(syscall!(Sysno::ppoll, core::ptr::from_mut(input), 1, 0, 0, 8)) as c_int
        } else {
            transmute::<*mut (), Ppoll>(real)(input, 1, null(), null())
        }
    }
}

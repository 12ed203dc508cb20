//! longjmp(3) by all its names, and sigaltstack(2): what tells that a thread leaves calls that a handler interrupted ([`leaving`]).

use core::ffi::{c_int, c_long, c_void};

use libc::stack_t;
use syscalls::{Sysno, syscall};

use crate::base::errno::as_libc;
use crate::interpose::{self, interpose};
use crate::process::{identity, leaving};

interpose! {
    /// longjmp(3), _longjmp(3) and siglongjmp(3), which are one function
    longjmp, c"siglongjmp": longjmp _longjmp siglongjmp => fn(buffer: *const c_void, value: c_int) -> () {
        raw |buffer, value| behind(c"siglongjmp", buffer, value), hook on_jump,
    }
    /// The same for programs that were compiled with _FORTIFY_SOURCE
    longjmp_chk, c"__longjmp_chk": __longjmp_chk => fn(buffer: *const c_void, value: c_int) -> () {
        raw |buffer, value| behind(c"__longjmp_chk", buffer, value), hook on_jump,
    }
    /// sigaltstack(2)
    sigaltstack, c"sigaltstack": sigaltstack __sigaltstack => fn(new: *const stack_t, old: *mut stack_t) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |new, old| as_libc(unsafe { syscall!(Sysno::sigaltstack, new, old) }) as c_int,
        hook on_sigaltstack,
    }
}

/// Before the constructor has run. Where there is no libc to jump nobody can have come from.
fn behind(name: &core::ffi::CStr, buffer: *const c_void, value: c_int) {
    if let Some(next) = interpose::behind(name) {
        // SAFETY: libc's function of that name; the application's arguments, as they are.
        unsafe { core::mem::transmute::<*const (), longjmp::Function>(next)(buffer, value) }
    }
}

/// libc's function takes the place of this one on the stack, as nothing of this one is in use any more: `__longjmp_chk` compares
/// the target with where its own frame is, and finds fault with fewer targets from further down.
fn on_jump(real: longjmp::Function, buffer: *const c_void, value: c_int) {
    // SAFETY: what the application jumps to.
    unsafe { real(leaving::prepare(buffer), value) }
}

fn on_sigaltstack(real: sigaltstack::Function, new: *const stack_t, old: *mut stack_t) -> c_int {
    // SAFETY: the application's arguments, as they are.
    let result = unsafe { real(new, old) };
    note_if_set(new, result == 0);
    result
}

/// sigaltstack(2) by number.
pub fn alternate_by_number(real: impl FnOnce() -> c_long, new: *const stack_t) -> c_long {
    let result = real();
    note_if_set(new, result == 0);
    result
}

/// A child of vfork(2) sets its own, beside its parent's thread-local storage.
fn note_if_set(new: *const stack_t, is_set: bool) {
    if new.is_null() || !is_set || identity::is_borrower() {
        return;
    }
    let mut set = stack_t { ss_sp: core::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    // SAFETY: a null first argument changes nothing; the second is writable.
    let _ = unsafe { syscall!(Sysno::sigaltstack, 0, &raw mut set) };
    let start = set.ss_sp as u64;
    let is_none = set.ss_flags & libc::SS_DISABLE != 0;
    leaving::note_alternate_stack(if is_none { 0..0 } else { start..start.saturating_add(set.ss_size as u64) });
}

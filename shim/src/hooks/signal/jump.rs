//! longjmp(3) by all its names, and sigaltstack(2): the calls that tell when a thread leaves a call that a handler interrupted
//! ([`leaving`]).

use core::ffi::{c_int, c_long, c_void};

use libc::stack_t;
use syscalls::{Sysno, syscall};

use crate::base::errno::as_libc;
use crate::interpose::interpose;
use crate::process::{identity, leaving};

interpose! {
    /// longjmp(3), _longjmp(3) and siglongjmp(3), which are one function
    longjmp, c"siglongjmp": longjmp _longjmp siglongjmp => fn(buffer: *const c_void, value: c_int) -> () {
        // Without libc there is no setjmp(3) whose buffer could be given.
        next_or (), hook on_jump,
    }
    /// The same for programs that were compiled with _FORTIFY_SOURCE
    longjmp_chk, c"__longjmp_chk": __longjmp_chk => fn(buffer: *const c_void, value: c_int) -> () {
        next_or (), hook on_jump,
    }
    /// sigaltstack(2)
    sigaltstack, c"sigaltstack": sigaltstack __sigaltstack => fn(new: *const stack_t, old: *mut stack_t) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |new, old| as_libc(unsafe { syscall!(Sysno::sigaltstack, new, old) }) as c_int,
        hook on_sigaltstack,
    }
}

/// The call of libc's function is this function's last act, so that libc's frame takes the place of this one on the stack:
/// `__longjmp_chk` compares the target with its own frame, and accepts more targets from further down.
fn on_jump(real: longjmp::Function, buffer: *const c_void, value: c_int) {
    // SAFETY: the buffer is the one that the application jumps to.
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

/// Notes the alternate signal stack that was just set. A vfork child is left out: the stack is its own, and the thread-local
/// storage is its parent's.
fn note_if_set(new: *const stack_t, is_set: bool) {
    if new.is_null() || !is_set || identity::is_vfork_child() {
        return;
    }
    let mut set = stack_t { ss_sp: core::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    // SAFETY: a null first argument changes nothing; the second is writable.
    let _ = unsafe { syscall!(Sysno::sigaltstack, 0, &raw mut set) };
    let start = set.ss_sp as u64;
    let is_none = set.ss_flags & libc::SS_DISABLE != 0;
    leaving::note_alternate_stack(if is_none { 0..0 } else { start..start.saturating_add(set.ss_size as u64) });
}

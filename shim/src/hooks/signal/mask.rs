//! sigprocmask(2) and its kin: masks go to the kernel with SIGSEGV's stand-in in its place ([`masks`]).

use core::ffi::{c_int, c_long, c_void};

use libc::{pthread_attr_t, pthread_t, sigset_t, ucontext_t};
use rustix::io::Errno;
use snapshim::sys::masks;
use syscalls::{Sysno, syscall};

use super::sets::{MASK, answer, not_here, with_mask, word};
use crate::base::errno::as_libc;
use crate::interpose::{self, interpose};
use crate::process::leaving;
use crate::signals;
use crate::signals::guarded;

interpose! {
    /// sigprocmask(2)
    sigprocmask, c"sigprocmask": sigprocmask => fn(how: c_int, new: *const sigset_t, old: *mut sigset_t) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |how, new, old| as_libc(unsafe { syscall!(Sysno::rt_sigprocmask, how, new, old, 8) }) as c_int,
        hook on_sigprocmask,
    }
    /// pthread_sigmask(3): the error is its result
    pthread_sigmask, c"pthread_sigmask": pthread_sigmask => fn(how: c_int, new: *const sigset_t, old: *mut sigset_t) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |how, new, old| match unsafe { syscall!(Sysno::rt_sigprocmask, how, new, old, 8) } {
            Ok(_) => 0,
            Err(error) => error.into_raw(),
        },
        hook on_pthread_sigmask,
    }
    /// setcontext(3), whose mask goes to the kernel from inside
    setcontext, c"setcontext": setcontext => fn(context: *const ucontext_t) -> c_int {
        raw |_context| not_here(), hook on_setcontext,
    }
    /// swapcontext(3), likewise
    swapcontext, c"swapcontext": swapcontext => fn(old: *mut ucontext_t, new: *const ucontext_t) -> c_int {
        raw |_old, _new| not_here(), hook on_swapcontext,
    }
    /// pthread_create(3): the error is its result
    pthread_create, c"pthread_create": pthread_create => fn(
        thread: *mut pthread_t, attributes: *const pthread_attr_t, start: *const c_void, argument: *mut c_void
    ) -> c_int {
        raw |thread, attributes, start, argument| match interpose::behind(c"pthread_create") {
            // SAFETY: libc's function of that name; the application's arguments, as they are.
            Some(next) => unsafe {
                core::mem::transmute::<*const (), Function>(next)(thread, attributes, start, argument)
            },
            None => libc::EAGAIN,
        },
        hook on_create_thread,
    }
    /// pthread_attr_setsigmask_np(3): the mask that a thread begins with
    attribute_mask, c"pthread_attr_setsigmask_np": pthread_attr_setsigmask_np => fn(
        attributes: *mut pthread_attr_t, mask: *const sigset_t
    ) -> c_int {
        raw |_attributes, _mask| libc::ENOSYS, hook on_set_attribute_mask,
    }
}

fn on_sigprocmask(real: sigprocmask::Function, how: c_int, new: *const sigset_t, old: *mut sigset_t) -> c_int {
    if signals::is_installed() {
        return answer(mask_of_libc(how, new, old));
    }
    // SAFETY: the application's arguments, as they are.
    let result = unsafe { real(how, new, old) };
    signals::open_faults_of_thread();
    result
}

fn on_pthread_sigmask(real: pthread_sigmask::Function, how: c_int, new: *const sigset_t, old: *mut sigset_t) -> c_int {
    if signals::is_installed() {
        return mask_of_libc(how, new, old).map_or_else(|error| error.raw_os_error(), |()| 0);
    }
    // SAFETY: the application's arguments, as they are.
    let result = unsafe { real(how, new, old) };
    signals::open_faults_of_thread();
    result
}

/// What libc keeps for itself and takes out of every mask: the signals of pthread_cancel(3) and setuid(2).
const LIBC_OWN: u64 = 1 << (32 - 1) | 1 << (33 - 1);

/// libc reads the new mask itself; the kernel writes the old one.
fn mask_of_libc(how: c_int, new: *const sigset_t, old: *mut sigset_t) -> Result<(), Errno> {
    // SAFETY: null, or the application's set.
    let new = (!new.is_null()).then(|| unsafe { word(new) } & !LIBC_OWN);
    change_mask(how, new, old.cast())
}

fn change_mask(how: c_int, new: Option<u64>, old: *mut u64) -> Result<(), Errno> {
    let given = new.map(masks::to_kernel);
    let mut before = 0u64;
    // SAFETY: both masks are eight bytes.
    unsafe {
        let given = given.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        syscall!(Sysno::rt_sigprocmask, how, given, &raw mut before, 8)
    }
    .map_err(|error| Errno::from_raw_os_error(error.into_raw()))?;
    if before & masks::FAULT != 0 {
        signals::open_faults_of_thread();
    }
    if old.is_null() { Ok(()) } else { guarded::store(old, masks::to_application(before)) }
}

/// rt_sigprocmask(2) by number.
pub fn mask_by_number(
    real: impl FnOnce() -> c_long,
    how: c_int,
    new: *const u64,
    old: *mut u64,
    size: usize,
) -> c_long {
    if !signals::is_installed() || size != MASK {
        let result = real();
        signals::open_faults_of_thread();
        return result;
    }
    let change = || {
        let new = if new.is_null() { None } else { Some(guarded::load(new)?) };
        change_mask(how, new, old)
    };
    answer(change()).into()
}

/// Programs put a mask of their own into a context now and then; what getcontext(3) saved needs no change.
fn open_faults_of_context(context: *const ucontext_t) {
    if !signals::is_installed() || context.is_null() {
        return;
    }
    // SAFETY: the application's context, whose mask it fills in itself.
    unsafe {
        let mask = (&raw const (*context).uc_sigmask).cast::<u64>().cast_mut();
        if *mask & masks::FAULT != 0 {
            *mask = masks::to_kernel(*mask);
        }
    }
}

fn on_setcontext(real: setcontext::Function, context: *const ucontext_t) -> c_int {
    leaving::note_other_stacks();
    open_faults_of_context(context);
    // SAFETY: the application's arguments, as they are.
    unsafe { real(context) }
}

fn on_swapcontext(real: swapcontext::Function, old: *mut ucontext_t, new: *const ucontext_t) -> c_int {
    leaving::note_other_stacks();
    open_faults_of_context(new);
    // SAFETY: the application's arguments, as they are.
    unsafe { real(old, new) }
}

/// The thread begins with the mask of the caller. libc blocks all signals by itself around the making of its own threads, which
/// store results where a program of aio(7) or getaddrinfo_a(3) wants them.
fn on_create_thread(
    real: pthread_create::Function,
    thread: *mut pthread_t,
    attributes: *const pthread_attr_t,
    start: *const c_void,
    argument: *mut c_void,
) -> c_int {
    signals::open_faults_of_thread();
    // SAFETY: the application's arguments, as they are.
    unsafe { real(thread, attributes, start, argument) }
}

fn on_set_attribute_mask(
    real: attribute_mask::Function,
    attributes: *mut pthread_attr_t,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the application's arguments but for the mask, which is one.
    with_mask(mask, |mask| unsafe { real(attributes, mask) })
}

//! sigprocmask(2) and its kin: masks go to the kernel with a substitute in place of SIGSEGV ([`masks`]).

use core::ffi::{c_int, c_long, c_void};

use libc::{pthread_attr_t, pthread_t, sigset_t, ucontext_t};
use rustix::io::Errno;
use snapshim::sys::{masks, raw};
use syscalls::{Sysno, syscall};

use super::sets::{MASK, with_mask, word};
use crate::base::errno::as_libc;
use crate::interpose::answer::{fail, status};
use crate::interpose::interpose;
use crate::process::leaving;
use crate::signals::{self, guarded, threads};

interpose! {
    /// sigprocmask(2)
    sigprocmask, c"sigprocmask": sigprocmask => fn(how: c_int, new: *const sigset_t, old: *mut sigset_t) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |how, new, old| as_libc(unsafe { syscall!(Sysno::rt_sigprocmask, how, new, old, 8) }) as c_int,
        hook on_sigprocmask,
    }
    /// pthread_sigmask(3), whose result is the error
    pthread_sigmask, c"pthread_sigmask": pthread_sigmask => fn(how: c_int, new: *const sigset_t, old: *mut sigset_t) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |how, new, old| match unsafe { syscall!(Sysno::rt_sigprocmask, how, new, old, 8) } {
            Ok(_) => 0,
            Err(error) => error.into_raw(),
        },
        hook on_pthread_sigmask,
    }
    /// setcontext(3), which gives the context's mask to the kernel itself
    setcontext, c"setcontext": setcontext => fn(context: *const ucontext_t) -> c_int {
        raw |_context| fail(libc::ENOSYS), hook on_setcontext,
    }
    /// swapcontext(3), likewise
    swapcontext, c"swapcontext": swapcontext => fn(old: *mut ucontext_t, new: *const ucontext_t) -> c_int {
        raw |_old, _new| fail(libc::ENOSYS), hook on_swapcontext,
    }
    /// pthread_create(3), whose result is the error
    pthread_create, c"pthread_create": pthread_create => fn(
        thread: *mut pthread_t, attributes: *const pthread_attr_t, start: *const c_void, argument: *mut c_void
    ) -> c_int {
        next_or libc::EAGAIN,
        hook on_create_thread,
    }
    /// pthread_attr_setsigmask_np(3), which sets the mask that a thread begins with
    attribute_mask, c"pthread_attr_setsigmask_np": pthread_attr_setsigmask_np => fn(
        attributes: *mut pthread_attr_t, mask: *const sigset_t
    ) -> c_int {
        raw |_attributes, _mask| libc::ENOSYS, hook on_set_attribute_mask,
    }
}

fn on_sigprocmask(real: sigprocmask::Function, how: c_int, new: *const sigset_t, old: *mut sigset_t) -> c_int {
    if signals::is_installed() {
        return status(mask_of_libc(how, new, old));
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

/// The signals that libc takes out of every mask, because it uses them itself: for pthread_cancel(3) and setuid(2).
const LIBC_OWN: u64 = 1 << (32 - 1) | 1 << (33 - 1);

/// The new mask is read directly, as libc does; the old one is stored as by the kernel, which answers EFAULT.
fn mask_of_libc(how: c_int, new: *const sigset_t, old: *mut sigset_t) -> Result<(), Errno> {
    // SAFETY: null or the application's set.
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
    .map_err(raw::errno)?;
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
    status(change())
}

/// Puts the substitute in place of SIGSEGV in a context's mask. A mask that getcontext(3) saved needs no change; a program may
/// have put in a mask of its own.
fn open_faults_of_context(context: *const ucontext_t) {
    if !signals::is_installed() || context.is_null() {
        return;
    }
    // SAFETY: the application's context, whose mask the application fills in itself.
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

/// The thread begins with the mask of the caller, which must not block SIGSEGV. libc blocks all signals around the creation of
/// its own threads, and these store results where a user of aio(7) or getaddrinfo_a(3) wants them, perhaps in an armed mapping.
///
/// Before it makes its first thread, libc puts in its handler for the signal by which this process is summoned.
fn on_create_thread(
    real: pthread_create::Function,
    thread: *mut pthread_t,
    attributes: *const pthread_attr_t,
    start: *const c_void,
    argument: *mut c_void,
) -> c_int {
    signals::open_faults_of_thread();
    // SAFETY: the application's arguments, as they are.
    let result = unsafe { real(thread, attributes, start, argument) };
    threads::keep_expecting_summons();
    result
}

fn on_set_attribute_mask(
    real: attribute_mask::Function,
    attributes: *mut pthread_attr_t,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the application's arguments, with a valid mask.
    with_mask(mask, |mask| unsafe { real(attributes, mask) })
}

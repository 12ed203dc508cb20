//! Calls that wait for signals, or that wait for other events with a mask of their own.

use core::ffi::{c_int, c_long};

use libc::{epoll_event, fd_set, nfds_t, pollfd, siginfo_t, sigset_t, timespec};
use snapshim::sys::masks;
use syscalls::{Sysno, syscall};

use super::sets::{MASK, set_of, with_mask, word};
use crate::base::errno::as_libc;
use crate::interpose::interpose;
use crate::signals::{self, guarded};

interpose! {
    /// sigpending(2)
    sigpending, c"sigpending": sigpending => fn(set: *mut sigset_t) -> c_int {
        // SAFETY: the application's argument, as it is.
        raw |set| as_libc(unsafe { syscall!(Sysno::rt_sigpending, set, 8) }) as c_int,
        hook on_sigpending,
    }
    /// sigsuspend(2)
    sigsuspend, c"sigsuspend": sigsuspend __sigsuspend => fn(mask: *const sigset_t) -> c_int {
        // SAFETY: the application's argument, as it is.
        raw |mask| as_libc(unsafe { syscall!(Sysno::rt_sigsuspend, mask, 8) }) as c_int,
        hook on_sigsuspend,
    }
    /// sigwait(3), for a libc whose code cannot be patched; its result is the error
    sigwait, c"sigwait": sigwait => fn(set: *const sigset_t, signal: *mut c_int) -> c_int {
        raw |_set, _signal| libc::ENOSYS, hook on_sigwait,
    }
    /// sigwaitinfo(2), likewise
    sigwaitinfo, c"sigwaitinfo": sigwaitinfo => fn(set: *const sigset_t, information: *mut siginfo_t) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |set, information| as_libc(unsafe { syscall!(Sysno::rt_sigtimedwait, set, information, 0, 8) }) as c_int,
        hook on_sigwaitinfo,
    }
    /// sigtimedwait(2), which the two before call
    sigtimedwait, c"sigtimedwait": sigtimedwait => fn(
        set: *const sigset_t, information: *mut siginfo_t, timeout: *const timespec
    ) -> c_int {
        raw |set, information, timeout| {
            // SAFETY: the application's arguments, as they are.
            as_libc(unsafe { syscall!(Sysno::rt_sigtimedwait, set, information, timeout, 8) }) as c_int
        },
        hook on_sigtimedwait,
    }
    /// signalfd(2)
    signalfd, c"signalfd": signalfd => fn(fd: c_int, mask: *const sigset_t, flags: c_int) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |fd, mask, flags| as_libc(unsafe { syscall!(Sysno::signalfd4, fd, mask, 8, flags) }) as c_int,
        hook on_signalfd,
    }
    /// ppoll(2)
    ppoll, c"ppoll": ppoll => fn(
        all: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t
    ) -> c_int {
        raw raw_ppoll, hook on_ppoll,
    }
    /// pselect(2)
    pselect, c"pselect": pselect => fn(
        count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *const timespec,
        mask: *const sigset_t
    ) -> c_int {
        raw raw_pselect, hook on_pselect,
    }
    /// epoll_pwait(2)
    epoll_pwait, c"epoll_pwait": epoll_pwait => fn(
        fd: c_int, events: *mut epoll_event, most: c_int, timeout: c_int, mask: *const sigset_t
    ) -> c_int {
        raw |fd, events, most, timeout, mask| {
            // SAFETY: the application's arguments, as they are.
            as_libc(unsafe { syscall!(Sysno::epoll_pwait, fd, events, most, timeout, mask, 8) }) as c_int
        },
        hook on_epoll_pwait,
    }
    /// epoll_pwait2(2)
    epoll_pwait2, c"epoll_pwait2": epoll_pwait2 => fn(
        fd: c_int, events: *mut epoll_event, most: c_int, timeout: *const timespec, mask: *const sigset_t
    ) -> c_int {
        raw |fd, events, most, timeout, mask| {
            // SAFETY: the application's arguments, as they are.
            as_libc(unsafe { syscall!(Sysno::epoll_pwait2, fd, events, most, timeout, mask, 8) }) as c_int
        },
        hook on_epoll_pwait2,
    }
}

pub fn on_sigpending(real: sigpending::Function, set: *mut sigset_t) -> c_int {
    // SAFETY: the application's argument, as it is.
    let result = unsafe { real(set) };
    if result == 0 && signals::is_installed() {
        // SAFETY: the kernel has just written it.
        unsafe { set.cast::<u64>().write_unaligned(pending(word(set))) };
    }
    result
}

fn pending(kernel: u64) -> u64 {
    let others = kernel & !masks::SUBSTITUTE;
    if kernel & masks::SUBSTITUTE == 0 { others } else { others | masks::FAULT }
}

/// As [`with_mask`], for calls that wait with the mask.
#[inline]
fn wait_with<R>(mask: *const sigset_t, call: impl FnOnce(*const sigset_t) -> R) -> R {
    with_mask(mask, |given| {
        if given == mask {
            return call(given);
        }
        // SAFETY: made by `with_mask`.
        signals::waiting::wait_with(unsafe { word(given) }, || call(given))
    })
}

/// rt_sigsuspend(2), ppoll(2), epoll_pwait(2) by number: argument `at` is the mask, the next one is its size.
pub fn wait_by_number(real: impl FnOnce([usize; 6]) -> c_long, mut arguments: [usize; 6], at: usize) -> c_long {
    if arguments[at + 1] != MASK {
        return real(arguments);
    }
    wait_with(core::ptr::with_exposed_provenance(arguments[at]), |mask| {
        arguments[at] = mask.expose_provenance();
        real(arguments)
    })
}

/// pselect6(2): the last argument points to the mask and its size.
pub fn pselect_by_number(real: impl FnOnce([usize; 6]) -> c_long, mut arguments: [usize; 6]) -> c_long {
    if !signals::is_installed() || arguments[5] == 0 {
        return real(arguments);
    }
    let place = core::ptr::with_exposed_provenance::<u64>(arguments[5]);
    let with_size = guarded::load(place).and_then(|mask| Ok((mask, guarded::load(place.wrapping_add(1))?)));
    match with_size {
        Ok((mask, size)) if size == MASK as u64 => {
            wait_with(core::ptr::with_exposed_provenance(mask as usize), |mask| {
                let with_size = [mask.expose_provenance(), MASK];
                arguments[5] = with_size.as_ptr().expose_provenance();
                real(arguments)
            })
        }
        _ => real(arguments),
    }
}

fn on_sigsuspend(real: sigsuspend::Function, mask: *const sigset_t) -> c_int {
    // SAFETY: the application's arguments, with a valid mask.
    wait_with(mask, |mask| unsafe { real(mask) })
}

fn raw_ppoll(all: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int {
    // The kernel counts the timeout down, so it gets a copy, as by libc.
    // SAFETY: the application's arguments; the timeout is null or a timespec.
    unsafe {
        let mut rest = timeout.as_ref().copied();
        let rest = rest.as_mut().map_or(core::ptr::null_mut(), core::ptr::from_mut);
        as_libc(syscall!(Sysno::ppoll, all, count, rest, mask, 8)) as c_int
    }
}

fn on_ppoll(
    real: ppoll::Function,
    all: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the application's arguments, with a valid mask.
    wait_with(mask, |mask| unsafe { real(all, count, timeout, mask) })
}

fn raw_pselect(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    let with_size = [mask as usize, 8];
    // SAFETY: as in `raw_ppoll`.
    unsafe {
        let mut rest = timeout.as_ref().copied();
        let rest = rest.as_mut().map_or(core::ptr::null_mut(), core::ptr::from_mut);
        as_libc(syscall!(Sysno::pselect6, count, read, write, except, rest, with_size.as_ptr())) as c_int
    }
}

fn on_pselect(
    real: pselect::Function,
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the application's arguments, with a valid mask.
    wait_with(mask, |mask| unsafe { real(count, read, write, except, timeout, mask) })
}

fn on_epoll_pwait(
    real: epoll_pwait::Function,
    fd: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout: c_int,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the application's arguments, with a valid mask.
    wait_with(mask, |mask| unsafe { real(fd, events, most, timeout, mask) })
}

fn on_epoll_pwait2(
    real: epoll_pwait2::Function,
    fd: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the application's arguments, with a valid mask.
    wait_with(mask, |mask| unsafe { real(fd, events, most, timeout, mask) })
}

/// A set of signals to take. SIGSEGV stands for two: one that arrives as itself, and one that waits as the substitute.
fn awaited(set: u64) -> u64 {
    masks::to_kernel(set) | set & masks::FAULT
}

pub fn on_sigtimedwait(
    real: sigtimedwait::Function,
    set: *const sigset_t,
    information: *mut siginfo_t,
    timeout: *const timespec,
) -> c_int {
    // SAFETY: the application's arguments, with a valid set, and with information that is writable.
    take_signal(set, information, |set, information| unsafe { real(set, information, timeout) })
}

fn on_sigwaitinfo(real: sigwaitinfo::Function, set: *const sigset_t, information: *mut siginfo_t) -> c_int {
    if sigtimedwait::ENTRY_POINT.is_detoured() {
        // SAFETY: the application's arguments, as they are.
        return unsafe { real(set, information) };
    }
    // SAFETY: as in `on_sigtimedwait`.
    take_signal(set, information, |set, information| unsafe { real(set, information) })
}

fn on_sigwait(real: sigwait::Function, set: *const sigset_t, number: *mut c_int) -> c_int {
    if sigtimedwait::ENTRY_POINT.is_detoured() || !signals::is_installed() {
        // SAFETY: the application's arguments, as they are.
        return unsafe { real(set, number) };
    }
    // SAFETY: the application's set, as libc's sigwait(3) would read it.
    let awaited = set_of(awaited(unsafe { word(set) }));
    let mut taken = 0;
    // SAFETY: both are valid.
    let error = unsafe { real(&raw const awaited, &raw mut taken) };
    if error == 0 {
        let named = if taken == signals::action::SUBSTITUTE { signals::action::FAULT } else { taken };
        // SAFETY: the address that the application gave for the signal.
        unsafe { number.write(named) };
    }
    error
}

/// Waits for signals of the set. A substitute that is taken becomes SIGSEGV again.
fn take_signal(
    set: *const sigset_t,
    information: *mut siginfo_t,
    wait: impl FnOnce(*const sigset_t, *mut siginfo_t) -> c_int,
) -> c_int {
    let wanted = if signals::is_installed() { guarded::load(set.cast()).ok() } else { None };
    let Some(wanted) = wanted else {
        return wait(set, information);
    };
    let set = set_of(awaited(wanted));
    // SAFETY: all-zero is a valid siginfo_t; the information is null or the application's.
    unsafe {
        let mut found: siginfo_t = core::mem::zeroed();
        let result = wait(&raw const set, &raw mut found);
        if result < 0 {
            return result;
        }
        signals::take_back(&mut found);
        if !information.is_null() {
            information.write(found);
        }
        found.si_signo
    }
}

pub fn on_signalfd(real: signalfd::Function, fd: c_int, mask: *const sigset_t, flags: c_int) -> c_int {
    let wanted = if signals::is_installed() { guarded::load(mask.cast()).ok() } else { None };
    let Some(wanted) = wanted else {
        // SAFETY: the application's arguments, as they are.
        return unsafe { real(fd, mask, flags) };
    };
    let set = set_of(awaited(wanted));
    // SAFETY: the application's arguments, with a valid mask.
    unsafe { real(fd, &raw const set, flags) }
}

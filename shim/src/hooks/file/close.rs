//! close(2), dup2(2) and their kin: a descriptor number may mean another file from now on.
//!
//! A creation that finds a writer blocked on a descriptor looks the number up. It believes what it finds only if no such change
//! came in between, so each change is counted here.
//!
//! The shim keeps files of its own open among the program's descriptors. No close may take them away, and no dup2 may replace them
//! while they are in use: see [`ProcFdCache`].

use core::ffi::{c_int, c_uint};

use snapshim::preserve::proc_fd_cache::ProcFdCache;
use snapshim::sys::{permission, raw};
use syscalls::{Sysno, syscall};

use crate::base::errno::as_libc;
use crate::interpose::answer::fail;
use crate::interpose::interpose;
use crate::process::descriptors::{changing, changing_all};
use crate::process::identity;

interpose! {
    /// close(2)
    close, c"close": close __close => fn(fd: c_int) -> c_int {
        // SAFETY: the application's argument, as it is.
        raw |fd| as_libc(unsafe { syscall!(Sysno::close, fd) }) as c_int,
        hook on_close,
    }
    /// close(2) that is no cancellation point, which fclose(3) and others call
    close_nocancel, c"__close_nocancel": => fn(fd: c_int) -> c_int {
        // SAFETY: the caller's argument, as it is.
        raw |fd| as_libc(unsafe { syscall!(Sysno::close, fd) }) as c_int,
        hook on_close,
    }
    /// dup2(2)
    dup2, c"dup2": dup2 __dup2 => fn(old: c_int, new: c_int) -> c_int {
        raw |old, new| as_libc(raw_dup2(old, new)) as c_int,
        hook on_dup2,
    }
    /// dup3(2)
    dup3, c"dup3": dup3 __dup3 => fn(old: c_int, new: c_int, flags: c_int) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |old, new, flags| as_libc(unsafe { syscall!(Sysno::dup3, old, new, flags) }) as c_int,
        hook on_dup3,
    }
    /// close_range(2)
    close_range, c"close_range": close_range => fn(first: c_uint, last: c_uint, flags: c_int) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |first, last, flags| as_libc(unsafe { syscall!(Sysno::close_range, first, last, flags) }) as c_int,
        hook on_close_range,
    }
}

const CLOSE_RANGE_CLOEXEC: c_int = 1 << 2;

/// How long a dup2 to a number of the shim's waits for threads that use it. Such use is a few system calls long, unless the
/// thread is stopped in them.
const LONGEST_WAIT: u64 = 1_000_000_000;

/// dup2(2), made of dup3(2). dup3 refuses equal numbers, which dup2 only checks to be valid.
fn raw_dup2(old: c_int, new: c_int) -> Result<usize, syscalls::Errno> {
    // SAFETY: the application's arguments, as they are.
    unsafe {
        if old == new {
            syscall!(Sysno::fcntl, old, libc::F_GETFD).map(|_| new as usize)
        } else {
            syscall!(Sysno::dup3, old, new, 0)
        }
    }
}

/// Makes a call that may close or replace what the shim keeps open: `act` gets the shim's files. It gets none in a vfork child,
/// whose descriptor table is a copy, and in a process that is confined, which uses none any more.
#[inline]
fn with_proc_fds<T>(last: u32, act: impl FnOnce(Option<&ProcFdCache>) -> T) -> T {
    let proc_fds = identity::proc_fds();
    if !proc_fds.may_guard(last) || permission::is_confined() || identity::is_vfork_child() {
        return act(None);
    }
    proc_fds.replacing(|| act(Some(proc_fds)))
}

pub fn on_close(real: close::Function, fd: c_int) -> c_int {
    let close = |proc_fds: Option<&ProcFdCache>| {
        if proc_fds.is_some_and(|proc_fds| proc_fds.guards(fd as u32)) {
            // As natively, where the program has nothing open at that number.
            return fail(libc::EBADF);
        }
        // SAFETY: the application's argument, as it is.
        unsafe { real(fd) }
    };
    changing(fd, || with_proc_fds(fd as u32, close))
}

pub fn on_dup2(real: dup2::Function, old: c_int, new: c_int) -> c_int {
    // SAFETY: the application's arguments, as they are.
    changing(new, || onto(old, new, || unsafe { real(old, new) }))
}

pub fn on_dup3(real: dup3::Function, old: c_int, new: c_int, flags: c_int) -> c_int {
    // SAFETY: the application's arguments, as they are.
    changing(new, || onto(old, new, || unsafe { real(old, new, flags) }))
}

/// Makes `call`, which duplicates the file at `old` to `new`.
fn onto(old: c_int, new: c_int, call: impl Fn() -> c_int) -> c_int {
    with_proc_fds(new as u32, |proc_fds| {
        let Some((proc_fds, own)) =
            proc_fds.filter(|proc_fds| old != new && proc_fds.guards(new as u32)).zip(identity::attached())
        else {
            return call();
        };
        let are_users_gone = || own.table.await_pushers_of(own.owner(), raw::now() + LONGEST_WAIT);
        let replace = || match call() {
            -1 => Err(None),
            done => Ok(done),
        };
        match proc_fds.vacate(new as u32, are_users_gone, replace) {
            Ok(done) => done,
            // The call has set errno.
            Err(None) => -1,
            Err(Some(error)) => fail(error.raw_os_error()),
        }
    })
}

pub fn on_close_range(real: close_range::Function, first: c_uint, last: c_uint, flags: c_int) -> c_int {
    // SAFETY: the application's arguments, or a part of its range.
    let call = |first, last| unsafe { real(first, last, flags) };
    if first > last || flags & CLOSE_RANGE_CLOEXEC != 0 {
        return call(first, last);
    }
    let close = |proc_fds: Option<&ProcFdCache>| {
        let Some(proc_fds) = proc_fds else { return call(first, last) };
        let mut at = first;
        while let Some(guarded) = proc_fds.first_guarded(at, last) {
            // An empty part needs a call as well: the kernel judges its flags.
            let done = if at < guarded { call(at, guarded - 1) } else { call(u32::MAX, u32::MAX) };
            if done < 0 || guarded == last {
                return done;
            }
            at = guarded + 1;
        }
        call(at, last)
    };
    changing_all(first, last, || with_proc_fds(last, close))
}

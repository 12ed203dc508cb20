//! close(2), dup2(2) and their kin: a descriptor number may mean another file from now on.
//!
//! A creation that finds a writer blocked on a number looks that number up; it believes what it finds only if no such change came
//! in between. And the shim keeps files open among the program's, which no close may take away, and no dup2 replace while they are
//! used: see [`KeptFiles`].

use core::ffi::{c_int, c_uint};

use snapshim::preserve::kept::KeptFiles;
use snapshim::sys::raw;
use syscalls::{Sysno, syscall};

use crate::base::errno::{as_libc, set_errno};
use crate::interpose::interpose;
use crate::process::descriptors::{count_all, count_change};
use crate::process::identity;

interpose! {
    /// close(2)
    close, c"close": close __close => fn(fd: c_int) -> c_int {
        // SAFETY: the application's argument, as it is.
        raw |fd| as_libc(unsafe { syscall!(Sysno::close, fd) }) as c_int,
        hook on_close,
    }
    /// What fclose(3) and others call: close(2) that is no cancellation point
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

/// How long a dup2 to a number of the shim's waits for threads that use it: a few system calls, unless one is stopped in them.
const PATIENCE: u64 = 1_000_000_000;

/// dup2(2) where dup3(2) has to do: equal numbers only have to be valid, which dup3 refuses.
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

/// Calls that may close or replace what the shim keeps open: `act` gets its files. Not for a child that shares this memory, but whose
/// table is a copy.
#[inline]
fn beside_kept<T>(last: u32, act: impl FnOnce(Option<&KeptFiles>) -> T) -> T {
    let kept = identity::kept();
    if !kept.may_guard(last) || identity::is_borrower() {
        return act(None);
    }
    kept.replacing(|| act(Some(kept)))
}

pub fn on_close(real: close::Function, fd: c_int) -> c_int {
    count_change(fd);
    beside_kept(fd as u32, |kept| {
        if kept.is_some_and(|kept| kept.guards(fd as u32)) {
            // As natively, where nothing is open there.
            set_errno(libc::EBADF);
            return -1;
        }
        // SAFETY: the application's argument, as it is.
        unsafe { real(fd) }
    })
}

pub fn on_dup2(real: dup2::Function, old: c_int, new: c_int) -> c_int {
    count_change(new);
    // SAFETY: the application's arguments, as they are.
    onto(old, new, || unsafe { real(old, new) })
}

pub fn on_dup3(real: dup3::Function, old: c_int, new: c_int, flags: c_int) -> c_int {
    count_change(new);
    // SAFETY: the application's arguments, as they are.
    onto(old, new, || unsafe { real(old, new, flags) })
}

/// Makes `call`, which puts the file at `old` to `new`, too.
fn onto(old: c_int, new: c_int, call: impl Fn() -> c_int) -> c_int {
    beside_kept(new as u32, |kept| {
        let Some((kept, own)) = kept.filter(|kept| old != new && kept.guards(new as u32)).zip(identity::attached())
        else {
            return call();
        };
        let are_users_gone = || own.table.await_pushers_of(own.owner(), raw::now() + PATIENCE);
        let replace = || match call() {
            -1 => Err(None),
            done => Ok(done),
        };
        match kept.vacate(new as u32, are_users_gone, replace) {
            Ok(done) => done,
            // The call has set errno.
            Err(None) => -1,
            Err(Some(error)) => {
                set_errno(error.raw_os_error());
                -1
            }
        }
    })
}

pub fn on_close_range(real: close_range::Function, first: c_uint, last: c_uint, flags: c_int) -> c_int {
    count_all();
    // SAFETY: the application's arguments, or a part of its range.
    let call = |first, last| unsafe { real(first, last, flags) };
    if first > last || flags & CLOSE_RANGE_CLOEXEC != 0 {
        return call(first, last);
    }
    beside_kept(last, |kept| {
        let Some(kept) = kept else { return call(first, last) };
        let mut at = first;
        while let Some(guarded) = kept.first_guarded(at, last) {
            // An empty part is called for, too: for the flags.
            let done = if at < guarded { call(at, guarded - 1) } else { call(u32::MAX, u32::MAX) };
            if done < 0 || guarded == last {
                return done;
            }
            at = guarded + 1;
        }
        call(at, last)
    })
}

//! copy_file_range(2), sendfile(2), splice(2), vmsplice(2): bytes come from another descriptor, or go to a pipe by reference.

use core::cell::Cell;
use core::ffi::{c_int, c_uint};

use libc::{iovec, off64_t, pollfd, size_t, ssize_t};
use snapshim::cooperate::locate::target_of_descriptor;
use snapshim::protocol::origin::Target;
use snapshim::sys::{permission, raw, signal_block};
use syscalls::{Sysno, syscall};

use crate::base::errno::{as_libc, errno, set_errno};
use crate::base::user_memory::{each_buffer, read_value};
use crate::interpose::answer::fail;
use crate::interpose::{interpose, originals};
use crate::mapper::preserve_own;
use crate::signals::action::Action;
use crate::writer::enter::through_gate;
use crate::writer::touch::{LONGEST_WRITE, Touch};

interpose! {
    /// copy_file_range(2)
    copy_file_range, c"copy_file_range": copy_file_range => fn(
        from: c_int, from_offset: *mut off64_t, to: c_int, to_offset: *mut off64_t, length: size_t, flags: c_uint
    ) -> ssize_t {
        raw |from, from_offset, to, to_offset, length, flags| {
            // SAFETY: the application's arguments, as they are.
            as_libc(unsafe { syscall!(Sysno::copy_file_range, from, from_offset, to, to_offset, length, flags) })
        },
        hook on_copy_file_range,
    }
    /// sendfile(2)
    sendfile64, c"sendfile64": sendfile sendfile64
    => fn(to: c_int, from: c_int, offset: *mut off64_t, length: size_t) -> ssize_t {
        // SAFETY: the application's arguments, as they are.
        raw |to, from, offset, length| as_libc(unsafe { syscall!(Sysno::sendfile, to, from, offset, length) }),
        hook on_sendfile,
    }
    /// splice(2)
    splice, c"splice": splice => fn(
        from: c_int, from_offset: *mut off64_t, to: c_int, to_offset: *mut off64_t, length: size_t, flags: c_uint
    ) -> ssize_t {
        raw |from, from_offset, to, to_offset, length, flags| {
            // SAFETY: the application's arguments, as they are.
            as_libc(unsafe { syscall!(Sysno::splice, from, from_offset, to, to_offset, length, flags) })
        },
        hook on_splice,
    }
    /// vmsplice(2)
    vmsplice, c"vmsplice": vmsplice => fn(fd: c_int, vector: *const iovec, count: size_t, flags: c_uint) -> ssize_t {
        // SAFETY: the application's arguments, as they are.
        raw |fd, vector, count, flags| as_libc(unsafe { syscall!(Sysno::vmsplice, fd, vector, count, flags) }),
        hook on_vmsplice,
    }
}

/// Bytes that go to the offset that a pointer leads to, or to the file position where the pointer is null.
struct Incoming {
    length: size_t,
    offset: *const off64_t,
}

impl Touch for Incoming {
    fn length(&self) -> u64 {
        (self.length as u64).min(LONGEST_WRITE)
    }

    /// The kernel refuses a pointer that cannot be read.
    fn offset(&self) -> Option<i64> {
        let address = self.offset as u64;
        (address != 0).then(|| read_value(address).unwrap_or(-1))
    }
}

pub fn on_copy_file_range(
    real: copy_file_range::Function,
    from: c_int,
    from_offset: *mut off64_t,
    to: c_int,
    to_offset: *mut off64_t,
    length: size_t,
    flags: c_uint,
) -> ssize_t {
    let touch = Incoming { length, offset: to_offset };
    // SAFETY: the application's arguments, as they are.
    through_gate(to, touch, || unsafe { real(from, from_offset, to, to_offset, length, flags) })
}

/// The call never waits for input: a source without positions, such as a pipe, is refused by the kernel.
pub fn on_sendfile(
    real: sendfile64::Function,
    to: c_int,
    from: c_int,
    offset: *mut off64_t,
    length: size_t,
) -> ssize_t {
    // SAFETY: the application's arguments, as they are.
    let call = || unsafe { real(to, from, offset, length) };
    if !is_file(to) {
        return call();
    }
    through_gate(to, Incoming { length, offset: core::ptr::null() }, call)
}

const SPLICE_F_NONBLOCK: c_uint = 2;

/// The calls that find out whether to wait for input, and wait.
const WAITING: &[Sysno] = &[Sysno::fcntl, Sysno::ppoll, Sysno::rt_sigprocmask, Sysno::rt_sigaction];

pub fn on_splice(
    real: splice::Function,
    from: c_int,
    from_offset: *mut off64_t,
    to: c_int,
    to_offset: *mut off64_t,
    length: size_t,
    flags: c_uint,
) -> ssize_t {
    // SAFETY: the application's arguments, as they are but for SPLICE_F_NONBLOCK.
    let call = |flags| unsafe { real(from, from_offset, to, to_offset, length, flags) };
    if !is_file(to) {
        return call(flags);
    }
    if flags & SPLICE_F_NONBLOCK != 0 || permission::forbids_any(WAITING) || !is_patient(from) {
        return through_gate(to, Incoming { length, offset: to_offset }, || call(flags));
    }
    // Never wait for an empty pipe while announced: a creation would wait for this call. A call that fails at once fails here as
    // well.
    let before = errno();
    loop {
        let is_refused = Cell::new(true);
        let result = through_gate(to, Incoming { length, offset: to_offset }, || {
            is_refused.set(false);
            call(flags | SPLICE_F_NONBLOCK)
        });
        if result >= 0 || is_refused.get() || errno() != libc::EAGAIN {
            return result;
        }
        set_errno(before);
        if await_input(from) == Waited::Interrupted {
            return fail(libc::EINTR);
        }
    }
}

pub fn on_vmsplice(real: vmsplice::Function, fd: c_int, vector: *const iovec, count: size_t, flags: c_uint) -> ssize_t {
    // The pipe holds the pages themselves. Without a copy of its own it would show whatever is written to the file later.
    each_buffer(vector, count.min(c_int::MAX as usize) as c_int, preserve_own::preserve_range);
    // SAFETY: the application's arguments, as they are.
    unsafe { real(fd, vector, count, flags) }
}

/// Whether bytes that arrive at the descriptor could be a snapshot's.
fn is_file(fd: c_int) -> bool {
    target_of_descriptor(fd as u32) != Target::Elsewhere
}

/// Whether a read of the descriptor waits for input.
fn is_patient(fd: c_int) -> bool {
    rustix::fs::fcntl_getfl(raw::borrow(fd as u32)).is_ok_and(|flags| !flags.contains(rustix::fs::OFlags::NONBLOCK))
}

#[derive(PartialEq, Eq)]
enum Waited {
    /// There is input, or the call is worth another attempt.
    Enough,
    /// A handler has run after which the call must fail.
    Interrupted,
}

/// Waits until a pipe has input, as long as splice(2) would.
///
/// After a handler with SA_RESTART, splice(2) goes on; after any other it fails. poll(2) fails after both, and does not say which
/// ran. The kernel restarts no call that waits for a pipe and takes nothing from it, except tee(2), which needs a second pipe. So
/// the wait fails if any handler that could have run has no SA_RESTART. A program with both kinds of handlers must expect EINTR
/// of its calls anyway, and a program that waits for EINTR, as with alarm(2), gets it.
fn await_input(fd: c_int) -> Waited {
    // libc's ppoll, even where the shim is switched off: it is a cancellation point.
    let mut input = pollfd { fd, events: libc::POLLIN, revents: 0 };
    // Looked for before the wait as well: a handler with SA_RESETHAND is gone afterwards.
    let ends_calls = may_handler_end_calls();
    let before = errno();
    let result = originals::ppoll(&mut input);
    let is_interrupted = result < 0 && errno() == libc::EINTR;
    set_errno(before);
    if is_interrupted && (ends_calls || may_handler_end_calls()) { Waited::Interrupted } else { Waited::Enough }
}

/// Whether a handler without SA_RESTART could run in this thread.
fn may_handler_end_calls() -> bool {
    /// The signals that have the shim's own handler in the kernel, and those that libc uses for cancellation and set*id(2).
    const OTHERS: [c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, 32, 33];
    let blocked = signal_block::signal_mask();
    (1..=64).filter(|signal| !OTHERS.contains(signal) && blocked >> (signal - 1) & 1 == 0).any(|signal| {
        Action::of_kernel(signal).is_some_and(|action| action.is_function() && !action.has(libc::SA_RESTART))
    })
}

//! write(2), pwrite(2) and their vectored forms: bytes go to [offset, offset + length), to the file position, or to the end.

use core::ffi::{c_int, c_void};

use libc::{iovec, off64_t, size_t, ssize_t};
use syscalls::{Sysno, syscall};

use crate::base::errno::as_libc;
use crate::base::user_memory::each_buffer;
use crate::interpose::interpose;
use crate::writer::enter::through_gate;
use crate::writer::touch::{LONGEST_WRITE, Plain, Touch};

interpose! {
    /// write(2)
    write, c"write": write __write => fn(fd: c_int, data: *const c_void, length: size_t) -> ssize_t {
        // SAFETY: the application's arguments, as they are.
        raw |fd, data, length| as_libc(unsafe { syscall!(Sysno::write, fd, data, length) }),
        hook on_write,
    }
    /// write(2) that is no cancellation point, which libc calls for itself
    write_nocancel, c"__write_nocancel": => fn(fd: c_int, data: *const c_void, length: size_t) -> ssize_t {
        // SAFETY: the caller's arguments, as they are.
        raw |fd, data, length| as_libc(unsafe { syscall!(Sysno::write, fd, data, length) }),
        hook on_write,
    }
    /// pwrite(2)
    pwrite64, c"pwrite64": pwrite pwrite64 __pwrite64
    => fn(fd: c_int, data: *const c_void, length: size_t, offset: off64_t) -> ssize_t {
        // SAFETY: the application's arguments, as they are.
        raw |fd, data, length, offset| as_libc(unsafe { syscall!(Sysno::pwrite64, fd, data, length, offset) }),
        hook on_pwrite,
    }
    /// writev(2)
    writev, c"writev": writev => fn(fd: c_int, vector: *const iovec, count: c_int) -> ssize_t {
        // SAFETY: the application's arguments, as they are.
        raw |fd, vector, count| as_libc(unsafe { syscall!(Sysno::writev, fd, vector, count) }),
        hook on_writev,
    }
    /// pwritev(2)
    pwritev64, c"pwritev64": pwritev pwritev64
    => fn(fd: c_int, vector: *const iovec, count: c_int, offset: off64_t) -> ssize_t {
        // SAFETY: the application's arguments, as they are; the offset is one word on 64-bit machines.
        raw |fd, vector, count, offset| as_libc(unsafe { syscall!(Sysno::pwritev, fd, vector, count, offset, 0) }),
        hook on_pwritev,
    }
    /// pwritev2(2)
    pwritev64v2, c"pwritev64v2": pwritev2 pwritev64v2
    => fn(fd: c_int, vector: *const iovec, count: c_int, offset: off64_t, flags: c_int) -> ssize_t {
        raw |fd, vector, count, offset, flags| {
            // SAFETY: the application's arguments, as they are; the offset is one word on 64-bit machines.
            as_libc(unsafe { syscall!(Sysno::pwritev2, fd, vector, count, offset, 0, flags) })
        },
        hook on_pwritev2,
    }
}

pub fn on_write(
    real: unsafe extern "C-unwind" fn(c_int, *const c_void, size_t) -> ssize_t,
    fd: c_int,
    data: *const c_void,
    length: size_t,
) -> ssize_t {
    let touch = Plain { length, offset: None };
    // SAFETY: the application's arguments, as they are.
    through_gate(fd, touch, || unsafe { real(fd, data, length) })
}

pub fn on_pwrite(
    real: unsafe extern "C-unwind" fn(c_int, *const c_void, size_t, off64_t) -> ssize_t,
    fd: c_int,
    data: *const c_void,
    length: size_t,
    offset: off64_t,
) -> ssize_t {
    let touch = Plain { length, offset: Some(offset) };
    // SAFETY: the application's arguments, as they are.
    through_gate(fd, touch, || unsafe { real(fd, data, length, offset) })
}

pub fn on_writev(
    real: unsafe extern "C-unwind" fn(c_int, *const iovec, c_int) -> ssize_t,
    fd: c_int,
    vector: *const iovec,
    count: c_int,
) -> ssize_t {
    let touch = Vectored { vector, count, offset: None, flags: 0 };
    // SAFETY: the application's arguments, as they are.
    through_gate(fd, touch, || unsafe { real(fd, vector, count) })
}

pub fn on_pwritev(
    real: unsafe extern "C-unwind" fn(c_int, *const iovec, c_int, off64_t) -> ssize_t,
    fd: c_int,
    vector: *const iovec,
    count: c_int,
    offset: off64_t,
) -> ssize_t {
    let touch = Vectored { vector, count, offset: Some(offset), flags: 0 };
    // SAFETY: the application's arguments, as they are.
    through_gate(fd, touch, || unsafe { real(fd, vector, count, offset) })
}

pub fn on_pwritev2(
    real: unsafe extern "C-unwind" fn(c_int, *const iovec, c_int, off64_t, c_int) -> ssize_t,
    fd: c_int,
    vector: *const iovec,
    count: c_int,
    offset: off64_t,
    flags: c_int,
) -> ssize_t {
    // An offset of -1 means the file position (preadv2(2)).
    let touch = Vectored { vector, count, offset: (offset != -1).then_some(offset), flags };
    // SAFETY: the application's arguments, as they are.
    through_gate(fd, touch, || unsafe { real(fd, vector, count, offset, flags) })
}

/// Several buffers, perhaps with `RWF_*` flags.
struct Vectored {
    vector: *const iovec,
    count: c_int,
    offset: Option<off64_t>,
    flags: c_int,
}

const RWF_APPEND: c_int = 0x10;
/// Linux 6.9: an O_APPEND descriptor is written at the given offset.
const RWF_NOAPPEND: c_int = 0x20;

impl Touch for Vectored {
    fn length(&self) -> u64 {
        let mut total = 0u64;
        let whole = each_buffer(self.vector, self.count, |_, length| total = total.saturating_add(length));
        if whole { total.min(LONGEST_WRITE) } else { LONGEST_WRITE }
    }

    fn offset(&self) -> Option<i64> {
        self.offset
    }

    fn appends(&self, opened_with_append: bool) -> bool {
        self.flags & RWF_APPEND != 0 || opened_with_append && self.flags & RWF_NOAPPEND == 0
    }
}

//! read(2), pread(2) and their vectored forms, getrandom(2) and process_vm_readv(2): the kernel stores into the application's
//! buffers, which may lie in armed mappings or in snapshots
//! ([`kernel_store`](crate::shared::kernel_store)).

use core::ffi::{c_int, c_uint, c_ulong, c_void};

use libc::{iovec, off64_t, pid_t, size_t, ssize_t};
use syscalls::{Sysno, syscall};

use crate::base::errno::as_libc;
use crate::interpose::interpose;
use crate::shared::kernel_store::{Source, fill, fill_one, may_touch, may_touch_any};

interpose! {
    /// read(2)
    read, c"read": read __read => fn(fd: c_int, data: *mut c_void, length: size_t) -> ssize_t {
        // SAFETY: the application's arguments, as they are.
        raw |fd, data, length| as_libc(unsafe { syscall!(Sysno::read, fd, data, length) }),
        hook on_read,
    }
    /// What read(2) is in a program compiled with checks of its buffers: in an older libc it makes the system call itself
    read_chk, c"__read_chk": __read_chk
    => fn(fd: c_int, data: *mut c_void, length: size_t, room: size_t) -> ssize_t {
        // SAFETY: the application's arguments, as they are.
        raw |fd, data, length, _room| as_libc(unsafe { syscall!(Sysno::read, fd, data, length) }),
        hook on_read_chk,
    }
    /// read(2) that is no cancellation point, which libc calls for itself
    read_nocancel, c"__read_nocancel": => fn(fd: c_int, data: *mut c_void, length: size_t) -> ssize_t {
        // SAFETY: the caller's arguments, as they are.
        raw |fd, data, length| as_libc(unsafe { syscall!(Sysno::read, fd, data, length) }),
        hook on_read,
    }
    /// pread(2)
    pread64, c"pread64": pread pread64 __pread64
    => fn(fd: c_int, data: *mut c_void, length: size_t, offset: off64_t) -> ssize_t {
        // SAFETY: the application's arguments, as they are.
        raw |fd, data, length, offset| as_libc(unsafe { syscall!(Sysno::pread64, fd, data, length, offset) }),
        hook on_pread,
    }
    /// readv(2)
    readv, c"readv": readv => fn(fd: c_int, vector: *const iovec, count: c_int) -> ssize_t {
        // SAFETY: the application's arguments, as they are.
        raw |fd, vector, count| as_libc(unsafe { syscall!(Sysno::readv, fd, vector, count) }),
        hook on_readv,
    }
    /// preadv(2)
    preadv64, c"preadv64": preadv preadv64
    => fn(fd: c_int, vector: *const iovec, count: c_int, offset: off64_t) -> ssize_t {
        // SAFETY: the application's arguments, as they are; the offset is one word on 64-bit machines.
        raw |fd, vector, count, offset| as_libc(unsafe { syscall!(Sysno::preadv, fd, vector, count, offset, 0) }),
        hook on_preadv,
    }
    /// preadv2(2)
    preadv64v2, c"preadv64v2": preadv2 preadv64v2
    => fn(fd: c_int, vector: *const iovec, count: c_int, offset: off64_t, flags: c_int) -> ssize_t {
        raw |fd, vector, count, offset, flags| {
            // SAFETY: the application's arguments, as they are; the offset is one word on 64-bit machines.
            as_libc(unsafe { syscall!(Sysno::preadv2, fd, vector, count, offset, 0, flags) })
        },
        hook on_preadv2,
    }
    /// getrandom(2)
    getrandom, c"getrandom": getrandom => fn(data: *mut c_void, length: size_t, flags: c_uint) -> ssize_t {
        // SAFETY: the application's arguments, as they are.
        raw |data, length, flags| as_libc(unsafe { syscall!(Sysno::getrandom, data, length, flags) }),
        hook on_getrandom,
    }
    /// process_vm_readv(2)
    process_vm_readv, c"process_vm_readv": process_vm_readv => fn(
        pid: pid_t, local: *const iovec, count: c_ulong, remote: *const iovec, remote_count: c_ulong, flags: c_ulong
    ) -> ssize_t {
        raw |pid, local, count, remote, remote_count, flags| {
            // SAFETY: the application's arguments, as they are.
            as_libc(unsafe { syscall!(Sysno::process_vm_readv, pid, local, count, remote, remote_count, flags) })
        },
        hook on_process_vm_readv,
    }
}

/// libc ends a program that asks for more than it has room for.
fn on_read_chk(real: read_chk::Function, fd: c_int, data: *mut c_void, length: size_t, room: size_t) -> ssize_t {
    if length > room {
        // SAFETY: the application's arguments, as they are.
        return unsafe { real(fd, data, length, room) };
    }
    on_read(read::original(), fd, data, length)
}

#[inline]
pub fn on_read(real: read::Function, fd: c_int, data: *mut c_void, length: size_t) -> ssize_t {
    // SAFETY: the application's arguments, as they are.
    let call = || unsafe { real(fd, data, length) };
    if !may_touch(data as u64, length) {
        return call();
    }
    fill_one(Source::Descriptor(fd), data, length, call, |_, parts| match parts {
        // SAFETY: the shim's memory, or the application's where the call is to store.
        [part] => unsafe { real(fd, part.iov_base, part.iov_len) },
        // SAFETY: as above.
        parts => unsafe { readv::original()(fd, parts.as_ptr(), parts.len() as c_int) },
    })
}

#[inline]
pub fn on_pread(real: pread64::Function, fd: c_int, data: *mut c_void, length: size_t, offset: off64_t) -> ssize_t {
    // SAFETY: the application's arguments, as they are.
    let call = || unsafe { real(fd, data, length, offset) };
    if !may_touch(data as u64, length) {
        return call();
    }
    fill_one(Source::DescriptorAt(fd, offset), data, length, call, |done, parts| {
        let offset = offset.saturating_add_unsigned(done);
        match parts {
            // SAFETY: the shim's memory, or the application's where the call is to store.
            [part] => unsafe { real(fd, part.iov_base, part.iov_len, offset) },
            // SAFETY: as above.
            parts => unsafe { preadv64::original()(fd, parts.as_ptr(), parts.len() as c_int, offset) },
        }
    })
}

/// Fills a vector, in a bounce buffer where that is needed. A count that the kernel refuses is left to it.
#[inline]
fn fill_vector(
    source: Source,
    vector: *const iovec,
    count: impl TryInto<usize>,
    real: impl Fn(*const iovec, usize) -> isize,
    call: impl Fn() -> isize,
) -> isize {
    match count.try_into() {
        Ok(count) if may_touch_any() => fill(source, vector, count, call, |parts| real(parts.as_ptr(), parts.len())),
        _ => call(),
    }
}

#[inline]
pub fn on_readv(real: readv::Function, fd: c_int, vector: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the application's arguments, as they are, or the shim's memory in their place.
    let call = |vector, count| unsafe { real(fd, vector, count) };
    let bounced = |parts, length| call(parts, length as c_int);
    fill_vector(Source::Descriptor(fd), vector, count, bounced, || call(vector, count))
}

#[inline]
pub fn on_preadv(real: preadv64::Function, fd: c_int, vector: *const iovec, count: c_int, offset: off64_t) -> ssize_t {
    // SAFETY: as in `on_readv`.
    let call = |vector, count| unsafe { real(fd, vector, count, offset) };
    let bounced = |parts, length| call(parts, length as c_int);
    fill_vector(Source::DescriptorAt(fd, offset), vector, count, bounced, || call(vector, count))
}

#[inline]
pub fn on_preadv2(
    real: preadv64v2::Function,
    fd: c_int,
    vector: *const iovec,
    count: c_int,
    offset: off64_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: as in `on_readv`.
    let call = |vector, count| unsafe { real(fd, vector, count, offset, flags) };
    let bounced = |parts, length| call(parts, length as c_int);
    let source = if offset == -1 { Source::Descriptor(fd) } else { Source::DescriptorAt(fd, offset) };
    fill_vector(source, vector, count, bounced, || call(vector, count))
}

#[inline]
pub fn on_process_vm_readv(
    real: process_vm_readv::Function,
    pid: pid_t,
    local: *const iovec,
    count: c_ulong,
    remote: *const iovec,
    remote_count: c_ulong,
    flags: c_ulong,
) -> ssize_t {
    // SAFETY: as in `on_readv`.
    let call = |local, count| unsafe { real(pid, local, count, remote, remote_count, flags) };
    fill_vector(Source::Other, local, count, |parts, length| call(parts, length as c_ulong), || call(local, count))
}

#[inline]
pub fn on_getrandom(real: getrandom::Function, data: *mut c_void, length: size_t, flags: c_uint) -> ssize_t {
    // SAFETY: the application's arguments, as they are.
    let call = || unsafe { real(data, length, flags) };
    if !may_touch(data as u64, length) {
        return call();
    }
    // getrandom(2) has no form for several buffers.
    fill_one(Source::Random, data, length, call, |_, parts| {
        let mut done = 0;
        for part in parts {
            // SAFETY: the shim's memory, or the application's where the call is to store.
            match unsafe { real(part.iov_base, part.iov_len, flags) } {
                got if got < 0 => return if done > 0 { done } else { got },
                got if (got as usize) < part.iov_len => return done + got,
                got => done += got,
            }
        }
        done
    })
}

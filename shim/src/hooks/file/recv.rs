//! recv(2), recvfrom(2), recvmsg(2) and recvmmsg(2): the kernel stores data from a socket into buffers, and addresses, lengths and
//! flags into headers.

use core::ffi::{c_int, c_uint, c_void};

use libc::{iovec, mmsghdr, msghdr, size_t, sockaddr, socklen_t, ssize_t, timespec};
use syscalls::{Sysno, syscall};

use crate::base::errno::as_libc;
use crate::base::user_memory::read_length;
use crate::interpose::interpose;
use crate::shared::bounce_messages::Headers;
use crate::shared::kernel_store::{Source, fill_one, may_touch, may_touch_any, receive};

interpose! {
    /// recv(2)
    recv, c"recv": recv => fn(fd: c_int, data: *mut c_void, length: size_t, flags: c_int) -> ssize_t {
        // SAFETY: the application's arguments, as they are.
        raw |fd, data, length, flags| as_libc(unsafe { syscall!(Sysno::recvfrom, fd, data, length, flags, 0, 0) }),
        hook on_recv,
    }
    /// recvfrom(2)
    recvfrom, c"recvfrom": recvfrom => fn(
        fd: c_int, data: *mut c_void, length: size_t, flags: c_int, name: *mut sockaddr, name_length: *mut socklen_t
    ) -> ssize_t {
        raw |fd, data, length, flags, name, name_length| {
            // SAFETY: the application's arguments, as they are.
            as_libc(unsafe { syscall!(Sysno::recvfrom, fd, data, length, flags, name, name_length) })
        },
        hook on_recvfrom,
    }
    /// recvmsg(2)
    recvmsg, c"recvmsg": recvmsg => fn(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
        // SAFETY: the application's arguments, as they are.
        raw |fd, message, flags| as_libc(unsafe { syscall!(Sysno::recvmsg, fd, message, flags) }),
        hook on_recvmsg,
    }
    /// recvmmsg(2)
    recvmmsg, c"recvmmsg": recvmmsg => fn(
        fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec
    ) -> c_int {
        raw |fd, messages, count, flags, timeout| {
            // SAFETY: the application's arguments, as they are.
            as_libc(unsafe { syscall!(Sysno::recvmmsg, fd, messages, count, flags, timeout) }) as c_int
        },
        hook on_recvmmsg,
    }
}

/// Whether the result may be more than was stored: MSG_TRUNC throws bytes away on TCP, and tells the whole length on other sockets
/// (tcp(7), recv(2)).
fn counts_more(flags: c_int) -> bool {
    flags & libc::MSG_TRUNC != 0
}

fn source(flags: c_int) -> Source {
    if counts_more(flags) { Source::OtherCounting } else { Source::Other }
}

#[inline]
pub fn on_recv(real: recv::Function, fd: c_int, data: *mut c_void, length: size_t, flags: c_int) -> ssize_t {
    // SAFETY: the application's arguments, as they are.
    let call = || unsafe { real(fd, data, length, flags) };
    if !may_touch(data as u64, length) {
        return call();
    }
    fill_one(source(flags), data, length, call, |_, parts| match parts {
        // SAFETY: the shim's memory, or the application's where the call is to store.
        [part] => unsafe { real(fd, part.iov_base, part.iov_len, flags) },
        parts => {
            // SAFETY: all-zero is a header without anything.
            let mut message: msghdr = unsafe { core::mem::zeroed() };
            (message.msg_iov, message.msg_iovlen) = (parts.as_ptr().cast_mut(), parts.len());
            // SAFETY: as above.
            unsafe { recvmsg::original()(fd, &raw mut message, flags) }
        }
    })
}

#[inline]
pub fn on_recvfrom(
    real: recvfrom::Function,
    fd: c_int,
    data: *mut c_void,
    length: size_t,
    flags: c_int,
    name: *mut sockaddr,
    name_length: *mut socklen_t,
) -> ssize_t {
    // SAFETY: the application's arguments, as they are.
    let call = || unsafe { real(fd, data, length, flags, name, name_length) };
    if !may_touch_any() {
        return call();
    }
    receive_from(call, fd, data, length, flags, name, name_length)
}

/// recvfrom(2), made as recvmsg(2) of one buffer and a name.
#[cold]
fn receive_from(
    call: impl Fn() -> isize,
    fd: c_int,
    data: *mut c_void,
    length: size_t,
    flags: c_int,
    name: *mut sockaddr,
    name_length: *mut socklen_t,
) -> isize {
    let touches_name = !name.is_null() && (may_touch(name as u64, 128) || may_touch(name_length as u64, 4));
    if !may_touch(data as u64, length) && !touches_name {
        return call();
    }
    let mut buffer = iovec { iov_base: data, iov_len: length };
    // SAFETY: all-zero is a header without anything.
    let mut message: msghdr = unsafe { core::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut buffer, 1);
    if !name.is_null() {
        let Some(room) = read_length(name_length) else { return call() };
        (message.msg_name, message.msg_namelen) = (name.cast(), room);
    }
    let given = Headers { user: (&raw mut message).cast(), stride: size_of::<msghdr>(), count: 1 };
    receive(given, counts_more(flags), call, |headers, _| {
        let (result, received) = receive_one(recvmsg::original(), fd, headers, flags);
        if received > 0 && !name.is_null() {
            // SAFETY: the application's, as it is; the header is in the shim's memory.
            unsafe { name_length.write_unaligned((*headers).msg_hdr.msg_namelen) };
        }
        (result, received)
    })
}

fn receive_one(real: recvmsg::Function, fd: c_int, headers: *mut mmsghdr, flags: c_int) -> (isize, usize) {
    // SAFETY: one header at least, in the shim's memory.
    let result = unsafe { real(fd, &raw mut (*headers).msg_hdr, flags) };
    let Ok(length) = u32::try_from(result) else { return (result, 0) };
    // SAFETY: as above.
    unsafe { (*headers).msg_len = length };
    (result, 1)
}

#[inline]
pub fn on_recvmsg(real: recvmsg::Function, fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    // SAFETY: the application's arguments, as they are.
    let call = || unsafe { real(fd, message, flags) };
    if !may_touch_any() {
        return call();
    }
    let given = Headers { user: message.cast(), stride: size_of::<msghdr>(), count: 1 };
    receive(given, counts_more(flags), call, |headers, _| receive_one(real, fd, headers, flags))
}

#[inline]
pub fn on_recvmmsg(
    real: recvmmsg::Function,
    fd: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    // SAFETY: the application's arguments, as they are, or the shim's memory in their place.
    let call = |messages, count| unsafe { real(fd, messages, count, flags, timeout) };
    if !may_touch_any() {
        return call(messages, count);
    }
    let given = Headers { user: messages.cast(), stride: size_of::<mmsghdr>(), count: count as usize };
    let bounced = |headers, count: usize| {
        let received = call(headers, count as c_uint);
        (received as isize, usize::try_from(received).unwrap_or(0))
    };
    receive(given, counts_more(flags), || call(messages, count) as isize, bounced) as c_int
}

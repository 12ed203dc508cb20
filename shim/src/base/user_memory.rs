//! Addresses that the application names, where nothing may be mapped: read through the kernel, which answers EFAULT there.

use core::ffi::c_int;
use core::ptr;

use libc::iovec;
use rustix::io::Errno;
use snapshim::sys::{permission, raw};
use syscalls::{Sysno, syscall};

/// The most buffers that a vector may have (UIO_MAXIOV).
pub const IOV_MAX: c_int = 1024;

/// Calls `each` with the address and length of every buffer of a vector. False if the vector could not be read to its end: then the
/// real call fails with EFAULT.
pub fn each_buffer(vector: *const iovec, count: c_int, mut each: impl FnMut(u64, u64)) -> bool {
    let mut chunk = [[0u64; 2]; 16];
    let count = count.clamp(0, IOV_MAX) as usize;
    let mut done = 0;
    while done < count {
        let wanted = (count - done).min(chunk.len());
        let bytes = (wanted * size_of::<iovec>()) as u64;
        if read_own(vector.wrapping_add(done) as u64, chunk.as_mut_ptr() as u64, bytes) != bytes {
            return false;
        }
        for [address, length] in &chunk[..wanted] {
            each(*address, *length);
        }
        done += wanted;
    }
    true
}

/// Reads memory of this process to `to`; how many bytes could be read.
pub fn read_own(from: u64, to: u64, length: u64) -> u64 {
    let to = ptr::with_exposed_provenance_mut::<u8>(to as usize);
    // SAFETY: the memory at `to` is the caller's, and writable for so many bytes.
    match unsafe { raw::read_remote(raw::own_tid(), from, to.cast(), length as usize) } {
        Err(Errno::PERM | Errno::SRCH) if from >= snapshim::PAGE && permission::is_confined() => {
            // The kernel cannot be asked what is mapped there. What the application names is memory that the kernel reads next.
            // SAFETY: the application's promise to the kernel; the memory at `to` is the caller's.
            unsafe { ptr::copy_nonoverlapping(ptr::with_exposed_provenance::<u8>(from as usize), to, length as usize) };
            length
        }
        read => read.unwrap_or(0) as u64,
    }
}

/// The value at an address; `None` if it cannot be read.
pub fn read_value<T: Default + Copy>(from: u64) -> Option<T> {
    let mut value = T::default();
    let length = size_of::<T>() as u64;
    (read_own(from, (&raw mut value) as u64, length) == length).then_some(value)
}

/// The length that the application passes for the room of a socket's name; `None` if it cannot be read.
pub fn read_length(home: *const u32) -> Option<u32> {
    read_value(home as u64)
}

/// Whether something is mapped at `address` in this process (mincore(2)).
pub fn is_mapped(address: u64) -> bool {
    if permission::forbids(Sysno::mincore) {
        return true;
    }
    let mut byte = 0u8;
    let page = address / snapshim::PAGE * snapshim::PAGE;
    // SAFETY: for one page the call stores one byte.
    unsafe { syscall!(Sysno::mincore, page, snapshim::PAGE, &raw mut byte) }.is_ok()
}

//! Memory of the program that may not be there, read as the kernel reads it.

use core::ffi::c_int;

use libc::iovec;
use snapshim::sys::raw;
use syscalls::{Sysno, syscall};

/// Most buffers of a vector (UIO_MAXIOV).
pub const IOV_MAX: c_int = 1024;

/// Calls `each` with the address and length of every buffer of a vector. False if it could not be read to its end.
///
/// It is read through the kernel, which answers EFAULT where a load would fault; the real call then fails the same way.
pub fn each_buffer(vector: *const iovec, count: c_int, mut each: impl FnMut(u64, u64)) -> bool {
    let mut chunk = [[0usize; 2]; 16];
    let count = count.clamp(0, IOV_MAX) as usize;
    let mut done = 0;
    while done < count {
        let wanted = (count - done).min(chunk.len());
        let bytes = wanted * size_of::<iovec>();
        let local = [chunk.as_mut_ptr() as usize, bytes];
        let remote = [vector.wrapping_add(done) as usize, bytes];
        let own = snapshim::sys::raw::own_tid();
        // SAFETY: the local iovec names `chunk`, writable for `bytes` bytes; the kernel checks the remote one.
        let read = unsafe { syscall!(Sysno::process_vm_readv, own, local.as_ptr(), 1, remote.as_ptr(), 1, 0) };
        if read != Ok(bytes) {
            return false;
        }
        for [address, length] in &chunk[..wanted] {
            each(*address as u64, *length as u64);
        }
        done += wanted;
    }
    true
}
/// Reads memory of this process that may not be there (process_vm_readv(2)); how many bytes.
pub fn read_own(from: u64, to: u64, length: u64) -> u64 {
    let (local, remote) = ([to, length], [from, length]);
    // SAFETY: the caller's memory at `to` is writable for so many bytes; the kernel checks the other.
    let read = unsafe { syscall!(Sysno::process_vm_readv, raw::own_tid(), local.as_ptr(), 1, remote.as_ptr(), 1, 0) };
    read.unwrap_or(0) as u64
}

/// The room that the application says it has for a name; `None` if it cannot be read.
pub fn read_length(home: *const u32) -> Option<u32> {
    let mut length = 0u32;
    (read_own(home as u64, (&raw mut length) as u64, 4) == 4).then_some(length)
}

/// Whether something is mapped at `address` in this process (mincore(2)).
pub fn is_mapped(address: u64) -> bool {
    let mut byte = 0u8;
    let page = address / snapshim::PAGE * snapshim::PAGE;
    // SAFETY: one page asks for one byte.
    unsafe { syscall!(Sysno::mincore, page, snapshim::PAGE, &raw mut byte) }.is_ok()
}

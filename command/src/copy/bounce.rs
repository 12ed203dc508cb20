//! Buffers into which the kernel copies bytes of a snapshot.
//!
//! A page of a broken snapshot raises SIGBUS when a program reads it. So the kernel reads it: a write(2) from there answers EFAULT.
//! It writes into a memfd, and the program reads that through a mapping. The kernel copies with ordinary loads. A call that pins
//! the pages first (process_vm_readv(2), O_DIRECT) could copy from a page that the snapshot has already left, and so newer bytes.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::snapshot::PAGE;

/// Bytes of one buffer, and so of what is read in one go.
pub const PIECE: usize = 1 << 20;

const WORD: usize = size_of::<u64>();

/// So far from each other are the pages that are looked at: fewer zeros in a row than that may be missed.
const LOOKED_AT: usize = 4 * PAGE as usize;

/// One buffer.
#[derive(Debug)]
pub struct Buffer {
    file: File,
    memory: NonNull<u8>,
}

// SAFETY: the memory belongs to this value alone.
unsafe impl Send for Buffer {}

impl Buffer {
    pub fn new() -> io::Result<Self> {
        let file = File::from(memfd_create(c"snapshim-piece", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(PIECE as u64)?;
        let length = NonZeroUsize::new(PIECE).expect("a piece has bytes");
        // SAFETY: a new mapping of a file that no other process knows.
        let memory = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &file, 0)? };
        Ok(Self { file, memory: memory.cast() })
    }

    /// Has the kernel copy `length` bytes at `address` into the buffer. An error of EFAULT: they cannot be read.
    pub fn fill(&mut self, address: usize, length: usize) -> io::Result<()> {
        assert!(length <= PIECE);
        let mut done = 0;
        while done < length {
            // SAFETY: the kernel reads at the address, and answers EFAULT where nothing can be read. `self` is borrowed
            // exclusively, so that no slice of the buffer is alive.
            let count = unsafe {
                libc::pwrite(self.file.as_raw_fd(), (address + done) as *const _, length - done, done as libc::off_t)
            };
            match usize::try_from(count) {
                Ok(count) => done += count,
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
        Ok(())
    }

    /// Whether one of the pages at `address` that are looked at begins with a word that is zero. What the buffer had is lost.
    pub fn is_a_word_zero(&mut self, address: usize, length: usize) -> io::Result<bool> {
        assert!(length <= PIECE);
        let words: Vec<_> = (0..length)
            .step_by(LOOKED_AT)
            .map(|at| libc::iovec { iov_base: (address + at) as *mut _, iov_len: WORD.min(length - at) })
            .collect();
        let wanted = words.iter().map(|word| word.iov_len).sum();
        // SAFETY: as in `fill`.
        let count = unsafe { libc::pwritev(self.file.as_raw_fd(), words.as_ptr(), words.len() as i32, 0) };
        match usize::try_from(count) {
            Err(_) => Err(io::Error::last_os_error()),
            // What is there is copied before an error is said.
            Ok(count) if count < wanted => Err(io::Error::from_raw_os_error(libc::EFAULT)),
            Ok(_) => Ok(self.bytes(wanted).chunks(WORD).any(|word| word.iter().all(|byte| *byte == 0))),
        }
    }

    /// The first `length` bytes.
    pub fn bytes(&self, length: usize) -> &[u8] {
        assert!(length <= PIECE);
        // SAFETY: the mapping is PIECE long and lives as long as `self`; only `fill` changes it, by an exclusive borrow.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), length) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no slice of it outlives it.
        _ = unsafe { munmap(self.memory.cast(), PIECE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_an_error_and_no_signal() {
        let length = NonZeroUsize::new(8192).unwrap();
        // SAFETY: a new mapping.
        let memory = unsafe {
            nix::sys::mman::mmap_anonymous(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )
        };
        let memory = memory.unwrap();
        // SAFETY: the first page may be written, the second is taken away.
        unsafe {
            std::slice::from_raw_parts_mut(memory.as_ptr().cast::<u8>(), 4096).fill(7);
            munmap(memory.add(4096), 4096).unwrap();
        }
        let mut buffer = Buffer::new().unwrap();
        buffer.fill(memory.as_ptr() as usize, 4096).unwrap();
        assert!(buffer.bytes(4096).iter().all(|byte| *byte == 7));
        let error = buffer.fill(memory.as_ptr() as usize, 8192).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        let error = buffer.is_a_word_zero(memory.as_ptr() as usize + 4096, 4096).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        assert!(!buffer.is_a_word_zero(memory.as_ptr() as usize, 4096).unwrap());
    }
}

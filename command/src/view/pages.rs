//! How the bytes of a snapshot come to the kernel, as the answer to a read.
//!
//! They go through a pipe. write(2) into it copies them with ordinary loads, and answers EFAULT where a page of a broken snapshot
//! would raise SIGBUS; splice(2) then moves the pipe's pages into the view's page cache without another copy. A call that pins
//! the pages of the snapshot first (writev(2) to /dev/fuse itself, vmsplice(2), process_vm_readv(2)) could copy from a page of
//! the file that the snapshot has left in between, and so newer bytes.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use crate::snapshot::PAGE;

/// The kernel asks for no more than that in one go: the pipe that any user may have (/proc/sys/fs/pipe-max-size) holds it.
pub const LARGEST_READ: u32 = 1 << 19;

/// One page takes one slot. The header takes one, and so does the part of a page at the end.
const CAPACITY: i32 = 2 * LARGEST_READ as i32;

/// `struct fuse_out_header` of linux/fuse.h.
#[repr(C)]
struct Header {
    length: u32,
    error: i32,
    unique: u64,
}

const HEADER: usize = size_of::<Header>();

#[derive(Debug)]
struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

thread_local! {
    /// Each thread answers one request at a time. The pipe is empty in between.
    static PIPE: RefCell<Option<Pipe>> = const { RefCell::new(None) };
}

/// Answers the request `unique` by `length` bytes at `address`, if `is_fit` says so once they have been copied. An error: it was
/// not answered; EFAULT: there are no such bytes.
pub fn send(
    device: BorrowedFd<'_>,
    unique: u64,
    address: usize,
    length: usize,
    is_fit: impl FnOnce() -> bool,
) -> io::Result<()> {
    // A pipe that an error has left full is not used again.
    let pipe = match PIPE.take() {
        Some(pipe) => pipe,
        None => Pipe::new()?,
    };
    let total = HEADER + length;
    let header = Header { length: total as u32, error: 0, unique };
    pipe.fill((&raw const header) as usize, HEADER)?;
    // Whole pages first: the rest then finds no page that it would be appended to.
    let pages = length / PAGE as usize * PAGE as usize;
    pipe.fill(address, pages)?;
    pipe.fill(address + pages, length - pages)?;
    if !is_fit() {
        return Err(io::Error::from_raw_os_error(libc::EFAULT));
    }
    pipe.empty_into(device, total)?;
    PIPE.set(Some(pipe));
    Ok(())
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (out, into) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        fcntl(&into, FcntlArg::F_SETPIPE_SZ(CAPACITY))?;
        Ok(Self { out, into })
    }

    fn fill(&self, address: usize, length: usize) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            // SAFETY: the kernel reads at the address, and answers EFAULT where nothing can be read.
            let count = unsafe { libc::write(self.into.as_raw_fd(), (address + done) as *const _, length - done) };
            match usize::try_from(count) {
                Ok(count) => done += count,
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
        Ok(())
    }

    /// The kernel takes an answer in one go, or not at all.
    fn empty_into(&self, device: BorrowedFd<'_>, length: usize) -> io::Result<()> {
        // SAFETY: no memory of this process is touched.
        let count = unsafe {
            libc::splice(
                self.out.as_raw_fd(),
                std::ptr::null_mut(),
                device.as_raw_fd(),
                std::ptr::null_mut(),
                length,
                libc::SPLICE_F_MOVE,
            )
        };
        match usize::try_from(count) {
            Ok(count) if count == length => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_an_error_and_the_next_answer_is_whole() {
        let page = PAGE as usize;
        // SAFETY: a new mapping, of which the second page is taken away.
        let memory = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let memory = libc::mmap(std::ptr::null_mut(), 2 * page, libc::PROT_READ, flags, -1, 0) as usize;
            libc::munmap((memory + page) as *mut _, page);
            memory
        };
        let (out, into) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let error = send(into.as_fd(), 1, memory, 2 * page, || true).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        let error = send(into.as_fd(), 1, memory, page, || false).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        send(into.as_fd(), 2, memory, page, || true).unwrap();
        let mut answer = vec![1; HEADER + 2 * page];
        let count = nix::unistd::read(&out, &mut answer).unwrap();
        let unique = u64::from_ne_bytes(answer[8..HEADER].try_into().unwrap());
        assert!((count, unique) == (HEADER + page, 2) && answer[HEADER..count].iter().all(|byte| *byte == 0));
    }
}

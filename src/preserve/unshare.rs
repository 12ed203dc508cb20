//! Unshare: break copy-on-write on pages of a mapper's address space, from outside, without the mapper's help.
//!
//! The kernel's own copy is never newer than the snapshot. The kernel copies the page, and puts the copy in place only if what is
//! there is still what it copied (wp_page_copy and finish_fault, mm/memory.c). If another pusher has made the page private
//! meanwhile, the kernel drops its copy. As long as the page is shared no change of it lands. Bytes that are read and stored are
//! the matter of [`bytes`].
//!
//! Nothing is ever stored into an image that exec has put in the mapper's place. Bytes go through a file that is bound to the old
//! address space. A call that addresses the pid carries no bytes. It can reach a new image in two cases: its pusher was stopped for
//! longer than the mapper's exec waited, or exec was called past its hook. In the new image it does what a store of the bytes that
//! are there would do.

use core::ffi::c_void;

use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::mm::{Advice, madvise};

use super::proc_fd_cache::ProcFdCache;
use super::verify;
use crate::PAGE;
use crate::protocol::bytes::{self, Found, Run};
use crate::protocol::process::{Agent, Process};
use crate::protocol::process_id::ProcessId;
use crate::protocol::snapshot::Extent;
use crate::sys::raw;

const PROT_WRITE: u32 = 2;

/// Whether a mapping with these `PROT_*` bits can be unshared without storing bytes.
#[must_use]
pub fn is_writable(protection: u32) -> bool {
    protection != Extent::PROTECTION_UNKNOWN && protection & PROT_WRITE != 0
}

/// The process whose pages are unshared.
#[derive(Debug)]
pub struct Mapper<'a> {
    /// Which image.
    pub id: ProcessId,
    /// Its record.
    pub process: &'a Process,
    /// Whether it is the calling process.
    pub is_local: bool,
}

impl Mapper<'_> {
    /// A thread of it that lives: its first thread may have ended.
    #[must_use]
    pub fn thread(&self) -> u32 {
        match self.process.agent(self.id) {
            _ if self.is_local => raw::own_tid(),
            Agent::Thread(tid) => tid,
            _ => self.id.pid(),
        }
    }

    /// Tries to make `pages` pages at `address`, which the mapper may write, private. An error says that the mapper may not be
    /// touched; success has to be verified.
    pub fn unshare(&self, address: u64, pages: u64, protection: u32, unreadable: *const c_void) -> Result<(), Errno> {
        if !is_writable(protection) {
            return Err(Errno::ACCESS);
        }
        if self.is_local {
            // SAFETY: MADV_POPULATE_WRITE changes no byte of whatever is mapped there, it only makes pages present.
            return unsafe { madvise(address as *mut c_void, (pages * PAGE) as usize, Advice::LinuxPopulateWrite) }
                .or(Ok(()));
        }
        allowed(raw::break_copy_on_write(self.thread(), address, pages, unreadable))
    }

    /// Stores bytes, as they were read there, through /proc/PID/mem: the kernel then copies pages that the process itself may not
    /// write (FOLL_FORCE). The result is how many of the `pages` pages at `address` are private then, from the first on. The
    /// calling frame has announced that it stores bytes.
    ///
    /// A store that succeeded is proof: the kernel lets one pass the protection only into a private page of a private mapping
    /// (can_follow_write_pte, mm/gup.c).
    ///
    /// The bytes may be read by thread id, because they are written to the address space that the file was opened on. If another
    /// image has taken its place, that address space is gone, and nothing is written.
    pub fn store_same_bytes(&self, address: u64, pages: u64, proc_fds: &ProcFdCache) -> Result<u64, Errno> {
        let cookie = self.process.cookie(self.id).ok_or(Errno::SRCH)?;
        let thread = self.thread();
        proc_fds.with_memory(self.id, thread, cookie, |memory| {
            let mut done = 0;
            while done < pages {
                let count = (pages - done).min(bytes::AT_ONCE as u64) as usize;
                let run = Pages { mapper: self.id, thread, address: address + done * PAGE, count, memory, proc_fds };
                match bytes::make_private(&run) {
                    Ok(private) if private == count => done += count as u64,
                    Ok(private) => return Ok(done + private as u64),
                    Err(error) if done == 0 => return Err(error),
                    Err(_) => break,
                }
            }
            Ok(done)
        })
    }
}

const _: () = assert!(bytes::AT_ONCE <= raw::PAGES_AT_ONCE);

/// Pages of a mapper, reached through its memory and its pagemap.
struct Pages<'a> {
    mapper: ProcessId,
    thread: u32,
    address: u64,
    count: usize,
    memory: BorrowedFd<'a>,
    proc_fds: &'a ProcFdCache,
}

impl Pages<'_> {
    /// The address of the byte of a page.
    fn address_of(&self, page: usize) -> u64 {
        let is_first_of_pair = page.is_multiple_of(2) && page + 1 < self.count;
        self.address + page as u64 * PAGE + if is_first_of_pair { PAGE - 1 } else { 0 }
    }
}

impl Run for Pages<'_> {
    fn len(&self) -> usize {
        self.count
    }

    fn read(&self, bytes: &mut [u8]) -> Result<(), Errno> {
        let mut page = if self.count > 2 { raw::read_at_boundaries(self.thread, self.address, bytes) } else { 0 };
        // Pages that it does not reach (PROT_NONE) are read pair by pair.
        while page < self.count {
            let end = if page.is_multiple_of(2) { self.count.min(page + 2) } else { page + 1 };
            match rustix::io::pread(self.memory, &mut bytes[page..end], self.address_of(page))? {
                0 => return Err(Errno::FAULT),
                read => page += read,
            }
        }
        Ok(())
    }

    fn check(&self, found: &mut [Found]) -> Result<(), Errno> {
        verify::classify(self.mapper, self.thread, self.address, found, self.proc_fds)
    }

    fn store(&self, first: usize, bytes: &[u8]) -> Result<usize, Errno> {
        match rustix::io::pwrite(self.memory, bytes, self.address_of(first))? {
            0 => Err(Errno::FAULT),
            stored => Ok(stored),
        }
    }
}

fn allowed(error: Errno) -> Result<(), Errno> {
    match error {
        Errno::PERM | Errno::SRCH | Errno::NOSYS | Errno::ACCESS => Err(error),
        _ => Ok(()),
    }
}

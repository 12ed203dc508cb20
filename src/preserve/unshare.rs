//! Unshare: break copy-on-write on pages of a mapper's address space, from outside, without the mapper's help.
//!
//! Nothing is ever stored into an image that exec has put in the mapper's place. Bytes go through a file that is bound to the old
//! address space. What addresses the pid instead carries no bytes; it can reach a new image only from a pusher that was stopped for
//! longer than the mapper's exec waited, or where exec was called past its hook, and does there what a store of what is stored
//! already would.

use core::ffi::c_void;

use rustix::io::Errno;
use rustix::mm::{Advice, madvise};

use super::kept::KeptFiles;
use crate::PAGE;
use crate::raw;
use crate::snapshot::Extent;
use crate::table::process::{Agent, Process, ProcessId};

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
    pub is_own: bool,
}

impl Mapper<'_> {
    /// A thread of it that lives: its first one may have ended.
    #[must_use]
    pub fn thread(&self) -> u32 {
        match self.process.agent(self.id) {
            _ if self.is_own => raw::own_tid(),
            Agent::Thread(tid) => tid,
            _ => self.id.pid(),
        }
    }

    /// Tries to make `pages` pages at `address` private. An error says that the mapper may not be touched; success has to be
    /// verified. With a read-only protection the calling frame has announced that it stores bytes.
    pub fn unshare(
        &self,
        address: u64,
        pages: u64,
        protection: u32,
        unreadable: *const c_void,
        kept: &KeptFiles,
    ) -> Result<(), Errno> {
        if protection == Extent::PROTECTION_UNKNOWN {
            return Err(Errno::ACCESS);
        }
        if !is_writable(protection) {
            return self.store_same_bytes(address, pages, kept);
        }
        if self.is_own {
            // SAFETY: MADV_POPULATE_WRITE changes no byte of whatever is mapped there, it only makes pages present.
            return unsafe { madvise(address as *mut c_void, (pages * PAGE) as usize, Advice::LinuxPopulateWrite) }
                .or(Ok(()));
        }
        allowed(raw::break_copy_on_write(self.thread(), address, pages, unreadable))
    }

    /// Writes one byte a page, as read from there, through /proc/PID/mem: the kernel then copies pages that the process itself may
    /// not write (FOLL_FORCE). Nobody else stores there: the mapping is read-only, and the mapper waits for us before it changes.
    ///
    /// The bytes may be read by thread id, because they are written to the address space that the file was opened on: if another
    /// image has taken its place, that is gone, and nothing is written.
    fn store_same_bytes(&self, address: u64, pages: u64, kept: &KeptFiles) -> Result<(), Errno> {
        let cookie = self.process.cookie(self.id).ok_or(Errno::SRCH)?;
        let thread = self.thread();
        kept.with_memory(self.id, thread, cookie, |memory| {
            let mut page = 0;
            while page < pages {
                let mut bytes = [0u8; raw::PAGES_AT_ONCE];
                let wanted = (pages - page).min(bytes.len() as u64) as usize;
                let first = address + page * PAGE;
                // What it does not reach (PROT_NONE) is read one by one.
                let known = raw::read_first_bytes(thread, first, &mut bytes[..wanted]);
                for (index, byte) in bytes[..wanted].iter_mut().enumerate() {
                    let at = first + index as u64 * PAGE;
                    if index >= known {
                        rustix::io::pread(memory, core::slice::from_mut(byte), at)?;
                    }
                    match rustix::io::pwrite(memory, core::slice::from_ref(byte), at) {
                        Ok(1) => {}
                        // What was reached so far is found by verification.
                        Ok(_) | Err(_) if page > 0 || index > 0 => return Ok(()),
                        Ok(_) => return Err(Errno::FAULT),
                        Err(error) => return Err(error),
                    }
                }
                page += wanted as u64;
            }
            Ok(())
        })
    }
}

fn allowed(error: Errno) -> Result<(), Errno> {
    match error {
        Errno::PERM | Errno::SRCH | Errno::NOSYS | Errno::ACCESS => Err(error),
        _ => Ok(()),
    }
}

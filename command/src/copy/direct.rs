//! Copying snapshots into files, piece by piece. Each piece is given back at once: writers then no longer have to preserve it.
//!
//! The kernel takes the bytes from the snapshot itself. write(2) into a target on a disk or in memory copies them with ordinary
//! loads, and answers EFAULT where a page of a broken snapshot would raise SIGBUS (`bounce` says why no other call will do). So
//! each byte is copied once, by one thread: a writer that preserves a page has to interrupt every processor on which a thread of
//! this process runs.
//!
//! Other file systems (FUSE with direct I/O, 9p, cifs) may hold the pages themselves until a server has taken the bytes, as
//! O_DIRECT does. What is preserved meanwhile gets another page, and the held one shows the newer bytes. Into such a target all
//! goes through a buffer.
//!
//! Blocks that are zero become holes, be they of a hole that was filled since. So the first word of each fourth page is looked at.
//! A piece in which one is zero goes through a buffer, which this process can read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use snapshim::sys::filesystem::{ALLOWED, OVERLAYFS, kind_of_file_system};

use super::bounce::{Buffer, PIECE};
use super::clone::Changed;
use super::data::Data;
use super::pipeline::unreadable;
use super::target::Target;
use crate::failure::{Failure, Outcome};
use crate::interrupt;
use crate::snapshot::{Snapshot, Source};

/// So far ahead of the copy the kernel is asked to read.
const AHEAD: u64 = 8 << 20;

/// What copies one file after the other.
#[derive(Debug)]
pub struct Copier {
    buffer: Buffer,
    pagemap: File,
}

impl Copier {
    pub fn new() -> Outcome<Self> {
        let path = "/proc/self/pagemap".as_ref();
        let pagemap = File::open(path).map_err(|error| Failure::of_file("open", path, &error))?;
        let buffer =
            Buffer::new().map_err(|error| Failure::failed(format!("no memory for a copy: {error}"), "try again"))?;
        Ok(Self { buffer, pagemap })
    }

    /// Copies one file, and gives its snapshot back meanwhile. `sees` is told how far it has come. A target that is a clone of the
    /// file, made after the instant, gets what it lacks.
    pub fn copy(
        &mut self,
        source: &Source,
        snapshot: &mut Snapshot,
        target: &mut Target,
        sees: impl Fn(u64),
    ) -> Outcome {
        let pagemap = self.pagemap.try_clone().map_err(|error| Failure::of_file("read", &source.path, &error))?;
        let unread = |error: io::Error| Failure::of_file("read", &source.path, &error);
        let mut data = Data::new(&source.file, &pagemap);
        let changed = target.is_clone().then(|| Changed::new(&source.file, &pagemap)).transpose();
        let mut changed = changed.map_err(unread)?;
        let is_direct = copies_at_once(target.file());
        let mut asked = 0;
        loop {
            interrupt::check()?;
            let part = match &mut changed {
                Some(changed) => changed.next(snapshot),
                None => data.next(snapshot),
            };
            let part = part.map_err(unread)?;
            let Some(part) = part else { break };
            snapshot.release_before(part.start);
            if !target.is_clone() && part.end + AHEAD / 2 > asked {
                asked = part.end + AHEAD;
                // Where it is of no use, nothing is lost.
                _ = posix_fadvise(&source.file, part.end as i64, AHEAD as i64, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
            }
            self.piece(source, snapshot, target, &part, is_direct)?;
            snapshot.release_before(part.end);
            sees(part.end);
        }
        snapshot.release_before(snapshot.size());
        Ok(())
    }

    fn piece(
        &mut self,
        source: &Source,
        snapshot: &Snapshot,
        target: &mut Target,
        part: &Range<u64>,
        is_direct: bool,
    ) -> Outcome {
        let (address, length) = (snapshot.address(part.start), (part.end - part.start) as usize);
        debug_assert!(length <= PIECE);
        let unread = |error: io::Error| unreadable(source, snapshot, part.start, &error);
        let written = if !is_direct || self.buffer.is_a_word_zero(address, length).map_err(unread)? {
            self.buffer.fill(address, length).map_err(unread)?;
            target.write(self.buffer.bytes(length), part.start)
        } else {
            target.write_from(address, length, part.start)
        };
        written.map_err(|error| match error.raw_os_error() {
            Some(libc::EFAULT) => unread(error),
            _ => Failure::of_file("write", target.path(), &error),
        })
    }
}

/// Whether write(2) into a file has copied the bytes when it returns, and holds no page of the caller's meanwhile. What lies below
/// an overlay is not known.
fn copies_at_once(file: &File) -> bool {
    kind_of_file_system(file.as_fd()).is_ok_and(|kind| ALLOWED.contains(&kind) && kind != OVERLAYFS)
}

impl Target {
    /// Writes bytes that the kernel takes from an address.
    fn write_from(&mut self, address: usize, length: usize, offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            // SAFETY: the kernel reads at the address, and answers EFAULT where nothing can be read.
            let count = unsafe {
                libc::pwrite(
                    self.file().as_raw_fd(),
                    (address + done) as *const _,
                    length - done,
                    (offset + done as u64) as libc::off_t,
                )
            };
            match usize::try_from(count) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
        self.count(length as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_file_system_is_trusted_to_copy_at_once() {
        let memory = File::from(nix::sys::memfd::memfd_create(c"target", nix::sys::memfd::MFdFlags::empty()).unwrap());
        assert!(copies_at_once(&memory));
        assert!(!copies_at_once(&File::open("/proc/version").unwrap()));
    }
}

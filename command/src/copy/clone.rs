//! Copies that share the blocks of their source (reflink, ioctl_ficlone(2)), and what of them has to be put right.
//!
//! A clone is made after the instant, and has the file's bytes of some moment until the call has returned. A page that was changed
//! before that moment was preserved before the change landed. So each page that is still the file's own in the snapshot, when the
//! page table is read *after* the clone was made, had not been changed when it was cloned: the clone has the bytes of the instant
//! there. All other pages are written over, from the snapshot.
//!
//! What has left the file shows in the page table like a page that nobody has touched. So the list of mappings is read after the
//! page table: where the file is still mapped by then, it was mapped before.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::bounce::PIECE;
use crate::maps::{self, Mapping};
use crate::snapshot::{PAGE, Snapshot};

/// FICLONE (linux/fs.h).
const FICLONE: libc::Ioctl = 0x4004_9409;

/// So many pages are looked at in one go.
const AT_ONCE: usize = 1 << 16;

/// Makes `target`, which is empty, a clone of `source`. A target for which that failed is as it was.
pub fn clone(target: &File, source: &File) -> io::Result<()> {
    // SAFETY: the request takes a descriptor, and no memory.
    if unsafe { libc::ioctl(target.as_raw_fd(), FICLONE, source.as_raw_fd()) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    target.set_len(0)?;
    Err(error)
}

/// Walks over the parts of a snapshot that a clone of its file may not have.
#[derive(Debug)]
pub struct Changed<'a> {
    pagemap: &'a File,
    /// What the kernel calls the file in lists of mappings.
    name: (u64, u64),
    /// All before has been looked at.
    at: u64,
    /// What was found, each at most a piece long.
    found: VecDeque<Range<u64>>,
}

impl<'a> Changed<'a> {
    /// After the clone was made.
    pub fn new(file: &File, pagemap: &'a File) -> io::Result<Self> {
        Ok(Self { pagemap, name: name_of(file)?, at: 0, found: VecDeque::new() })
    }

    /// The next part, at most a piece long; `None` at the end.
    pub fn next(&mut self, snapshot: &Snapshot) -> io::Result<Option<Range<u64>>> {
        while self.found.is_empty() && self.at < snapshot.size() {
            self.look(snapshot)?;
        }
        Ok(self.found.pop_front())
    }

    fn look(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let pages = ((snapshot.size() - self.at).div_ceil(PAGE) as usize).min(AT_ONCE);
        let address = snapshot.address(self.at) as u64;
        let mut entries = vec![0; pages * 8];
        self.pagemap.read_exact_at(&mut entries, address / PAGE * 8)?;
        let entries: Vec<u64> =
            entries.chunks_exact(8).map(|entry| u64::from_ne_bytes(entry.try_into().expect("eight bytes"))).collect();
        // After the page table, not before.
        let maps = maps::of(std::process::id())?;
        let differs = differing(&entries, address, &maps, self.name);
        self.found = runs(&differs, self.at, snapshot.size());
        self.at = (self.at + pages as u64 * PAGE).min(snapshot.size());
        Ok(())
    }
}

/// For each page from `address` on, whether it may differ from the file's as it was cloned: it is the snapshot's own, or has left
/// the file.
fn differing(entries: &[u64], address: u64, maps: &[Mapping], name: (u64, u64)) -> Vec<bool> {
    /// The page is the file's (Documentation/admin-guide/mm/pagemap.rst).
    const OF_FILE: u64 = 1 << 61;
    /// Bits that an entry may have though no page is there: soft-dirty, and that userfaultfd(2) watches it.
    const MEANINGLESS: u64 = 1 << 55 | 1 << 57;
    let is_own = |entry: &u64| entry & !MEANINGLESS != 0 && entry & OF_FILE == 0;
    let mut differs: Vec<bool> = entries.iter().map(is_own).collect();
    let mut page = 0;
    let end = address + entries.len() as u64 * PAGE;
    let is_there = |mapping: &&Mapping| mapping.addresses.start < end && mapping.addresses.end > address;
    for mapping in maps.iter().filter(is_there) {
        let index = |at: u64| ((at.clamp(address, end) - address) / PAGE) as usize;
        let (start, end) = (index(mapping.addresses.start), index(mapping.addresses.end));
        // A gap is nothing that the clone could have.
        differs[page..start].fill(true);
        if (mapping.device, mapping.inode) != name {
            differs[start..end].fill(true);
        }
        page = end;
    }
    differs[page..].fill(true);
    differs
}

/// The bytes of the pages that differ, from `offset` on, in pieces.
fn runs(differs: &[bool], offset: u64, size: u64) -> VecDeque<Range<u64>> {
    const MOST: usize = PIECE / PAGE as usize;
    let mut found = VecDeque::new();
    let mut page = 0;
    while page < differs.len() {
        let length = differs[page..].iter().take(MOST).take_while(|differs| **differs).count();
        if length > 0 {
            let start = offset + page as u64 * PAGE;
            found.push_back(start..(start + length as u64 * PAGE).min(size));
        }
        page += length.max(1);
    }
    found
}

/// What the kernel calls a file in lists of mappings. Of stat(2) that is not known on btrfs and overlayfs.
fn name_of(file: &File) -> io::Result<(u64, u64)> {
    let page = NonZeroUsize::new(PAGE as usize).expect("a page has bytes");
    // SAFETY: a new mapping at an address that the kernel chooses, which nobody accesses.
    let mapped = unsafe { mmap(None, page, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, file.as_fd(), 0)? };
    let address = mapped.addr().get() as u64;
    let maps = maps::of(std::process::id());
    // SAFETY: the mapping was just made here.
    _ = unsafe { munmap(mapped, PAGE as usize) };
    let found = maps?.into_iter().find(|mapping| mapping.addresses.contains(&address));
    found.map(|mapping| (mapping.device, mapping.inode)).ok_or_else(|| io::Error::other("a mapping is not listed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: (u64, u64) = (7, 8);

    fn mapping(addresses: Range<u64>, inode: u64) -> Mapping {
        Mapping { addresses, can_write: false, is_shared: false, device: 7, inode, path: Vec::new(), is_deleted: false }
    }

    #[test]
    fn only_pages_of_the_file_are_left_to_the_clone() {
        const OF_FILE: u64 = 1 << 63 | 1 << 61;
        const OWN: u64 = 1 << 63;
        const SWAPPED: u64 = 1 << 62;
        let entries = [0, OF_FILE, OWN, SWAPPED, 1 << 55, 0, 0, OF_FILE];
        let address = 16 * PAGE;
        let at = |page: u64| address + page * PAGE;
        // Two pages have left the file, of the last one nothing is listed.
        let maps = [mapping(0..at(5), 8), mapping(at(5)..at(7), 0)];
        let differs = differing(&entries, address, &maps, NAME);
        assert_eq!(differs, [false, false, true, true, false, true, true, true]);
        assert_eq!(runs(&differs, 100 * PAGE, 107 * PAGE + 5), [102 * PAGE..104 * PAGE, 105 * PAGE..107 * PAGE + 5]);
    }

    #[test]
    fn pieces_are_as_long_as_buffers() {
        let found = runs(&[true; 600], 0, u64::MAX);
        assert!(found.iter().all(|part| part.end - part.start <= PIECE as u64));
        assert_eq!(found.iter().map(|part| part.end - part.start).sum::<u64>(), 600 * PAGE);
    }
}

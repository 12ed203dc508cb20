//! Holes: where a sparse origin has no data, and a snapshot shows zeros.
//!
//! A page that is read in where the origin has a hole becomes memory: of the page cache, or of the file itself on tmpfs. So a hole
//! is not read but left out of what is copied, and the memory that takes its place stays untouched.
//!
//! That is right of a page that is not private in the mapper, if the origin is looked at while the snapshot's generation is odd.
//! Such a page shows what the origin has, and the origin keeps that until the generation is even. For a writer lets its change land
//! only after a push that found the generation unchanged, and a page that it pushed before that is private by then. Of a private
//! page the origin says nothing: the mapper's pagemap is looked at as well. Changes by programs without the shim are not vouched
//! for.

use core::ops::Range;

use rustix::fd::OwnedFd;
use rustix::fs::{SeekFrom, Stat, fstat, seek};
use rustix::io::Errno;

use crate::PAGE;

/// An origin with holes.
#[derive(Debug)]
pub struct Sparse {
    /// Opened for this: looking for data moves its position.
    file: OwnedFd,
}

/// Bytes in a block of `st_blocks` (stat(2)).
const BLOCK: u64 = 512;

/// Whether a file has fewer blocks than bytes.
#[must_use]
pub fn is_sparse(found: &Stat) -> bool {
    (found.st_blocks as u64).saturating_mul(BLOCK) < found.st_size as u64
}

impl Sparse {
    /// The origin that `file` leads to; no other thread uses that file's position. `None`: it has as many blocks as bytes, so it is
    /// not worth looking for holes.
    #[must_use]
    pub fn of(file: OwnedFd) -> Option<Self> {
        let found = fstat(&file).ok()?;
        is_sparse(&found).then_some(Self { file })
    }

    /// The first of `pages` that has data; `None`: there is none. Where that cannot be told, all have data.
    ///
    /// A page behind the end of the file is no hole but a fault. It counts as data, so that it is read and the fault found.
    pub fn first_data(&self, pages: &Range<u64>) -> Option<u64> {
        match seek(&self.file, SeekFrom::Data(pages.start * PAGE)) {
            Ok(at) => Some(at / PAGE).filter(|page| *page < pages.end),
            Err(Errno::NXIO) => {
                let size = fstat(&self.file).map_or(0, |found| found.st_size as u64);
                (size <= (pages.end - 1) * PAGE).then_some(pages.start)
            }
            Err(_) => Some(pages.start),
        }
    }

    /// Calls `take` with the runs of `pages` that have data, now and then with a few pages more.
    ///
    /// SEEK_HOLE is of no use: on tmpfs it walks over all pages up to the hole, gigabytes perhaps. Instead a run is taken to go on
    /// for a sixteenth of the length that was found in a row.
    pub fn each_data(&self, pages: &Range<u64>, mut take: impl FnMut(Range<u64>)) {
        let (mut at, mut run) = (pages.start, 0);
        while at < pages.end {
            let Some(data) = self.first_data(&(at..pages.end)) else { return };
            run = if data == at { run } else { 0 };
            let end = (data + (run / 16).max(1)).min(pages.end);
            take(data..end);
            run += end - data;
            at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    /// A file of `pages` pages of which only `data` is there.
    fn file(pages: u64, data: &[Range<u64>]) -> OwnedFd {
        let file = memfd_create(c"holes", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, pages * PAGE).unwrap();
        for page in data.iter().cloned().flatten() {
            rustix::io::pwrite(&file, b"x", page * PAGE + 7).unwrap();
        }
        file
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel")]
    fn runs_of_data_are_found_and_little_more() {
        let data = [3..4, 10..90, 200..201, 511..512];
        let sparse = Sparse::of(file(600, &data)).unwrap();
        let mut found = Vec::new();
        sparse.each_data(&(0..512), |run| found.extend(run));
        let wanted: Vec<u64> = data.iter().cloned().flatten().collect();
        assert!(wanted.iter().all(|page| found.contains(page)));
        assert!(found.len() <= wanted.len() + 5, "{} of {}", found.len(), wanted.len());
        assert_eq!(sparse.first_data(&(91..200)), None);
        assert_eq!(sparse.first_data(&(512..600)), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel")]
    fn what_lies_behind_the_end_is_no_hole_and_a_full_file_has_none() {
        let sparse = Sparse::of(file(20, &[2..3, 3..4])).unwrap();
        assert_eq!(sparse.first_data(&(19..20)), None);
        assert_eq!(sparse.first_data(&(19..21)), Some(19));
        assert!(Sparse::of(file(4, &[0..2, 2..4])).is_none());
    }
}

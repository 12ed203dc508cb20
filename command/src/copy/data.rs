//! Where a snapshot has bytes: the holes of a sparse file are passed over without reading them.
//!
//! That a file has a hole *now* is only a hint: there may have been bytes at the instant. But a page is preserved before a hole is
//! punched over it, or before anything else changes it. So a page that lies in a hole now, and of which the page table, read after
//! that, shows no copy, is as it was at the instant: it is zero. Every page that the page table shows is read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::unistd::{Whence, lseek};

use super::bounce::PIECE;
use crate::snapshot::{PAGE, Snapshot};

/// So many entries of the page table are read at once.
const ENTRIES: usize = 8192;

/// Walks over the parts of one file that have to be read.
#[derive(Debug)]
pub struct Data<'a> {
    file: &'a File,
    pagemap: &'a File,
    /// All before has been looked at.
    at: u64,
    /// Up to here, from `at` on, is what has to be read.
    data_end: u64,
}

impl<'a> Data<'a> {
    pub fn new(file: &'a File, pagemap: &'a File) -> Self {
        Self::from(file, pagemap, 0)
    }

    /// From an offset on, a multiple of the page size.
    pub fn from(file: &'a File, pagemap: &'a File, offset: u64) -> Self {
        Self { file, pagemap, at: offset, data_end: 0 }
    }

    /// The next part, at most a piece long; `None` at the end.
    pub fn next(&mut self, snapshot: &Snapshot) -> io::Result<Option<Range<u64>>> {
        while self.at < snapshot.size() {
            if self.at < self.data_end {
                let start = self.at;
                self.at = (start + PIECE as u64).min(self.data_end).min(snapshot.size());
                return Ok(Some(start..self.at));
            }
            self.look(snapshot)?;
        }
        Ok(None)
    }

    /// Passes over a hole, or finds data.
    fn look(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let size = snapshot.size();
        let hole_end = match self.seek(Whence::SeekData) {
            Seen::At(data) => data / PAGE * PAGE,
            Seen::Nothing => size,
            Seen::Unknown => self.at,
        };
        if hole_end <= self.at {
            self.data_end = match self.seek(Whence::SeekHole) {
                Seen::At(hole) if hole > self.at => hole.next_multiple_of(PAGE).min(size),
                _ => size,
            };
            return Ok(());
        }
        // After the question for the hole, not before.
        let pages = ((hole_end.min(size) - self.at).div_ceil(PAGE) as usize).min(ENTRIES);
        let first = snapshot.address(self.at) as u64 / PAGE;
        let mut entries = vec![0; pages * 8];
        self.pagemap.read_exact_at(&mut entries, first * 8)?;
        let is_shown = |entry: &&[u8]| entry.iter().any(|byte| *byte != 0);
        let entries: Vec<&[u8]> = entries.chunks(8).collect();
        let absent = entries.iter().take_while(|entry| !is_shown(entry)).count();
        let shown = entries[absent..].iter().take_while(|entry| is_shown(entry)).count();
        self.at += absent as u64 * PAGE;
        self.data_end = self.at + shown as u64 * PAGE;
        Ok(())
    }

    fn seek(&self, whence: Whence) -> Seen {
        match lseek(self.file, self.at as i64, whence) {
            Ok(found) => Seen::At(found as u64),
            Err(nix::errno::Errno::ENXIO) => Seen::Nothing,
            Err(_) => Seen::Unknown,
        }
    }
}

enum Seen {
    At(u64),
    /// None from there on to the end of the file.
    Nothing,
    /// The file system, or the device, does not tell.
    Unknown,
}

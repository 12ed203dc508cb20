//! Snapshots of several files at one instant, given back piece by piece.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use nix::sys::mman::ProtFlags;

use crate::failure::{Code, Failure, Outcome, shown, words};
use crate::library::{Library, Map, Stat};

pub const PAGE: u64 = 4096;

/// So many files one group holds.
pub const LARGEST_GROUP: usize = 16384;

/// A file may have become longer between the question for its size and the instant. So more is mapped than it had.
const SPARE: u64 = 1 << 20;

/// How often a group is taken again because a file had become longer still.
const ATTEMPTS: u32 = 8;

/// An open file of which a snapshot is wanted.
#[derive(Debug)]
pub struct Source {
    pub path: PathBuf,
    pub file: File,
}

impl Source {
    fn size(&self) -> Outcome<u64> {
        let size = || {
            let found = self.file.metadata()?;
            if found.file_type().is_block_device() {
                io::Seek::seek(&mut &self.file, io::SeekFrom::End(0))
            } else {
                Ok(found.len())
            }
        };
        size().map_err(|error| Failure::of_file("read the size of", &self.path, &error))
    }

    fn is_device(&self) -> bool {
        self.file.metadata().is_ok_and(|found| found.file_type().is_block_device())
    }
}

/// One snapshot: the file from its begin to its end at the instant.
#[derive(Debug)]
pub struct Snapshot {
    library: Library,
    address: usize,
    /// What of the mapping is still there, as offsets.
    left: Range<u64>,
    /// Bytes of the file at the instant.
    size: u64,
}

impl Snapshot {
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the byte at `offset` lies. It may be broken there: only the kernel touches it, which answers EFAULT.
    pub fn address(&self, offset: u64) -> usize {
        debug_assert!(self.left.contains(&offset));
        self.address + offset as usize
    }

    /// Gives back what lies before `offset`. The last page of the file stays: by it the library knows the snapshot.
    pub fn release_before(&mut self, offset: u64) {
        let end = offset.min(self.size.saturating_sub(1)) / PAGE * PAGE;
        if end > self.left.start {
            self.unmap(self.left.start..end);
            self.left.start = end;
        }
    }

    fn unmap(&self, range: Range<u64>) {
        let (start, length) = (self.address + range.start as usize, (range.end - range.start) as usize);
        // SAFETY: the range is of this mapping, and no reference leads there: only the kernel reads it.
        let gone = unsafe { libc::munmap(start as *mut _, length) };
        debug_assert_eq!(gone, 0, "{}", io::Error::last_os_error());
    }

    /// What the library says of it, after a look at its file whether a program that does not cooperate has changed it.
    pub fn check(&self, source: &Source) -> Option<Stat> {
        self.library.check(self.address + self.left.start as usize, source.file.as_fd()).ok()
    }

    /// What the library says of it.
    fn stat(&self) -> Option<Stat> {
        self.library.stat(self.address + self.left.start as usize)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if !self.left.is_empty() {
            self.unmap(self.left.clone());
        }
    }
}

/// Takes snapshots of all files at one instant.
pub fn take(library: Library, sources: &[Source]) -> Outcome<Vec<Snapshot>> {
    let mut spare = SPARE;
    for _ in 0..ATTEMPTS {
        let mut lengths = Vec::with_capacity(sources.len());
        for source in sources {
            let size = source.size()?;
            let beyond = if source.is_device() { 0 } else { spare + size / 4 };
            lengths.push((size + beyond).max(1).next_multiple_of(PAGE));
        }
        let taken = map(library, sources, &lengths)?;
        if taken.iter().all(|snapshot| snapshot.size <= snapshot.left.end) {
            return Ok(taken);
        }
        spare *= 16;
    }
    Err(Failure::failed("the files grow faster than snapshots of them can be taken", "try again"))
}

fn map(library: Library, sources: &[Source], lengths: &[u64]) -> Outcome<Vec<Snapshot>> {
    let addresses = map_all(library, sources, lengths)?;
    let mut taken: Vec<_> = addresses
        .iter()
        .zip(lengths)
        .map(|(&address, &length)| Snapshot { library, address, left: 0..length, size: 0 })
        .collect();
    for (snapshot, source) in taken.iter_mut().zip(sources) {
        let stat = snapshot
            .stat()
            .ok_or_else(|| Failure::new(Code::Inexact, format!("the snapshot of {} is lost", shown(&source.path))))?;
        snapshot.size = stat.size;
    }
    Ok(taken)
}

fn map_all(library: Library, sources: &[Source], lengths: &[u64]) -> Outcome<Vec<usize>> {
    let mut maps: Vec<_> = sources
        .iter()
        .zip(lengths)
        .map(|(source, &length)| Map {
            fd: source.file.as_fd().as_raw_fd(),
            prot: ProtFlags::PROT_READ.bits(),
            offset: 0,
            length: length as usize,
            address: std::ptr::null_mut(),
            flags: 0,
            error: 0,
        })
        .collect();
    library.map(&mut maps).map_err(|error| match maps.iter().zip(sources).find(|(map, _)| map.error != 0) {
        Some((map, source)) => refused(source, &io::Error::from_raw_os_error(map.error)),
        None => refused_all(sources, &error),
    })?;
    Ok(maps.iter().map(|map| map.address as usize).collect())
}

/// The library does not say of which file.
fn refused_all(sources: &[Source], error: &io::Error) -> Failure {
    match sources {
        [source] => refused(source, error),
        _ => {
            Failure::failed(format!("no snapshot of one of {} files: {}", sources.len(), meaning(error)), remedy(error))
        }
    }
}

fn refused(source: &Source, error: &io::Error) -> Failure {
    Failure::failed(format!("no snapshot of {}: {}", shown(&source.path), meaning(error)), remedy(error))
}

/// What an error of mmap(MAP_SNAPSHOT) means, where the kernel's word for it does not say it.
fn meaning(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENODEV) => "it is neither a file nor a block device".to_owned(),
        Some(libc::EOPNOTSUPP) => "files on its file system can change without a system call here".to_owned(),
        Some(libc::EBUSY) => "the kernel uses the device: it is mounted, or part of another device".to_owned(),
        Some(libc::ETIMEDOUT) => "a program that writes it did not let go in time (it may be stopped)".to_owned(),
        Some(libc::ENFILE) => "the table has no room for more snapshots".to_owned(),
        Some(libc::ESTALE) => "the table was removed or replaced".to_owned(),
        Some(libc::EUCLEAN) => "the table is damaged".to_owned(),
        _ => words(error),
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENODEV) => "name a regular file or a block device",
        Some(libc::EOPNOTSUPP) => "keep it on ext4, xfs, btrfs, f2fs, tmpfs or overlayfs",
        Some(libc::EBUSY) => "copy the files on it, or unmount it",
        Some(libc::ETIMEDOUT) => {
            "continue that program (kill -CONT), or wait longer: SNAPSHIM_TIMEOUT_MS; `snapshim status` names it"
        }
        Some(libc::ENFILE) => {
            "`snapshim gc` takes out what the dead left; `snapshim status` shows which programs have how many"
        }
        Some(libc::ESTALE) => "start the programs that cooperate again",
        Some(libc::EUCLEAN) => "end the programs that use the table, and remove it",
        Some(libc::ENOMEM) => "too many mappings or too little memory: see vm.max_map_count and ulimit -v",
        _ => "the library's log above says more",
    }
}

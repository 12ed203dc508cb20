//! Snapshots of several files at one instant, given back piece by piece.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

use crate::failure::{Code, Failure, Outcome, shown, words};
use crate::library::{BROKEN, EXACT, Library, Map, Stat};

pub const PAGE: u64 = 4096;

/// So many files one group holds.
pub const LARGEST_GROUP: usize = 16384;

/// A file may have become longer between the question for its size and the instant. So more is mapped than it had.
const SPARE: u64 = 1 << 20;

/// How often a group is taken again because a file had become longer still.
const ATTEMPTS: u32 = 8;

/// So many bytes are given back at once: a writer that meets the part which is given back waits for that. A copy holds at most so
/// much more than it has to.
const STEP: u64 = 16 << 20;

/// So many snapshots more than files a group is taken as. A write looks at the snapshots of its file.
const MOST_PARTS: u64 = 16;

/// What is done with snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// They stay until the end.
    Kept,
    /// They are read once, from the front, and given back meanwhile. So a file is several snapshots, side by side and of one
    /// instant: a writer into another one than that which is given back does not wait.
    GivenBack,
}

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
    /// What the library said of a part that is gone and was not exact.
    lost: Option<Stat>,
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

    /// Gives back what lies before `offset`, in large steps. The last page of the file stays: by it the library knows the snapshot.
    pub fn release_before(&mut self, offset: u64) {
        let last = self.size.saturating_sub(1) / PAGE * PAGE;
        let end = if offset >= self.size { last } else { (offset / STEP * STEP).min(last) };
        while self.left.start < end {
            let next = ((self.left.start / STEP + 1) * STEP).min(end);
            // What is gone cannot be asked for its state any more.
            match self.stat() {
                Some(stat) if stat.state == EXACT => {}
                stat => self.lost = self.lost.or(stat).or(Some(Stat { state: BROKEN, ..Stat::default() })),
            }
            self.unmap(self.left.start..next);
            self.left.start = next;
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
        self.lost.or_else(|| self.library.check(self.address + self.left.start as usize, source.file.as_fd()).ok())
    }

    /// Why it is doubtful or broken, in the library's words.
    pub fn why(&self) -> Option<String> {
        self.library.why(self.address + self.left.start as usize)
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
pub fn take(library: Library, sources: &[Source], what_for: Use) -> Outcome<Vec<Snapshot>> {
    // Directories and links alone.
    if sources.is_empty() {
        return Ok(Vec::new());
    }
    let mut spare = SPARE;
    for _ in 0..ATTEMPTS {
        let mut lengths = Vec::with_capacity(sources.len());
        let mut sizes = 0;
        for source in sources {
            let size = source.size()?;
            let beyond = if source.is_device() { 0 } else { spare + size / 4 };
            lengths.push((size + beyond).max(1).next_multiple_of(PAGE));
            sizes += size;
        }
        let part = match what_for {
            Use::Kept => u64::MAX,
            Use::GivenBack => (sizes / MOST_PARTS).max(1).next_multiple_of(STEP),
        };
        let taken = map(library, sources, &lengths, part)?;
        if taken.iter().all(|snapshot| snapshot.size <= snapshot.left.end) {
            return Ok(taken);
        }
        spare *= 16;
    }
    Err(Failure::failed("the files grow faster than snapshots of them can be taken", "try again"))
}

fn map(library: Library, sources: &[Source], lengths: &[u64], part: u64) -> Outcome<Vec<Snapshot>> {
    let mut taken = Vec::with_capacity(sources.len());
    for (source, &length) in sources.iter().zip(lengths) {
        let address = reserve(length).map_err(|error| refused(source, &error))?;
        taken.push(Snapshot { library, address, left: 0..length, size: 0, lost: None });
    }
    map_all(library, sources, &taken, part)?;
    for (snapshot, source) in taken.iter_mut().zip(sources) {
        let stat = snapshot
            .stat()
            .ok_or_else(|| Failure::new(Code::Inexact, format!("the snapshot of {} is lost", shown(&source.path))))?;
        snapshot.size = stat.size;
    }
    Ok(taken)
}

/// Addresses for a snapshot, at which nothing is mapped meanwhile.
fn reserve(length: u64) -> io::Result<usize> {
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    let length = NonZeroUsize::new(length as usize).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: a new mapping.
    Ok(unsafe { mmap_anonymous(None, length, ProtFlags::PROT_NONE, flags) }?.as_ptr() as usize)
}

/// Maps the files in parts of so many bytes at the addresses that are reserved for them.
fn map_all(library: Library, sources: &[Source], places: &[Snapshot], part: u64) -> Outcome {
    let mut maps = Vec::new();
    let mut of = Vec::new();
    let count = |place: &Snapshot| place.left.end.div_ceil(part) as usize;
    let part = if places.iter().map(count).sum::<usize>() > LARGEST_GROUP { u64::MAX } else { part };
    for (source, place) in sources.iter().zip(places) {
        let mut offset = 0;
        while offset < place.left.end {
            let length = part.min(place.left.end - offset);
            maps.push(Map {
                fd: source.file.as_fd().as_raw_fd(),
                prot: ProtFlags::PROT_READ.bits(),
                offset: offset as libc::off_t,
                length: length as usize,
                address: (place.address + offset as usize) as *mut _,
                flags: libc::MAP_FIXED,
                error: 0,
            });
            of.push(source);
            offset += length;
        }
    }
    library.map(&mut maps).map_err(|error| match maps.iter().zip(of).find(|(map, _)| map.error != 0) {
        Some((map, source)) => refused(source, &io::Error::from_raw_os_error(map.error)),
        None => refused_all(sources, &error),
    })
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

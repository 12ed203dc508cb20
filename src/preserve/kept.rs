//! Files of other processes in /proc that are opened once and used again.
//!
//! The application may close or replace any descriptor, so none is relied on: at each use the number is checked to be the file that
//! was opened, by its position, a random one that nothing else moves (mem_lseek, fs/proc/base.c, takes any; all reading and writing
//! here is at offsets). A file is bound to the address space it was opened on. What is kept is never closed or replaced by us, so
//! that a number which another thread is using does not change its meaning under it.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use rustix::fs::{OFlags, SeekFrom, seek, tell};
use rustix::io::Errno;

use crate::raw::{self, ProcPath};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::table::process::ProcessId;

const PLACES: usize = 16;

/// One kept file. `image` is 0 while the entry is free.
#[derive(Debug)]
struct Entry {
    image: AtomicU64,
    position: AtomicU64,
    number: AtomicU32,
    /// Set once `number` and `position` are there.
    ready: AtomicU32,
}

/// The kept files of a descriptor table: the calling process's, or its agent's own.
#[derive(Debug)]
pub struct KeptFiles {
    pagemaps: [Entry; PLACES],
    memories: [Entry; PLACES],
}

impl KeptFiles {
    /// None kept.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "only ever a static, or an agent's")]
    pub const fn new() -> Self {
        const fn entry() -> Entry {
            Entry {
                image: AtomicU64::new(0),
                position: AtomicU64::new(0),
                number: AtomicU32::new(0),
                ready: AtomicU32::new(0),
            }
        }
        Self { pagemaps: [const { entry() }; PLACES], memories: [const { entry() }; PLACES] }
    }

    /// Calls `read` with the pagemap of process `id`, one of whose living threads is `thread`.
    ///
    /// What it says counts only if the number still is that pagemap afterwards.
    pub fn with_pagemap<T>(
        &self,
        id: ProcessId,
        thread: u32,
        read: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if let Some(entry) = find(&self.pagemaps, id) {
            let result = read(entry.file());
            if entry.is_intact() {
                return result;
            }
        }
        let file = open(id, thread, "pagemap", OFlags::RDONLY)?;
        let result = read(file.as_fd());
        keep(&self.pagemaps, id, file);
        result
    }

    /// Calls `act` with the memory of process `id`, one of whose living threads is `thread`. The word at `cookie` told, when it was
    /// opened, that it is the memory of this image.
    pub fn with_memory<T>(
        &self,
        id: ProcessId,
        thread: u32,
        cookie: u64,
        act: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if let Some(entry) = find(&self.memories, id).filter(|entry| entry.is_intact()) {
            return act(entry.file());
        }
        let file = open(id, thread, "mem", OFlags::RDWR)?;
        let mut word = [0u8; 8];
        rustix::io::pread(&file, &mut word, cookie)?;
        if u64::from_ne_bytes(word) != id.to_word() {
            return Err(Errno::SRCH);
        }
        let result = act(file.as_fd());
        keep(&self.memories, id, file);
        result
    }
}

fn open(id: ProcessId, thread: u32, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    // A child of vfork(2) acts as the process whose memory it has, and is no thread of it.
    let path = if thread == raw::own_tid() {
        ProcPath::own(name)
    } else {
        ProcPath::of(id.pid(), "task").slash(thread).then("/").then(name)
    };
    raw::open(path.as_c_str(), flags)
}

fn find(entries: &[Entry], id: ProcessId) -> Option<&Entry> {
    entries.iter().find(|entry| {
        // Acquire: pairs with the Release in `keep`.
        entry.image.load(Ordering::Relaxed) == id.to_word() && entry.ready.load(Ordering::Acquire) == 1
    })
}

/// Keeps `file` at a high number if an entry is free; else it is closed.
fn keep(entries: &[Entry], id: ProcessId, file: OwnedFd) {
    if entries.iter().any(|entry| entry.image.load(Ordering::Relaxed) == id.to_word()) {
        return;
    }
    let claim =
        |entry: &&Entry| entry.image.compare_exchange(0, id.to_word(), Ordering::Relaxed, Ordering::Relaxed).is_ok();
    let Some(entry) = entries.iter().find(claim) else { return };
    let Ok(file) = raw::move_up(file) else { return };
    let position = raw::random() >> 2;
    if seek(&file, SeekFrom::Start(position)) != Ok(position) {
        return;
    }
    entry.number.store(file.as_raw_fd() as u32, Ordering::Relaxed);
    entry.position.store(position, Ordering::Relaxed);
    let _ = file.into_raw_fd();
    // Release: pairs with the Acquire in `find`.
    entry.ready.store(1, Ordering::Release);
}

impl Entry {
    fn file(&self) -> BorrowedFd<'static> {
        raw::borrow(self.number.load(Ordering::Relaxed))
    }

    /// Whether the number still is the file that was kept.
    fn is_intact(&self) -> bool {
        tell(self.file()) == Ok(self.position.load(Ordering::Relaxed))
    }
}

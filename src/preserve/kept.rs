//! Files of other processes in /proc that are opened once and used again.
//!
//! The application may close or replace any descriptor, so none is relied on: before each use the number is checked to be the file
//! that was opened, by its inode, which is unique among open /proc files. A file is bound to the address space it was opened on.

use rustix::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::raw::{self, ProcPath};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::table::process::ProcessId;

/// Which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// /proc/PID/pagemap
    Pagemap,
    /// /proc/PID/mem
    Memory,
}

const PLACES: usize = 16;

/// One kept file. `image` is 0 while the entry is empty or being changed.
#[derive(Debug)]
struct Entry {
    image: AtomicU64,
    inode: AtomicU64,
    number: AtomicU32,
    busy: AtomicU32,
}

/// The kept files of the calling process.
#[derive(Debug)]
pub struct KeptFiles {
    entries: [Entry; PLACES],
}

impl KeptFiles {
    /// None kept.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "only ever a static")]
    pub const fn new() -> Self {
        const fn entry() -> Entry {
            Entry {
                image: AtomicU64::new(0),
                inode: AtomicU64::new(0),
                number: AtomicU32::new(0),
                busy: AtomicU32::new(0),
            }
        }
        Self { entries: [const { entry() }; PLACES] }
    }

    /// Calls `use_file` with the pagemap of process `id`, one of whose living threads is `thread`; once more with a fresh one if it finds that the kept one is gone (EBADF).
    pub fn with<T>(
        &self,
        id: ProcessId,
        thread: u32,
        use_file: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let entry = &self.entries[id.epoch() as usize % PLACES];
        if let Some(number) = entry.number_for(id) {
            let result = use_file(raw::borrow(number));
            // Looked at again: another thread may have given the number to another process's file meanwhile.
            if entry.number_for(id) == Some(number) && !matches!(result, Err(Errno::BADF | Errno::NOTTY)) {
                return result;
            }
        }
        let file = open(id, thread, Kind::Pagemap, OFlags::RDONLY)?;
        let result = use_file(rustix::fd::AsFd::as_fd(&file));
        entry.keep(id, file);
        result
    }
}

/// Calls `use_file` with a file of process `id` that is opened for this and closed after it.
pub fn fresh<T>(
    id: ProcessId,
    thread: u32,
    kind: Kind,
    flags: OFlags,
    use_file: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>,
) -> Result<T, Errno> {
    use_file(rustix::fd::AsFd::as_fd(&open(id, thread, kind, flags)?))
}

fn open(id: ProcessId, thread: u32, kind: Kind, flags: OFlags) -> Result<OwnedFd, Errno> {
    let name = match kind {
        Kind::Pagemap => "pagemap",
        Kind::Memory => "mem",
    };
    let path = ProcPath::of(id.pid(), "task").slash(thread).then("/").then(name);
    raw::open(path.as_c_str(), flags)
}

/// What tells an open /proc file from every other file: its inode, with the file system's device mixed in.
fn inode(file: BorrowedFd<'_>) -> Option<u64> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let found = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::INO).ok()?;
    Some(found.stx_ino ^ u64::from(found.stx_dev_minor) << 32 ^ u64::from(found.stx_dev_major) << 52)
}

impl Entry {
    /// The descriptor number, if it still is the file that was kept for `id`.
    fn number_for(&self, id: ProcessId) -> Option<u32> {
        // Acquire: pairs with the Release in `keep`.
        if self.image.load(Ordering::Acquire) != id.to_word() {
            return None;
        }
        let number = self.number.load(Ordering::Relaxed);
        let wanted = self.inode.load(Ordering::Relaxed);
        let same = inode(raw::borrow(number)) == Some(wanted);
        // Looked at again: the entry may have been given to another image meanwhile.
        crate::sync::fence(Ordering::Acquire);
        (same && self.image.load(Ordering::Relaxed) == id.to_word()).then_some(number)
    }

    /// Keeps `file` at a high number, if the entry is not being changed by another thread.
    fn keep(&self, id: ProcessId, file: OwnedFd) {
        if self.busy.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        self.replace(id, file);
        self.busy.store(0, Ordering::Release);
    }

    fn replace(&self, id: ProcessId, file: OwnedFd) {
        let was_kept = self.image.swap(0, Ordering::AcqRel) != 0;
        let (old_number, old_inode) = (self.number.load(Ordering::Relaxed), self.inode.load(Ordering::Relaxed));
        if was_kept && inode(raw::borrow(old_number)) == Some(old_inode) {
            // SAFETY: it is the file that this entry opened, and this entry no longer names it.
            drop(unsafe { raw::own(old_number as i32) });
        }
        let highest =
            rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1024).min(1 << 20);
        let least = highest.saturating_sub(64).max(highest / 2) as i32;
        let Ok(file) = raw::move_up(file, least) else { return };
        let Some(inode) = inode(rustix::fd::AsFd::as_fd(&file)) else { return };
        self.number.store(file.as_raw_fd() as u32, Ordering::Relaxed);
        self.inode.store(inode, Ordering::Relaxed);
        let _ = file.into_raw_fd();
        // Release: pairs with the Acquire in `number_for`.
        self.image.store(id.to_word(), Ordering::Release);
    }
}

//! What is asked for: the arguments of mmap(2) for a snapshot, and the file that they name.

use core::sync::atomic::{AtomicU64, Ordering};

use rustix::fd::BorrowedFd;
use rustix::fs::OFlags;
use rustix::io::Errno;
use snapshim::PAGE;
use snapshim::cooperate::locate::target_of_stat;
use snapshim::protocol::cause::{Cause, Worth};
use snapshim::protocol::origin::{Origin, Target};
use snapshim::protocol::snapshot::{GUARDED, NEVER_WRITABLE, SegmentFlags};
use snapshim::sys::filesystem::{ALLOWED, OVERLAYFS, TMPFS, kind_of_file_system};
use snapshim::sys::{procfs, raw};

use crate::base::config::{Short, config};
use crate::base::mmap_call::Mmap;
use crate::origins::device;
use crate::origins::filesystem::is_dax;
use crate::process::fd_table::AppFd;
use crate::process::log::{Level, say};

const TYPE: i32 = libc::MAP_SHARED | libc::MAP_PRIVATE;
/// The end of a program's address space: 47 bits without the last page.
pub const ADDRESSES: u64 = (1 << 47) - PAGE;

/// Why a mapping is a snapshot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The program asks for it.
    Flag,
    /// The environment names the file of a private mapping.
    Name,
    /// The environment names the file of a shared mapping, which can never be made writable.
    NameOfShared,
    /// It is none: the environment asks that the mapping stays live, and keeps what a truncation takes away.
    Guard,
    /// The same of a shared mapping.
    GuardOfShared,
}

impl By {
    /// What is mapped past the end of the file. A program that asks for a snapshot by itself can ask for its size as well.
    pub fn short(self) -> Short {
        if self == Self::Flag { Short::Sigbus } else { config().short }
    }

    pub fn flags(self) -> SegmentFlags {
        match self {
            Self::Flag | Self::Name => SegmentFlags::NONE,
            Self::NameOfShared => NEVER_WRITABLE,
            Self::Guard => GUARDED,
            Self::GuardOfShared => GUARDED.with(NEVER_WRITABLE),
        }
    }

    /// Whether the mapping is to show the file as it is.
    pub fn is_live(self) -> bool {
        self.flags().contains(GUARDED)
    }
}

/// A snapshot that is asked for.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub source: Source,
    pub by: By,
    pub mmap: Mmap,
}

impl Wanted {
    /// What a call asks for. Errors: those of [`create`](super::create::create) that can be told from the arguments and the file.
    pub fn of(mmap: &Mmap, by: By) -> Result<Self, Errno> {
        if mmap.flags & TYPE != libc::MAP_PRIVATE || mmap.flags & libc::MAP_ANONYMOUS != 0 {
            return Err(Errno::INVAL);
        }
        if mmap.length == 0 || !(mmap.offset as u64).is_multiple_of(PAGE) {
            return Err(Errno::INVAL);
        }
        let source = look_at(mmap.descriptor)?;
        if mmap.replaces() && (mmap.address as u64).saturating_add(mmap.length as u64) > ADDRESSES {
            return Err(Errno::NOMEM);
        }
        Ok(Self { source, by, mmap: *mmap })
    }

    /// Whether a file of this size has less than the mapping is to show. A length of whole pages may have been rounded up.
    pub fn is_short_in(&self, size: u64) -> bool {
        let length = self.mmap.length as u64;
        let has = if length.is_multiple_of(PAGE) { size.next_multiple_of(PAGE) } else { size };
        (self.mmap.offset as u64).saturating_add(length) > has
    }
}

/// The file that a descriptor of the caller's leads to.
#[derive(Clone, Copy)]
pub struct Source {
    descriptor: i32,
    pub origin: Origin,
    /// The state of a snapshot of it: exact or doubtful.
    pub worth: Worth,
    /// It lies on overlayfs, and the descriptor may lead to the lower file.
    is_reopened: bool,
}

impl Source {
    /// The file to map. On overlayfs a descriptor that was opened before the file was copied up maps the lower file, so the file is
    /// opened anew. The close drops the record locks that the program has on it (fcntl(2)).
    pub fn file(&self) -> Result<AppFd, Errno> {
        if !self.is_reopened {
            return Ok(AppFd::Borrowed(raw::borrow(self.descriptor as u32)));
        }
        let path = procfs::ProcPath::thread_self("fd").slash(self.descriptor as u32);
        Ok(AppFd::Copied(raw::open(path.as_c_str(), OFlags::RDONLY)?))
    }
}

/// Which file a descriptor leads to, and what a snapshot of it is worth.
fn look_at(descriptor: i32) -> Result<Source, Errno> {
    if descriptor < 0 {
        return Err(Errno::BADF);
    }
    let file = raw::borrow(descriptor as u32);
    let stat = rustix::fs::fstat(file)?;
    let Target::Origin(origin) = target_of_stat(&stat) else { return Err(Errno::NODEV) };
    if origin.is_block_device() {
        device::refuse_if_busy(origin)?;
        return Ok(Source { descriptor, origin, worth: Worth::Exact, is_reopened: false });
    }
    let kind = kind_of_file_system(file)?;
    let is_known = ALLOWED.contains(&kind) && !is_dax(file);
    if !is_known && !config().takes_any_file_system {
        say!(
            Level::Warn,
            file = origin;
            "snapshot of {} refused: {}, or set SNAPSHIM_ANYFS=1 for a doubtful snapshot",
            origin,
            Cause::FileSystem.of(format_args!("{} (type {kind:#x})", Cause::FileSystem.subject())).in_full()
        );
        return Err(Errno::OPNOTSUPP);
    }
    if kind == TMPFS && is_memory_without_file(descriptor, stat.st_dev) {
        say!(
            Level::Warn,
            file = origin;
            "snapshot of {} refused: it is shared memory without a file (MAP_SHARED|MAP_ANONYMOUS, shmget), which changes by \
             stores that the shim does not see; use memfd_create or a file in /dev/shm",
            origin
        );
        return Err(Errno::OPNOTSUPP);
    }
    let worth = if is_known { Worth::Exact } else { Worth::Doubtful(Cause::FileSystem) };
    Ok(Source { descriptor, origin, worth, is_reopened: kind == OVERLAYFS && !is_open_for_writing(file) })
}

/// An open for writing copies the file up.
fn is_open_for_writing(file: BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_getfl(file).is_ok_and(|flags| flags.intersects(OFlags::WRONLY | OFlags::RDWR))
}

/// Whether a file on a tmpfs is memory that was mapped without a file, reached through /proc/PID/map_files.
///
/// The kernel keeps such memory, and that of memfd_create(2), on a tmpfs of its own, where only names tell the two apart
/// (mm/shmem.c: "dev/zero", ipc/shm.c: "SYSV...", mm/memfd.c: "memfd:..."). A memfd is mapped like any file, so it is as good as
/// one.
fn is_memory_without_file(descriptor: i32, device: u64) -> bool {
    let own_tmpfs = device_of_memfds();
    if own_tmpfs != 0 && device != own_tmpfs {
        return false;
    }
    let mut buffer = [core::mem::MaybeUninit::uninit(); 300];
    let link = procfs::ProcPath::thread_self("fd").slash(descriptor as u32);
    let name = rustix::fs::readlinkat_raw(rustix::fs::CWD, link.as_c_str(), &mut buffer);
    // Without /proc no descriptor can lead to such memory.
    name.is_ok_and(|(name, _)| match own_tmpfs {
        // Which tmpfs is the kernel's is not known. No other file has these names.
        0 => name.starts_with(b"/dev/zero (deleted)") || name.starts_with(b"/SYSV"),
        _ => !name.starts_with(b"/memfd:"),
    })
}

/// The device number of the kernel's own tmpfs; 0 if it cannot be found out.
fn device_of_memfds() -> u64 {
    static DEVICE: AtomicU64 = AtomicU64::new(0);
    // Relaxed: the word is all there is; it makes nothing else visible.
    let known = DEVICE.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let probe = rustix::fs::memfd_create(c"snapshim", rustix::fs::MemfdFlags::CLOEXEC);
    let device = probe.and_then(rustix::fs::fstat).map_or(0, |stat| stat.st_dev);
    DEVICE.store(device, Ordering::Relaxed);
    device
}

//! The kernel's mapping of a snapshot: the file as it is at the instant, and past its end pages that fault.

use core::ffi::c_void;
use core::ops::Range;
use core::ptr;

use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise};
use snapshim::PAGE;
use snapshim::preserve::local;
use snapshim::protocol::changes::Modified;
use snapshim::protocol::origin::Origin;
use snapshim::sys::raw;

use crate::base::config::Short;
use crate::base::mmap_call::{MAP_SNAPSHOT, Mmap};
use crate::process::log::{Level, say};

const BLKGETSIZE64: u32 = 0x8008_1272;

/// Size, and the time of modification, by which foreign changes are found. The fstat(2) that gives the size gives the time as well.
pub fn read_origin(file: BorrowedFd<'_>, origin: Origin) -> Result<Modified, Errno> {
    if !origin.is_block_device() {
        let stat = rustix::fs::fstat(file)?;
        return Ok(Modified::new(stat.st_mtime, stat.st_mtime_nsec, stat.st_size as u64));
    }
    let mut size = 0u64;
    // SAFETY: BLKGETSIZE64 (linux/fs.h) stores one u64 at its argument.
    unsafe { raw::ioctl(file, BLKGETSIZE64, &raw mut size as usize) }?;
    Ok(Modified { time: 0, size })
}

/// Maps the file, whose pages `backed` are in the mapping. The page that holds the end of the file is private, and zero after the
/// end. Pages past it are zero as well, or raise SIGBUS.
pub fn map(
    file: BorrowedFd<'_>,
    mmap: &Mmap,
    size: u64,
    backed: Range<u64>,
    short: Short,
    scratch: bool,
) -> Result<*mut c_void, Errno> {
    let tail = !size.is_multiple_of(PAGE) && backed.contains(&(size / PAGE));
    let address = if scratch { map_elsewhere(file, mmap)? } else { real_map(file, mmap, mmap.address, mmap.flags)? };
    let start = address as u64;
    let length = backed.end - backed.start;
    let finish = || {
        if tail {
            zero_tail(start + (size / PAGE - backed.start) * PAGE, size % PAGE, mmap.protection)
                .map_err(|error| if error == Errno::FAULT { without_page(file) } else { error })?;
        }
        let (end, past) = (start + length * PAGE, mmap.pages() - length);
        match short {
            _ if past == 0 => Ok(()),
            Short::Zero => map_zeros(end, past * PAGE, mmap.protection),
            Short::Sigbus | Short::Refuse => {
                local::map_faulting(end, (past * PAGE) as usize)?;
                protect(end, past * PAGE, mmap.protection)
            }
        }
    };
    finish()
        // SAFETY: the mapping was just made, and no other code has its address.
        .inspect_err(|_| unsafe { rustix::mm::munmap(address, mmap.length) }.unwrap_or(()))
        .map(|()| address)
}

/// Maps the file so that the mapping shows what is written to it later, and how it grows. Pages past its end, which is behind
/// `backed`, raise SIGBUS until then, or are zero for good.
pub fn map_live(
    file: BorrowedFd<'_>,
    mmap: &Mmap,
    backed: &Range<u64>,
    short: Short,
    scratch: bool,
) -> Result<*mut c_void, Errno> {
    let address = if scratch { map_elsewhere(file, mmap)? } else { real_map(file, mmap, mmap.address, mmap.flags)? };
    let length = backed.end - backed.start;
    let past = mmap.pages() - length;
    if short == Short::Zero && past > 0 {
        map_zeros(address as u64 + length * PAGE, past * PAGE, mmap.protection)
            // SAFETY: the mapping was just made, and no other code has its address.
            .inspect_err(|_| unsafe { rustix::mm::munmap(address, mmap.length) }.unwrap_or(()))?;
    }
    Ok(address)
}

/// Pages of zeros, in the place of those past the end of a file.
fn map_zeros(address: u64, length: u64, protection: i32) -> Result<(), Errno> {
    let access = ProtFlags::from_bits_retain(protection as u32);
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    // SAFETY: the range is a part of the mapping in the making.
    unsafe { rustix::mm::mmap_anonymous(address as *mut c_void, length as usize, access, flags) }.map(drop)
}

/// Makes the kernel's mapping of the file.
fn real_map(file: BorrowedFd<'_>, mmap: &Mmap, address: *mut c_void, flags: i32) -> Result<*mut c_void, Errno> {
    use rustix::fd::AsRawFd;
    let flags = flags & !(MAP_SNAPSHOT | libc::MAP_POPULATE | libc::MAP_LOCKED);
    Mmap { address, flags, descriptor: file.as_raw_fd(), ..*mmap }.call()
}

/// Maps the file at an address of the kernel's choice that does not overlap the target of the later move.
///
/// While a mapping that overlaps the target stays, the kernel chooses another address. Two mappings can overlap the target, one
/// at each end, so the third does not.
fn map_elsewhere(file: BorrowedFd<'_>, mmap: &Mmap) -> Result<*mut c_void, Errno> {
    let mut found = [const { Err(Errno::NOMEM) }; 3];
    let mut chosen = Err(Errno::NOMEM);
    for place in &mut found {
        *place = real_map(file, mmap, ptr::null_mut(), mmap.flags & !libc::MAP_FIXED);
        chosen = *place;
        let is_clear =
            |at: *mut c_void| (at as usize).abs_diff(mmap.address as usize) >= (mmap.pages() * PAGE) as usize;
        if chosen.is_err() || chosen.is_ok_and(is_clear) {
            break;
        }
    }
    for other in found.into_iter().flatten().filter(|place| Ok(*place) != chosen) {
        // SAFETY: the mapping was just made, and no other code has its address.
        let _ = unsafe { rustix::mm::munmap(other, mmap.length) };
    }
    chosen
}

fn protect(address: u64, length: u64, protection: i32) -> Result<(), Errno> {
    let flags = MprotectFlags::from_bits_retain(protection as u32);
    // SAFETY: the range is a part of the mapping in the making.
    unsafe { rustix::mm::mprotect(address as *mut c_void, length as usize, flags) }
}

/// Says in the log what is wrong with the kernel, if that is why populating failed.
fn log_old_kernel(error: Errno) {
    if error == Errno::INVAL {
        say!(
            Level::Error,
            "snapshot of process {} refused: this kernel has no MADV_POPULATE_WRITE; Linux 5.14 or later is needed",
            raw::own_pid()
        );
    }
}

/// Says why a page of the file cannot be had, where populating fails as a store into it would (SIGBUS): on tmpfs a hole takes
/// memory even for a private copy (shmem_get_folio_gfp, mm/shmem.c).
fn without_page(file: BorrowedFd<'_>) -> Errno {
    let is_full = rustix::fs::fstatfs(file).is_ok_and(|found| found.f_bavail == 0);
    let (error, why) = if is_full { (Errno::NOSPC, "is full") } else { (Errno::IO, "does not give it") };
    say!(
        Level::Warn,
        "snapshot of process {} refused: the page that holds the end of the file has to be copied, and its file system {why}",
        raw::own_pid()
    );
    error
}

/// Makes the page private and zeroes it after the end of the file: a shared store may have put bytes there, and an append would.
fn zero_tail(page: u64, used: u64, protection: i32) -> Result<(), Errno> {
    let opened = libc::PROT_READ | libc::PROT_WRITE;
    if protection & opened != opened {
        protect(page, PAGE, opened)?;
    }
    // SAFETY: the page is a writable part of the mapping in the making, and private once it is populated.
    unsafe {
        madvise(page as *mut c_void, PAGE as usize, Advice::LinuxPopulateWrite)
            .inspect_err(|error| log_old_kernel(*error))?;
        ptr::write_bytes((page + used) as *mut u8, 0, (PAGE - used) as usize);
    }
    if protection & opened != opened { protect(page, PAGE, protection) } else { Ok(()) }
}

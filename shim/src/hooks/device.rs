//! ioctl(2): the requests that change a file's or a block device's content.

use core::ffi::{c_int, c_ulong, c_void};

use snapshim::raw;
use syscalls::{Sysno, syscall};

use super::change::{Touch, change};
use crate::doors::{as_libc, interpose};

interpose! {
    /// ioctl(2); variadic in C, the argument is passed on as it comes
    ioctl, c"ioctl": ioctl => fn(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |fd, request, argument| as_libc(unsafe { syscall!(Sysno::ioctl, fd, request, argument) }) as c_int,
        hook on_ioctl,
    }
}

/// How a request names the bytes that it changes.
#[derive(Clone, Copy)]
enum Names {
    /// `u64[2]`: offset, length (linux/fs.h).
    Range,
    /// `struct file_clone_range`: the destination's offset is its last field, a length of 0 means to the end.
    CloneRange,
    /// The whole file.
    Everything,
}

/// linux/fs.h, linux/falloc.h, linux/ext4.h, and the XFS exchange requests.
const REQUESTS: [(c_ulong, Names); 12] = [
    (0x1277, Names::Range),           // BLKDISCARD
    (0x127D, Names::Range),           // BLKSECDISCARD
    (0x127F, Names::Range),           // BLKZEROOUT
    (0x4004_9409, Names::Everything), // FICLONE
    (0x4020_940D, Names::CloneRange), // FICLONERANGE
    (0x4030_5829, Names::Everything), // FS_IOC_UNRESVSP
    (0x4030_582B, Names::Everything), // FS_IOC_UNRESVSP64
    (0x4030_5839, Names::Everything), // FS_IOC_ZERO_RANGE
    (0x6611, Names::Everything),      // EXT4_IOC_SWAP_BOOT
    (0xC028_660F, Names::Everything), // EXT4_IOC_MOVE_EXT
    (0xC0C0_586D, Names::Everything), // XFS_IOC_SWAPEXT
    (0x4028_5881, Names::Everything), // XFS_IOC_EXCHANGE_RANGE
];

pub fn on_ioctl(real: ioctl::Function, fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    // SAFETY: the application's arguments, as they are.
    let call = || unsafe { real(fd, request, argument) };
    // Only the low 32 bits count (fs/ioctl.c takes an unsigned int).
    match REQUESTS.iter().find(|(known, _)| *known == request & 0xffff_ffff) {
        None => call(),
        Some((_, names)) => change(fd, Request::read(*names, argument as u64), || call() as isize) as c_int,
    }
}

/// The bytes that a request changes.
struct Request {
    offset: u64,
    length: u64,
}

impl Request {
    /// An unreadable argument is the kernel's to refuse.
    fn read(names: Names, argument: u64) -> Self {
        let word = |index: u64| raw::read_remote_word(raw::own_tid(), argument.wrapping_add(index * 8)).ok();
        let found = match names {
            Names::Range => word(0).zip(word(1)),
            Names::CloneRange => word(3).zip(word(2).map(|length| if length == 0 { u64::MAX } else { length })),
            Names::Everything => None,
        };
        let (offset, length) = found.unwrap_or((0, u64::MAX));
        Self { offset, length }
    }
}

impl Touch for Request {
    fn length(&self) -> u64 {
        self.length
    }

    fn offset(&self) -> Option<i64> {
        Some(i64::try_from(self.offset).unwrap_or(i64::MAX))
    }
}

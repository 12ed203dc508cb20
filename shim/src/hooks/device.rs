//! ioctl(2): the requests that change a file's or a block device's content.

use core::ffi::{c_int, c_ulong, c_void};

use snapshim::raw;
use syscalls::{Sysno, syscall};

use super::change::{Touch, change};
use super::faults;
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

/// A request, the bytes that it changes of the file that it is made on, and where its argument has the descriptors of others that it
/// changes: the offsets of 32-bit numbers.
type Known = (c_ulong, Names, &'static [u64]);

/// linux/fs.h, linux/falloc.h, linux/ext4.h, and the XFS exchange requests (fs/xfs/libxfs/xfs_fs.h).
const REQUESTS: [Known; 13] = [
    (0x1277, Names::Range, &[]),                // BLKDISCARD
    (0x127D, Names::Range, &[]),                // BLKSECDISCARD
    (0x127F, Names::Range, &[]),                // BLKZEROOUT
    (0x4004_9409, Names::Everything, &[]),      // FICLONE
    (0x4020_940D, Names::CloneRange, &[]),      // FICLONERANGE
    (0x4030_5829, Names::Everything, &[]),      // FS_IOC_UNRESVSP
    (0x4030_582B, Names::Everything, &[]),      // FS_IOC_UNRESVSP64
    (0x4030_5839, Names::Everything, &[]),      // FS_IOC_ZERO_RANGE
    (0x6611, Names::Everything, &[]),           // EXT4_IOC_SWAP_BOOT
    (0xC028_660F, Names::Everything, &[4]),     // EXT4_IOC_MOVE_EXT: donor_fd
    (0xC0C0_586D, Names::Everything, &[8, 16]), // XFS_IOC_SWAPEXT: sx_fdtarget, sx_fdtmp
    (0x4028_5881, Names::Everything, &[0]),     // XFS_IOC_EXCHANGE_RANGE: file1_fd
    (0x4058_5883, Names::Everything, &[0]),     // XFS_IOC_COMMIT_RANGE: file1_fd
];

pub fn on_ioctl(real: ioctl::Function, fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    // SAFETY: the application's arguments, as they are.
    let call = || unsafe { real(fd, request, argument) };
    let argument = argument as u64;
    // Only the low 32 bits count (fs/ioctl.c takes an unsigned int).
    match REQUESTS.iter().find(|(known, ..)| *known == request & 0xffff_ffff) {
        None => faults::on_request(request as u32, argument, call),
        Some((_, names, others)) => {
            let made = || changing_others(others, argument, &call) as isize;
            change(fd, Request::read(*names, argument), made) as c_int
        }
    }
}

/// Makes `call` while the files whose descriptors lie at `offsets` of the argument are announced, too.
///
/// One within the other, as what a handler does within a call that it interrupted: never inlined, because a call that is further up
/// the stack than another would be taken for one that was left.
#[inline(never)]
fn changing_others(offsets: &[u64], argument: u64, call: &dyn Fn() -> c_int) -> c_int {
    let Some((offset, others)) = offsets.split_first() else { return call() };
    let address = argument.wrapping_add(*offset);
    // An unreadable argument is the kernel's to refuse.
    let Ok(word) = raw::read_remote_word(raw::own_tid(), address & !7) else { return call() };
    let descriptor = (word >> ((address & 7) * 8)) as c_int;
    change(descriptor, Request::EVERYTHING, || changing_others(others, argument, call) as isize) as c_int
}

/// The bytes that a request changes.
struct Request {
    offset: u64,
    length: u64,
}

impl Request {
    const EVERYTHING: Self = Self { offset: 0, length: u64::MAX };

    /// An unreadable argument is the kernel's to refuse.
    fn read(names: Names, argument: u64) -> Self {
        let word = |index: u64| raw::read_remote_word(raw::own_tid(), argument.wrapping_add(index * 8)).ok();
        let found = match names {
            Names::Range => word(0).zip(word(1)),
            Names::CloneRange => word(3).zip(word(2).map(|length| if length == 0 { u64::MAX } else { length })),
            Names::Everything => None,
        };
        found.map_or(Self::EVERYTHING, |(offset, length)| Self { offset, length })
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

//! Where a descriptor or a path leads: to which origin, or to none.

use core::ffi::c_char;
use core::mem::MaybeUninit;

use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, makedev};
use rustix::io::Errno;
use syscalls::{Sysno, syscall};

use super::remembered;
use crate::protocol::changes::Modified;
use crate::protocol::origin::{Origin, Target};
use crate::sys::{permission, raw};

/// Where a descriptor leads. [`Target::Unknown`]: the kernel does not say, for want of memory or because a filter of seccomp(2)
/// refuses the question.
///
/// It asks for type and inode only. A file system with multigrain timestamps updates the times at every later write once it has
/// been asked for them (Documentation/filesystems/multigrain-ts.rst).
pub fn target_of_descriptor(descriptor: u32) -> Target {
    if permission::forbids(Sysno::statx) {
        return target_of_descriptor_otherwise(descriptor);
    }
    let mut found = MaybeUninit::<Statx>::uninit();
    let wanted = (StatxFlags::TYPE | StatxFlags::INO).bits();
    let flags = AtFlags::EMPTY_PATH.bits();
    // SAFETY: `found` is a struct statx, and the path is an empty string. rustix's function would keep two such structures on the
    // stack, which is the application's.
    let done = unsafe { syscall!(Sysno::statx, descriptor as i32, c"".as_ptr(), flags, wanted, found.as_mut_ptr()) };
    match done {
        // SAFETY: the call filled it in.
        Ok(_) => target_of_statx(unsafe { found.assume_init_ref() }),
        Err(syscalls::Errno::EBADF) => Target::Elsewhere,
        Err(_) => target_of_descriptor_otherwise(descriptor),
    }
}

/// The same by older calls: a filter may know one of them and not the others.
#[cold]
#[inline(never)]
fn target_of_descriptor_otherwise(descriptor: u32) -> Target {
    let file = raw::borrow(descriptor);
    match if_allowed(Sysno::fstat, || rustix::fs::fstat(file))
        .or_else(|_| if_allowed(Sysno::newfstatat, || rustix::fs::statat(file, c"", AtFlags::EMPTY_PATH)))
    {
        Ok(found) => target_of_stat(&found),
        Err(Errno::BADF) => Target::Elsewhere,
        // A descriptor without a position is neither a file nor a block device.
        Err(_) if if_allowed(Sysno::lseek, || rustix::fs::tell(file)) == Err(Errno::SPIPE) => Target::Elsewhere,
        Err(_) => remembered::target(descriptor),
    }
}

/// The answer to `ask`, which makes `call`, if no filter of the program's forbids that.
fn if_allowed<T>(call: Sysno, ask: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    if permission::forbids(call) { Err(Errno::PERM) } else { ask() }
}

/// Where a path leads from `directory`. The path is the application's, the flags are those of newfstatat(2). The result is
/// [`Target::Elsewhere`] also where the call that will look up the path fails as this look does.
pub fn target_at_path(directory: u32, path: *const c_char, flags: u32) -> Target {
    if permission::forbids(Sysno::statx) {
        return target_at_path_otherwise(directory, path, flags);
    }
    let mut found = MaybeUninit::<Statx>::uninit();
    let wanted = (StatxFlags::TYPE | StatxFlags::INO).bits();
    // SAFETY: `found` is a struct statx; the kernel checks the application's pointer.
    let done = unsafe { syscall!(Sysno::statx, directory as i32, path, flags, wanted, found.as_mut_ptr()) };
    match done {
        // SAFETY: the call filled it in.
        Ok(_) => target_of_statx(unsafe { found.assume_init_ref() }),
        Err(error) if is_of_the_path(error) => Target::Elsewhere,
        Err(_) => target_at_path_otherwise(directory, path, flags),
    }
}

#[cold]
fn target_at_path_otherwise(directory: u32, path: *const c_char, flags: u32) -> Target {
    if permission::forbids(Sysno::newfstatat) {
        return Target::Unknown;
    }
    let mut found = MaybeUninit::<rustix::fs::Stat>::uninit();
    // SAFETY: `found` is a struct stat; the kernel checks the application's pointer.
    let done = unsafe { syscall!(Sysno::newfstatat, directory as i32, path, found.as_mut_ptr(), flags) };
    match done {
        // SAFETY: the call filled it in.
        Ok(_) => target_of_stat(unsafe { found.assume_init_ref() }),
        Err(error) if is_of_the_path(error) => Target::Elsewhere,
        Err(_) => Target::Unknown,
    }
}

/// Whether the path is what fails, and not the question.
fn is_of_the_path(error: syscalls::Errno) -> bool {
    use syscalls::Errno as E;
    [E::ENOENT, E::ENOTDIR, E::ELOOP, E::ENAMETOOLONG, E::EACCES, E::EFAULT, E::EBADF].contains(&error)
}

/// Where a descriptor leads, when that file was modified, and its size. It is to be asked seldom: see [`target_of_descriptor`].
pub fn modified_behind(file: BorrowedFd<'_>) -> Option<(Target, Modified)> {
    let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MTIME | StatxFlags::SIZE;
    let found = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted).ok()?;
    let modified = Modified::new(found.stx_mtime.tv_sec, u64::from(found.stx_mtime.tv_nsec), found.stx_size);
    StatxFlags::from_bits_retain(found.stx_mask).contains(wanted).then(|| (target_of_statx(&found), modified))
}

fn target_of_statx(found: &Statx) -> Target {
    match FileType::from_raw_mode(found.stx_mode.into()) {
        FileType::RegularFile => {
            Target::Origin(Origin::file(makedev(found.stx_dev_major, found.stx_dev_minor), found.stx_ino))
        }
        FileType::BlockDevice => {
            Target::Origin(Origin::block_device(makedev(found.stx_rdev_major, found.stx_rdev_minor)))
        }
        _ => Target::Elsewhere,
    }
}

/// Where the file of a `stat` leads.
#[must_use]
pub fn target_of_stat(stat: &rustix::fs::Stat) -> Target {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Target::Origin(Origin::file(stat.st_dev, stat.st_ino)),
        FileType::BlockDevice => Target::Origin(Origin::block_device(stat.st_rdev)),
        _ => Target::Elsewhere,
    }
}

//! `SNAPSHIM_FILES` and `SNAPSHIM_SHARED_FILES`: whether a mapping is of a file that they name.

use rustix::fs::OFlags;
use snapshim::cooperate::locate::target_of_stat;
use snapshim::protocol::origin::Target;
use snapshim::sys::{procfs, raw};

use super::config::config;
use super::mmap_call::Mmap;

/// Whether `SNAPSHIM_FILES` asks for a snapshot of what is mapped.
#[inline]
pub fn matches_files(mmap: &Mmap) -> bool {
    const TYPE: i32 = libc::MAP_SHARED | libc::MAP_PRIVATE;
    mmap.flags & (TYPE | libc::MAP_ANONYMOUS) == libc::MAP_PRIVATE && is_named(mmap.descriptor, config().files)
}

/// Whether `SNAPSHIM_SHARED_FILES` asks for a snapshot of what is mapped: shared, but never to be stored to.
#[inline]
pub fn matches_shared_files(mmap: &Mmap) -> bool {
    mmap.protection & libc::PROT_WRITE == 0
        && is_shared(mmap.flags)
        && is_named(mmap.descriptor, config().shared_files)
        && is_for_reading_only(mmap.descriptor)
}

/// MAP_SHARED_VALIDATE has the kernel refuse flags that it does not know. A mapping with flags that are not ordinary is left to it.
fn is_shared(flags: i32) -> bool {
    const ORDINARY: i32 = libc::MAP_FIXED
        | libc::MAP_POPULATE
        | libc::MAP_LOCKED
        | libc::MAP_NORESERVE
        | libc::MAP_NONBLOCK
        | libc::MAP_STACK
        | libc::MAP_32BIT
        | libc::MAP_DENYWRITE
        | libc::MAP_EXECUTABLE;
    match flags & libc::MAP_TYPE {
        libc::MAP_SHARED => flags & libc::MAP_ANONYMOUS == 0,
        libc::MAP_SHARED_VALIDATE => flags & !(libc::MAP_TYPE | ORDINARY) == 0,
        _ => false,
    }
}

/// Whether no mapping of the descriptor can ever be stored to: the descriptor is open for reading only.
pub fn is_for_reading_only(descriptor: i32) -> bool {
    descriptor >= 0
        && rustix::fs::fcntl_getfl(raw::borrow(descriptor as u32))
            .is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::RDONLY)
}

#[inline]
fn is_named(descriptor: i32, patterns: &[u8]) -> bool {
    descriptor >= 0 && !patterns.is_empty() && is_matching_file(descriptor as u32, patterns)
}

#[cold]
fn is_matching_file(descriptor: u32, patterns: &[u8]) -> bool {
    let is_file = rustix::fs::fstat(raw::borrow(descriptor))
        .is_ok_and(|stat| matches!(target_of_stat(&stat), Target::Origin(origin) if !origin.is_block_device()));
    if !is_file {
        return false;
    }
    // PATH_MAX bytes are more than a hook may take of the stack; a longer path matches nothing.
    let mut buffer = [core::mem::MaybeUninit::uninit(); 1000];
    let link = procfs::ProcPath::thread_self("fd").slash(descriptor);
    let Ok((path, _)) = rustix::fs::readlinkat_raw(rustix::fs::CWD, link.as_c_str(), &mut buffer) else { return false };
    patterns.split(|byte| *byte == b':').any(|pattern| matches_pattern(pattern, path))
}

/// A pattern without a slash is matched against the file's name, one with a slash against its whole path.
fn matches_pattern(pattern: &[u8], path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    let subject = if pattern.contains(&b'/') { path } else { name };
    !pattern.is_empty() && fast_glob::glob_match(pattern, subject)
}

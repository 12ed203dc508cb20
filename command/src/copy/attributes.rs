//! What a file has beside its bytes: owner, mode, extended attributes, times.

use std::ffi::{CStr, CString, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Gives `target` what `source` has. `found` is of before the instant: a copy is never called newer than its bytes are.
///
/// The owner stays this user where the user may not give files away. Of the extended attributes those are passed over that this
/// user may not set (`security`, `trusted`), or that the target's file system does not have.
pub fn copy(source: &File, found: &Metadata, target: &File) -> io::Result<()> {
    let mut mode = found.mode() & 0o7777;
    if fchown(target, Some(found.uid()), Some(found.gid())).is_err() {
        let own = target.metadata()?;
        // What runs with the rights of the owner must not run with those of another.
        if own.uid() != found.uid() {
            mode &= !0o4000;
        }
        if own.gid() != found.gid() && fchown(target, None, Some(found.gid())).is_err() {
            mode &= !0o2000;
        }
    }
    target.set_permissions(PermissionsExt::from_mode(mode))?;
    for name in names(source)? {
        if let Some(value) = value(source, &name)? {
            set(target, &name, &value)?;
        }
    }
    set_times(found, target)
}

pub fn set_times(found: &Metadata, target: &File) -> io::Result<()> {
    let time = |seconds: i64, nanoseconds: i64| {
        let fraction = Duration::from_nanos(nanoseconds as u64);
        let whole = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { SystemTime::UNIX_EPOCH - whole + fraction } else { SystemTime::UNIX_EPOCH + whole + fraction }
    };
    let times = std::fs::FileTimes::new()
        .set_accessed(time(found.atime(), found.atime_nsec()))
        .set_modified(time(found.mtime(), found.mtime_nsec()));
    target.set_times(times)
}

/// The extended attributes of an open file.
pub fn extended_of(file: &File) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let names = names(file)?;
    let with_value =
        |name: CString| Ok(value(file, &name)?.map(|value| (OsString::from_vec(name.into_bytes()), value)));
    names.into_iter().filter_map(|name| with_value(name).transpose()).collect()
}

/// The extended attributes of what a path leads to, be it a link. What is gone has none.
pub fn extended_at(path: &Path) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends, and the buffer is writable for its length.
    let list = grow(|buffer| unsafe { libc::llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) })?;
    let with_value = |name: CString| {
        // SAFETY: as above, and the name ends.
        let value = grow(|buffer| unsafe {
            libc::lgetxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
        })?;
        Ok(value.map(|value| (OsString::from_vec(name.into_bytes()), value)))
    };
    split(&list.unwrap_or_default()).into_iter().filter_map(|name| with_value(name).transpose()).collect()
}

/// The names of the extended attributes.
fn names(file: &File) -> io::Result<Vec<CString>> {
    let list = grow(|buffer| {
        // SAFETY: the buffer is writable for its length.
        unsafe { libc::flistxattr(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) }
    })?;
    Ok(split(&list.unwrap_or_default()))
}

fn split(list: &[u8]) -> Vec<CString> {
    list.split_inclusive(|byte| *byte == 0)
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok().map(CStr::to_owned))
        .collect()
}

fn value(file: &File, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    grow(|buffer| {
        // SAFETY: as above, and the name ends.
        unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
    })
}

/// Asks with larger buffers until one suffices; `None`: there is none.
fn grow(mut ask: impl FnMut(&mut [u8]) -> isize) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; 4096];
    loop {
        match usize::try_from(ask(&mut buffer)) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            Err(_) => match io::Error::last_os_error().raw_os_error() {
                Some(libc::ERANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 16, 0),
                Some(libc::ENODATA | libc::EOPNOTSUPP | libc::ENOENT) => return Ok(None),
                _ => return Err(io::Error::last_os_error()),
            },
        }
    }
}

fn set(file: &File, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: name and value are readable for their lengths.
    let set = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if set == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let is_of_user = name.to_bytes().starts_with(b"user.");
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => Ok(()),
        Some(libc::EPERM | libc::EACCES | libc::EINVAL) if !is_of_user => Ok(()),
        _ => Err(error),
    }
}

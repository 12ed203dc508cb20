//! What a file has beside its bytes: owner, mode, extended attributes, times.
//!
//! All of it is asked for when the names are listed, and again after the instant: what comes later is in no copy.

use std::ffi::{CStr, CString, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown, lchown};
use std::path::Path;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, futimens, utimensat};
use nix::sys::time::TimeSpec;

/// Extended attributes: names and values.
pub type Extended = Vec<(OsString, Vec<u8>)>;

/// Gives `target` what was found. That is of before the instant: a copy is never called newer than its bytes are.
///
/// The owner stays this user where the user may not give files away. Of the extended attributes those are passed over that this
/// user may not set (`security`, `trusted`), or that the target's file system does not have.
pub fn copy(found: &Metadata, extended: &Extended, target: &File) -> io::Result<()> {
    let mode = mode_after(found, || target.metadata(), |user, group| fchown(target, user, group))?;
    target.set_permissions(PermissionsExt::from_mode(mode))?;
    for (name, value) in extended {
        set(target, name, value)?;
    }
    let (accessed, modified) = times(found);
    Ok(futimens(target.as_fd(), &accessed, &modified)?)
}

/// Gives a link, a FIFO, a socket or a device node, which is not opened for it, the owner, the mode and the times that were found.
pub fn copy_to_name(found: &Metadata, target: &Path) -> io::Result<()> {
    let mode = mode_after(found, || fs::symlink_metadata(target), |user, group| lchown(target, user, group))?;
    if !found.is_symlink() {
        fs::set_permissions(target, PermissionsExt::from_mode(mode))?;
    }
    let (accessed, modified) = times(found);
    Ok(utimensat(AT_FDCWD, target, &accessed, &modified, UtimensatFlags::NoFollowSymlink)?)
}

/// Gives the owner away, as far as this user may; the mode that the copy may have then.
fn mode_after(
    found: &Metadata,
    own: impl Fn() -> io::Result<Metadata>,
    give: impl Fn(Option<u32>, Option<u32>) -> io::Result<()>,
) -> io::Result<u32> {
    let mut mode = found.mode() & 0o7777;
    if give(Some(found.uid()), Some(found.gid())).is_err() {
        let own = own()?;
        // What runs with the rights of the owner must not run with those of another.
        if own.uid() != found.uid() {
            mode &= !0o4000;
        }
        if own.gid() != found.gid() && give(None, Some(found.gid())).is_err() {
            mode &= !0o2000;
        }
    }
    Ok(mode)
}

/// When it was accessed, and when modified.
fn times(found: &Metadata) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(found.atime(), found.atime_nsec()), TimeSpec::new(found.mtime(), found.mtime_nsec()))
}

/// The extended attributes of what a path leads to: of a link itself, unless it is followed. What is gone has none, and none are
/// had that this user may not read: the bytes of such a file cannot be had either.
pub fn extended_at(path: &Path, follows: bool) -> io::Result<Extended> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let (list, get) = if follows {
        (libc::listxattr as List, libc::getxattr as Get)
    } else {
        (libc::llistxattr as List, libc::lgetxattr as Get)
    };
    // SAFETY: the path ends, and the buffer is writable for its length.
    let names = grow(|buffer| unsafe { list(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) })?;
    let with_value = |name: CString| {
        // SAFETY: as above, and the name ends.
        let value =
            grow(|buffer| unsafe { get(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) })?;
        Ok(value.map(|value| (OsString::from_vec(name.into_bytes()), value)))
    };
    split(&names.unwrap_or_default()).into_iter().filter_map(|name| with_value(name).transpose()).collect()
}

type List = unsafe extern "C" fn(*const libc::c_char, *mut libc::c_char, usize) -> isize;
type Get = unsafe extern "C" fn(*const libc::c_char, *const libc::c_char, *mut libc::c_void, usize) -> isize;

fn split(list: &[u8]) -> Vec<CString> {
    list.split_inclusive(|byte| *byte == 0)
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok().map(CStr::to_owned))
        .collect()
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
                Some(libc::ENODATA | libc::EOPNOTSUPP | libc::ENOENT | libc::ENOTDIR | libc::EACCES) => {
                    return Ok(None);
                }
                _ => return Err(io::Error::last_os_error()),
            },
        }
    }
}

fn set(file: &File, name: &OsString, value: &[u8]) -> io::Result<()> {
    let text = CString::new(name.as_bytes())?;
    // SAFETY: name and value are readable for their lengths.
    let set = unsafe { libc::fsetxattr(file.as_raw_fd(), text.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if set == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let is_of_user = name.as_bytes().starts_with(b"user.");
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => Ok(()),
        Some(libc::EPERM | libc::EACCES | libc::EINVAL) if !is_of_user => Ok(()),
        _ => Err(error),
    }
}

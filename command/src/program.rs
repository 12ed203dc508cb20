//! A program that is to be run: where it is, and what the library will be to it.

use std::env;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use snapshim::cooperate::program::{self, Fate, Program};

/// The file that execvp(3) would run.
pub fn find(name: &OsStr) -> io::Result<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return path.metadata().map(|_| path);
    }
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let mut is_forbidden = false;
    for folder in env::split_paths(&path) {
        let candidate = folder.join(name);
        if candidate.is_file() {
            if nix::unistd::access(&candidate, nix::unistd::AccessFlags::X_OK).is_ok() {
                return Ok(candidate);
            }
            is_forbidden = true;
        }
    }
    Err(io::Error::from_raw_os_error(if is_forbidden { libc::EACCES } else { libc::ENOENT }))
}

/// What the library will be to the program: the question that SNAPSHIM_STRICT asks.
pub fn fate(path: &Path) -> Fate {
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else { return Fate::Loaded };
    Program::at(name.as_ptr()).open().map_or(Fate::Loaded, |file| program::fate(file, true))
}

//! The table of the programs that cooperate, as the command looks at it: it joins none of it.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use snapshim::table::Table;
use snapshim::table::attach::{self, Attached};

use crate::failure::{Code, Failure, Outcome, shown};

/// By what a user names the directory.
pub const VARIABLE: &str = "SNAPSHIM_DIR";

/// What SNAPSHIM_DIR says, if it says something.
pub fn chosen() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).filter(|chosen| !chosen.is_empty()).map(PathBuf::from)
}

/// Where the table is, and whether the user has named it. A relative path, which the library does not take, becomes one that is the
/// same from every directory.
pub fn directory() -> (PathBuf, bool) {
    match chosen() {
        Some(chosen) => (std::path::absolute(&chosen).unwrap_or(chosen), true),
        None => (default_of(attach::outer_user()), false),
    }
}

/// The directory of a user who names none.
pub fn default_of(user: u32) -> PathBuf {
    format!("/dev/shm/snapshim-{user}").into()
}

/// The table; a failure of code [`Code::NoTable`] if there is none that can be used.
pub fn attached() -> Outcome<Attached> {
    attached_or_none()?.ok_or_else(|| {
        let directory = directory().0;
        let what = format!("no table in {}: no program runs under the shim there", shown(&directory));
        Failure::new(Code::NoTable, what)
            .helped_by("start the programs by `snapshim run -- PROGRAM`, or set SNAPSHIM_DIR to where their table is")
    })
}

/// The table for looks at it again and again. It is attached once, for nothing unmaps it.
pub struct Watched {
    attached: Attached,
}

impl Watched {
    pub fn new() -> Outcome<Self> {
        Ok(Self { attached: attached()? })
    }

    /// The table that is there by now.
    pub fn table(&mut self) -> Outcome<&'static Table> {
        if !self.attached.is_current() {
            self.attached = attached()?;
        }
        Ok(self.attached.table)
    }
}

/// The same as [`attached`]; `None`: there is none so far.
pub fn attached_or_none() -> Outcome<Option<Attached>> {
    let (directory, is_chosen) = directory();
    at(&directory, is_chosen, attach::attach_existing)
}

/// The table in a directory, made if there is none: as the first program under the library does it.
pub fn made_in(directory: &Path, is_chosen: bool) -> Outcome<Attached> {
    at(directory, is_chosen, |location| attach::attach(location, std::ptr::null_mut()))
}

fn at<T>(
    directory: &Path,
    is_chosen: bool,
    attach: impl FnOnce(&attach::TableLocation<'_>) -> Result<T, attach::Refusal>,
) -> Outcome<T> {
    let Ok(path) = CString::new(directory.as_os_str().as_bytes()) else {
        return Err(Failure::new(Code::Usage, "SNAPSHIM_DIR contains a NUL byte"));
    };
    attach(&attach::TableLocation { directory: &path, is_chosen }).map_err(|refusal| {
        let what = format!("the table in {} cannot be used: {}", shown(directory), refusal.what());
        Failure::new(Code::NoTable, what).helped_by(refusal.remedy())
    })
}

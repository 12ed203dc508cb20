//! The table of the programs that cooperate, as the command looks at it: it joins none of it.

use std::ffi::CString;

use snapshim::sys::escaped::Escaped;
use snapshim::table::Table;
use snapshim::table::attach::{self, Attached};

use crate::failure::{Code, Failure, Outcome};

/// Where the table is, and whether the user has named it.
pub fn directory() -> (String, bool) {
    match std::env::var("SNAPSHIM_DIR") {
        Ok(chosen) if !chosen.is_empty() => (chosen, true),
        _ => (format!("/dev/shm/snapshim-{}", attach::outer_user()), false),
    }
}

/// The table; a failure of code [`Code::NoTable`] if there is none that can be used.
pub fn attached() -> Outcome<Attached> {
    attached_or_none()?.ok_or_else(|| {
        let shown = Escaped(directory().0.as_bytes()).to_string();
        Failure::new(Code::NoTable, format!("no table in {shown}: no program runs under the shim there"))
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
    let shown = Escaped(directory.as_bytes()).to_string();
    let Ok(path) = CString::new(directory) else {
        return Err(Failure::new(Code::Usage, "SNAPSHIM_DIR contains a NUL byte"));
    };
    attach::attach_existing(&attach::TableLocation { directory: &path, is_chosen }).map_err(|refusal| {
        Failure::new(Code::NoTable, format!("the table in {shown} cannot be used: {}", refusal.what()))
            .helped_by(refusal.remedy())
    })
}

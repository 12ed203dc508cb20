//! Why a command did not do what it was asked for, as a person reads it and as a script does.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use anstream::eprintln;
use anstyle::{AnsiColor, Style};
use snapshim::sys::escaped::Escaped;

/// What the exit status of the command means. The help lists the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Failed = 1,
    Usage = 2,
    Partly = 3,
    Inexact = 4,
    NoTable = 5,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// One failure: what happened, what is known beside it, and what to do.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub what: String,
    pub notes: Vec<String>,
    pub help: Option<String>,
}

pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), notes: Vec::new(), help: None }
    }

    /// The ordinary failure, with what to do.
    pub fn failed(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(Code::Failed, what).helped_by(help)
    }

    /// A failure of a call on a file: "cannot DO PATH: why".
    pub fn of_file(doing: &str, path: &Path, error: &io::Error) -> Self {
        let failure = Self::new(Code::Failed, format!("cannot {doing} {}: {}", shown(path), words(error)));
        match remedy(error) {
            Some(help) => failure.helped_by(help),
            None => failure,
        }
    }

    pub fn helped_by(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn noting(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Says it on standard error.
    pub fn say(&self) {
        let red = AnsiColor::Red.on_default().bold();
        eprintln!("{red}error:{red:#} {}", self.what);
        for note in &self.notes {
            eprintln!("  {note}");
        }
        if let Some(help) = &self.help {
            let green = AnsiColor::Green.on_default();
            eprintln!("{green}help:{green:#} {help}");
        }
    }
}

/// Says on standard error what does not keep the command from going on.
pub fn warn(what: impl fmt::Display) {
    let yellow: Style = AnsiColor::Yellow.on_default().bold();
    eprintln!("{yellow}warning:{yellow:#} {what}");
}

/// A path as a person may see it: no control characters.
pub fn shown(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    Escaped(path.as_os_str().as_bytes()).to_string()
}

/// What the kernel said, without Rust's number behind it.
pub fn words(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else { return error.to_string() };
    let text = nix::errno::Errno::from_raw(number).desc();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

fn remedy(error: &io::Error) -> Option<&'static str> {
    Some(match error.raw_os_error()? {
        libc::ENOENT => "check the path",
        libc::EACCES | libc::EPERM => "check the permissions, or be another user",
        libc::ENOSPC => "free some space there, or copy to another file system; nothing was left behind",
        libc::EDQUOT => "the quota is used up: free some space there, or copy elsewhere; nothing was left behind",
        libc::EFBIG => "the file is larger than the limit on file sizes (ulimit -f) or than the file system takes",
        libc::EROFS => "the file system is mounted read-only: copy elsewhere",
        libc::EMFILE => "raise the limit on open files (ulimit -n)",
        libc::EIO => "the disk or the device failed: see dmesg",
        _ => return None,
    })
}

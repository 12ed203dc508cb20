//! The log: one line a message, which says what happened, to which file and process, and what to do.
//!
//! A line is one raw write(2) to standard error, or to the file that `SNAPSHIM_LOG` names, which is opened for each line.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::AsFd;
use rustix::fs::{FileType, OFlags};
use snapshim::sys::procfs;
use snapshim::sys::stack_str::StackStr;
use snapshim::table::Table;

use super::{fd_table, identity};
use crate::base::config::{config, open};

pub use crate::base::config::Level;

/// Logs a line if its level is wanted.
macro_rules! say {
    ($level:expr, $($format:tt)*) => {
        $crate::process::log::write_line($level, format_args!($($format)*))
    };
}
pub(crate) use say;

/// Bytes of a path or value, with `?` in place of control characters and of what is not UTF-8.
pub struct Bytes<'a>(pub &'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                formatter.write_char(if character.is_control() { '?' } else { character })?;
            }
            if !chunk.invalid().is_empty() {
                formatter.write_char('?')?;
            }
        }
        Ok(())
    }
}

/// A process: its pid and command name.
pub struct Program(pub u32);

impl fmt::Display for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = [0u8; 32];
        let name = procfs::read_file(procfs::ProcPath::of(self.0, "comm").as_c_str(), &mut name).unwrap_or(b"?");
        write!(formatter, "process {} ({})", self.0, Bytes(name.trim_ascii_end()))
    }
}

/// Logs a line; see [`say`].
#[cold]
pub fn write_line(level: Level, message: fmt::Arguments<'_>) {
    let config = config();
    if level > config.level {
        return;
    }
    // A line that is longer ends where the buffer does.
    let mut line = StackStr::<900>::new();
    let _ = write!(line, "snapshim: {message}");
    line.end_line();
    let line = line.as_bytes();
    match config.log_path {
        Some(path) => {
            if let Ok(file) = open(path) {
                write_unless_origin(file.as_fd(), line);
            }
        }
        None => {
            if let Ok(stderr) = fd_table::stream(2) {
                write_unless_origin(stderr.as_fd(), line);
            }
        }
    }
}

/// Logs, once, the values in the environment that cannot be used.
pub fn report_unusable() {
    static IS_SAID: AtomicBool = AtomicBool::new(false);
    if IS_SAID.swap(true, Ordering::Relaxed) {
        return;
    }
    for problem in config().unusable.iter().flatten() {
        say!(
            Level::Error,
            "{}={} cannot be used; using {} instead",
            problem.name,
            Bytes(problem.value),
            problem.instead
        );
    }
}

/// The shim's own writes pass no gate, so a line must not go to an origin of a snapshot, nor into the middle of a file that took
/// the number of standard error.
fn write_unless_origin(file: rustix::fd::BorrowedFd<'_>, line: &[u8]) {
    let Ok(stat) = rustix::fs::fstat(file) else { return };
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        let appends = rustix::fs::fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::APPEND));
        let at_end = appends || rustix::fs::tell(file).is_ok_and(|position| position >= stat.st_size as u64);
        if !at_end || identity::is_origin_in_use(&stat) {
            return;
        }
    }
    let _ = rustix::io::write(file, line);
}

/// The processes that change files unseen, as the log names them.
pub struct Unseen<'a>(pub &'a Table);

impl core::fmt::Display for Unseen<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let unseen = self.0.unseen();
        match unseen.named().next() {
            Some(who) => Program(who.pid).fmt(formatter)?,
            None => formatter.write_str("some process")?,
        }
        match unseen.named().count() {
            0 | 1 => Ok(()),
            count => write!(formatter, " and {} more", count - 1),
        }
    }
}

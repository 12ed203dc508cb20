//! The log: one line a message, which says what happened, to which file and process, and what to do.
//!
//! A message stands where it is decided, in a [`say`] or, if it holds for all programs of a pipeline alike, in a [`say_once`].
//! `log_line` writes it out, `log_target` says where it goes and keeps it from doing harm there.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use snapshim::sys::escaped::Escaped;
use snapshim::sys::permission;
use syscalls::Sysno;

use super::log_line::{Gist, Line};
use super::{log_target, said};
use crate::base::config::config;
use crate::base::variables;

pub use super::log_line::About;
pub use crate::base::config::Level;

/// Logs a line if its level is wanted. What it is about is named in front of its text: `file = ..., process = ...;`, the process by
/// its pid.
macro_rules! say {
    ($level:expr, $($rest:tt)*) => {
        $crate::process::log::parts!($crate::process::log::write_line, $level, $($rest)*)
    };
}
pub(crate) use say;

/// The same for what is so for as long as the process lives, and is the same in all programs of a pipeline: one of them logs it.
macro_rules! say_once {
    ($level:expr, $($rest:tt)*) => {
        $crate::process::log::parts!($crate::process::log::write_line_once, $level, $($rest)*)
    };
}
pub(crate) use say_once;

/// Takes the arguments of [`say`] apart.
macro_rules! parts {
    ($write:path, $level:expr, file = $file:expr, process = $process:expr; $($format:tt)*) => {
        $write(
            $level,
            $crate::process::log::About { file: Some(&$file), process: Some($process) },
            format_args!($($format)*),
        )
    };
    ($write:path, $level:expr, file = $file:expr; $($format:tt)*) => {
        $write($level, $crate::process::log::About { file: Some(&$file), process: None }, format_args!($($format)*))
    };
    ($write:path, $level:expr, process = $process:expr; $($format:tt)*) => {
        $write($level, $crate::process::log::About { file: None, process: Some($process) }, format_args!($($format)*))
    };
    ($write:path, $level:expr, $($format:tt)*) => {
        $write($level, $crate::process::log::About::default(), format_args!($($format)*))
    };
}
pub(crate) use parts;

/// Bytes of a path or value, in which nothing is left that a terminal obeys.
pub use snapshim::sys::escaped::Escaped as Bytes;

/// A process: its pid and command name.
pub use snapshim::sys::named::Program;

/// Logs a line; see [`say`].
#[cold]
pub fn write_line(level: Level, about: About<'_>, message: fmt::Arguments<'_>) {
    let log = &config().log;
    if level <= log.level && !permission::forbids_any(WRITING) {
        log_target::write(log.path, Line::new(log.format, level, about, message).as_bytes());
    }
}

/// Logs a line that no sibling and not the parent has logged of late; see [`say_once`].
#[cold]
pub fn write_line_once(level: Level, about: About<'_>, message: fmt::Arguments<'_>) {
    if level <= config().log.level && !permission::forbids_any(WRITING) && said::is_news(Gist::of(message)) {
        write_line(level, about, message);
    }
}

/// The calls by which a line is written. A process that a filter keeps from one of them writes none: what it does to a snapshot is
/// said by the snapshot's own process.
const WRITING: &[Sysno] = &[
    Sysno::openat,
    Sysno::fstat,
    Sysno::newfstatat,
    Sysno::fcntl,
    Sysno::lseek,
    Sysno::write,
    Sysno::pwritev2,
    Sysno::sendto,
    Sysno::close,
    Sysno::clock_gettime,
    Sysno::rt_sigprocmask,
    Sysno::rt_sigpending,
    Sysno::rt_sigtimedwait,
];

/// Logs, once, what the environment asks for in vain: values that cannot be used, and names that are no variable's.
pub fn report_unusable() {
    static IS_SAID: AtomicBool = AtomicBool::new(false);
    if IS_SAID.swap(true, Ordering::Relaxed) {
        return;
    }
    for problem in config().unusable.iter().flatten() {
        say_once!(
            Level::Error,
            "{}={} cannot be used; using {} instead",
            problem.name,
            Escaped(problem.value),
            problem.instead
        );
    }
    for name in config().unknown.iter().flatten() {
        match variables::nearest(name) {
            Some(nearest) => say_once!(
                Level::Error,
                "{} is no variable of snapshim's and has no effect; {nearest} is one",
                Escaped(name)
            ),
            None => say_once!(
                Level::Error,
                "{} is no variable of snapshim's and has no effect; the README lists those that have",
                Escaped(name)
            ),
        }
    }
}

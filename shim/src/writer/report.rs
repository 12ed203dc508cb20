//! The messages about a write that was refused, or that broke a snapshot.

use snapshim::preserve::policy::{Failure, Report};
use snapshim::protocol::cause::Cause;
use snapshim::protocol::origin::Origin;
use snapshim::sys::raw;

use crate::interpose::answer::fail;
use crate::process::log::{Level, Program, say};

/// Logs what the core reports.
pub struct LogReporter;

impl Report for LogReporter {
    fn broken(&self, pid: u32, origin: Origin, cause: Cause) {
        say!(
            Level::Warn,
            "{}'s snapshot of {} was broken so that process {} could write: {}; it faults from now on{}",
            Program(pid),
            origin,
            raw::own_pid(),
            cause.in_full(),
            match cause {
                Cause::PagesGone => "",
                _ => ". Set SNAPSHIM_ON_FAILURE=fail-write to let the write fail instead",
            }
        );
    }

    fn unkept(&self, pid: u32, origin: Origin, cause: Cause) {
        say!(
            Level::Warn,
            file = origin, process = pid;
            "{}'s guarded mapping of {} loses what process {} truncates, and raises SIGBUS there: {}",
            Program(pid),
            origin,
            raw::own_pid(),
            cause.in_full()
        );
    }
}

/// Refuses a write: -1 with ENOSPC, and a line in the log.
pub fn refuse(origin: Origin, failure: &Failure) -> isize {
    say!(
        Level::Warn,
        "write of process {} to {} failed (ENOSPC): a page could not be preserved for the snapshot of {}: {}",
        raw::own_pid(),
        origin,
        Program(failure.pid),
        failure.reason.in_full()
    );
    fail(libc::ENOSPC)
}

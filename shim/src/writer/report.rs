//! The messages about a write that was refused, or that broke a snapshot.

use snapshim::preserve::policy::{Failure, Reason, Report};
use snapshim::protocol::origin::Origin;
use snapshim::sys::raw;

use crate::interpose::answer::fail;
use crate::process::log::{Level, Program, say};

/// Logs what the core reports.
pub struct LogReporter;

impl Report for LogReporter {
    fn broken(&self, pid: u32, origin: Origin, reason: Reason) {
        say!(
            Level::Warn,
            "{}'s snapshot of {} was broken so that process {} could write: {}; it faults from now on{}",
            Program(pid),
            origin,
            raw::own_pid(),
            why(reason),
            match reason {
                Reason::ForeignTruncation => "",
                _ => ". Set SNAPSHIM_ON_FAILURE=fail-write to let the write fail instead",
            }
        );
    }

    fn unkept(&self, pid: u32, origin: Origin, reason: Reason) {
        say!(
            Level::Warn,
            file = origin, process = pid;
            "{}'s guarded mapping of {} loses what process {} truncates, and raises SIGBUS there: {}",
            Program(pid),
            origin,
            raw::own_pid(),
            why(reason)
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
        why(failure.reason)
    );
    fail(libc::ENOSPC)
}

/// The reason in words, with what to do.
pub fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::NoAccess => {
            "the kernel refuses access to it and its agent did not answer (is it stopped? SNAPSHIM_PUSH=auto tries both ways)"
        }
        Reason::NoAgent => "only its own agent can move it off the file, and it did not answer (is it stopped?)",
        Reason::NoCopy => {
            "its memory could not be copied (no memory left, or it changed the mapping behind the shim's back)"
        }
        Reason::NoMemory => {
            "its memory cgroup is at its limit, and the kernel would kill it for one page more; raise the limit"
        }
        Reason::Damaged => {
            concat!("the table is damaged; end the programs that use it and remove ", snapshim::table_file_name!())
        }
        Reason::ForeignTruncation => {
            "a program without the shim has truncated the file, and pages of the snapshot are gone with that; run every program \
             that writes it under the shim"
        }
        Reason::MapperBusy => "it was changing its mapping and did not finish (is it stopped?)",
    }
}

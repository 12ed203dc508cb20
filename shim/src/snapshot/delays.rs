//! What keeps a creation waiting, as the log says it: which process, which file, since when.

use core::fmt::{self, Display};
use core::mem::MaybeUninit;

use rustix::fs::{CWD, readlinkat_raw};
use snapshim::cooperate::drain::Straggler;
use snapshim::protocol::delay::Cause;
use snapshim::sys::procfs::ProcPath;
use snapshim::sys::raw;

use crate::process::log::{Bytes, Program};

/// The process that was waited for in vain, and what it does.
pub struct Delaying(pub Straggler);

impl Display for Delaying {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Straggler { pid, delay } = self.0;
        Program(pid).fmt(formatter)?;
        let Some(delay) = delay else { return Ok(()) };
        if delay.thread != 0 {
            write!(formatter, ", thread {},", delay.thread)?;
        }
        match delay.cause {
            Cause::Write(_, u32::MAX) => formatter.write_str(" is in a call that may write the file")?,
            Cause::Write(_, number) => {
                write!(formatter, " is in a write to {}", OpenFile { pid, thread: delay.thread, number })?;
            }
            Cause::Mapping => formatter.write_str(" may have it mapped shared and did not answer")?,
            Cause::DirectWrite => formatter.write_str(" has asynchronous direct writes (io_submit) to it under way")?,
        }
        write!(formatter, ", and holds snapshots back since {} ms", raw::now().saturating_sub(delay.since) / 1_000_000)
    }
}

/// A file that another process has open, by its path.
struct OpenFile {
    pid: u32,
    thread: u32,
    number: u32,
}

impl Display for OpenFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let link = ProcPath::of(self.pid, "task").slash(self.thread).then("/fd").slash(self.number);
        let mut buffer = [MaybeUninit::uninit(); 300];
        match readlinkat_raw(CWD, link.as_c_str(), &mut buffer) {
            Ok((path, _)) => Bytes(path).fmt(formatter),
            Err(_) => write!(formatter, "descriptor {}", self.number),
        }
    }
}

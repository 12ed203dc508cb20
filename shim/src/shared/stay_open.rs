//! Opening the shared mappings for good, in a process in which no store may trap any more.

use snapshim::preserve::policy::Failure;
use snapshim::protocol::cause::Cause;
use snapshim::sys::raw;
use snapshim::sys::signal_block::SignalsBlocked;

use super::fault::open_whole;
use super::list::{self, Entry};
use crate::process::identity::ThisProcess;
use crate::process::log::{Level, Program, say};
use crate::writer::announced::announced;

/// Opens every writable mapping, after what snapshots have of it is preserved. The list is sealed, so nothing arms them again. The
/// result is how many there were.
pub fn open_for_good(own: &ThisProcess) -> u32 {
    let mut count = 0;
    let mut at = 0;
    loop {
        let next = {
            let _signals = SignalsBlocked::new();
            let list = list::read();
            let first = list.entries().iter().rfind(|entry| entry.is_writable() && entry.range.start >= at);
            first.map(|entry| (entry.range.clone(), entry.origin, entry.bytes(&entry.range)))
        };
        let Some((range, origin, bytes)) = next else { return count };
        let is_open = announced(origin, |announced| {
            let made = announced.map_or(Ok(()), |announced| announced.make_way(bytes.clone()));
            if let Err(Failure { pid, .. }) = made {
                own.table.doubt_every_snapshot(Cause::LeftOpen);
                say!(
                    Level::Warn,
                    "all snapshots are doubtful: {}, for the snapshot of {}",
                    Cause::LeftOpen.of(Program(raw::own_pid())),
                    Program(pid)
                );
            }
            let _signals = SignalsBlocked::new();
            let list = list::read();
            let is_same =
                |entry: &Entry| entry.range == range && entry.origin == origin && entry.bytes(&range) == bytes;
            let entry = list.at(range.start).filter(|entry| entry.is_writable() && is_same(entry));
            entry.map(open_whole).is_some()
        });
        if is_open == Ok(false) {
            // Another thread has changed the mapping meanwhile: other bytes are to be preserved.
            continue;
        }
        count += 1;
        at = range.start + 1;
    }
}

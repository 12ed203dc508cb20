//! Tables of other versions of snapshim in the same directory: the processes that use them announce their changes there, not here.
//!
//! One such process makes all snapshots here doubtful, so the table lists it as unseen ([`snapshim::protocol::unseen`]). Such
//! processes are looked for when a table is made, and along with foreign mappings (`origins::foreign_maps`). The search goes
//! through every process, so it is made only where there is another table.

use snapshim::protocol::unseen::Who;
use snapshim::table::{Table, attach};

use super::identity;
use super::log::{Bytes, Level, Program, say};
use crate::base::config::config;
use crate::base::file_mappings::{Backing, each_process, has_shared};

/// The most tables that are looked for.
const MOST: usize = 8;

/// The other tables in the directory. On a tmpfs, where tables lie, /proc/PID/maps names a file as stat(2) does.
pub struct OtherTables([Option<Backing>; MOST]);

impl OtherTables {
    /// Looks for them.
    pub fn find() -> Self {
        let mut found = [None; MOST];
        let mut free = found.iter_mut();
        attach::each_other_table(&identity::table_location(), |device, inode| {
            if let Some(place) = free.next() {
                let device = (rustix::fs::major(device), rustix::fs::minor(device));
                *place = Some(Backing { device, inode });
            }
        });
        Self(found)
    }

    fn are_none(&self) -> bool {
        self.0[0].is_none()
    }

    /// Whether `file` is one of them.
    pub fn include(&self, file: Backing) -> bool {
        self.0.iter().flatten().any(|other| *other == file)
    }

    /// Lists process `pid`, which uses one of them, as unseen. One unseen process is enough: while it lives, nothing here is exact.
    pub fn note_user(&self, table: &Table, pid: u32) {
        if table.unseen().is_up() {
            return;
        }
        table.raise_unseen(Who::of(pid));
        if table.unseen().begin_to_say() {
            say!(
                Level::Error,
                process = pid;
                "{} uses a table of another version of snapshim in {}: neither sees what the other's programs change, so all \
                 snapshots of this version are doubtful while it lives, and those of the other are not to be trusted; restart it",
                Program(pid),
                Bytes(config().directory.to_bytes())
            );
        }
    }
}

/// Looks for users of other tables. The process that makes a table does this once.
pub fn check(table: &Table) {
    let others = OtherTables::find();
    if !others.are_none() {
        each_process(|pid| {
            if has_shared(pid, |file| others.include(file)) {
                others.note_user(table, pid);
            }
        });
    }
}

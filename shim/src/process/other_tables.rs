//! Tables of other versions of snapshim in the same directory: the processes that use them announce their changes there, not here.
//!
//! One such process makes all snapshots here doubtful, so it is said to be unseen ([`snapshim::protocol::unseen`]). It is looked for when a
//! table is made, and as foreign mappings are ([`foreign_maps`](crate::origins::foreign_maps)); only where there is such a table, as that
//! takes a look at every process.

use snapshim::protocol::unseen::Who;
use snapshim::table::{Table, attach};

use super::identity;
use super::log::{Bytes, Level, Program, say};
use crate::base::config::config;
use crate::base::file_mappings::{Backing, each_process, has_shared};

/// Further ones are not looked for.
const MOST: usize = 8;

/// The other tables there are. On a tmpfs, where tables are kept, a mapping's file is called as stat(2) calls it.
pub struct OtherTables([Option<Backing>; MOST]);

impl OtherTables {
    pub fn find() -> Self {
        let mut found = [None; MOST];
        let mut free = found.iter_mut();
        attach::each_other_table(&identity::place(), |device, inode| {
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

    pub fn include(&self, file: Backing) -> bool {
        self.0.iter().flatten().any(|other| *other == file)
    }

    /// Process `pid` uses one of them. One that is known is enough: while it lives, nothing here is exact.
    pub fn note_user(&self, table: &Table, pid: u32) {
        if table.unseen().is_up() {
            return;
        }
        table.raise_unseen(Who::of(pid));
        if table.unseen().begin_to_say() {
            say!(
                Level::Error,
                "{} uses a table of another version of snapshim in {}: neither sees what the other's programs change, so all \
                 snapshots of this version are doubtful while it lives, and those of the other are not to be trusted; restart it",
                Program(pid),
                Bytes(config().directory.to_bytes())
            );
        }
    }
}

/// By who made the table: once for each.
pub fn look(table: &Table) {
    let others = OtherTables::find();
    if !others.are_none() {
        each_process(|pid| {
            if has_shared(pid, |file| others.include(file)) {
                others.note_user(table, pid);
            }
        });
    }
}

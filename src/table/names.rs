//! Names of origins ([`protocol::origin_name`](crate::protocol::origin_name)): one for each home, in memory that a table without
//! snapshots does not have.

use core::ptr;

use rustix::mm::{Advice, madvise};

use super::Table;
use super::room::PageRoom;
use crate::PAGE;
use crate::protocol::origin::Origin;
use crate::protocol::origin_name::{OriginName, Read};
use crate::protocol::place::{BUCKETS, home_of};

const A_PAGE: usize = PAGE as usize / size_of::<OriginName>();
const _: () = assert!(BUCKETS.div_ceil(A_PAGE) <= PageRoom::MOST);

impl Table {
    /// Notes that `origin` is called `name`, which is for people. Without memory for it nothing is noted.
    pub fn note_name(&self, origin: Origin, name: &[u8]) {
        let at = home_of(origin);
        if self.reach_name(at) {
            self.names[at].note(origin, name);
        }
    }

    /// The name by which a snapshot of `origin` was taken last, as far as it is still known.
    #[must_use]
    pub fn name_of(&self, origin: Origin) -> Option<Read> {
        let at = home_of(origin);
        self.header.name_room.has(at / A_PAGE).then(|| self.names[at].read(origin))?
    }

    fn reach_name(&self, at: usize) -> bool {
        let page = at / A_PAGE;
        if self.header.name_room.has(page) {
            return true;
        }
        let address = ptr::from_ref(&self.names[page * A_PAGE]).cast_mut().cast();
        // SAFETY: a whole page of the table's mapping, which lives as long as the process; populating changes no byte.
        let is_had = unsafe { madvise(address, PAGE as usize, Advice::LinuxPopulateWrite) }.is_ok();
        if is_had {
            self.header.name_room.add(page);
        }
        is_had
    }
}

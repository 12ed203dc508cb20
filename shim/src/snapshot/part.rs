//! One snapshot in the making: its record, its mapping, and what is undone if it does not come about.

use core::ffi::c_void;
use core::ops::Range;

use rustix::fd::AsFd;
use rustix::io::Errno;
use snapshim::PAGE;
use snapshim::cooperate::locate::target_of_descriptor;
use snapshim::protocol::cause::Cause;
use snapshim::protocol::limits::SNAPSHOTS;
use snapshim::protocol::origin::{Origin, Target};
use snapshim::protocol::snapshot::{Extent, SnapshotMeta, StateWord};
use snapshim::table;

use super::place::{map, map_live, read_origin};
use super::request::Wanted;
use crate::address_space::lock::Mappings;
use crate::base::config::Short;
use crate::mapper::faults;
use crate::origins::watch;
use crate::process::identity;
use crate::process::log::{Level, say};
use crate::process::thread::Thread;

/// A snapshot that the program has not been told of yet.
#[derive(Clone, Copy)]
pub struct Made {
    pub address: *mut c_void,
    pub pages: u64,
    /// How many of its pages lie within the file.
    pub backed: u64,
    pub index: u32,
    pub incarnation: u32,
}

impl Made {
    pub fn range(&self) -> Range<u64> {
        self.address as u64..self.address as u64 + self.pages * PAGE
    }

    /// Takes the snapshot away again. Writers may be preserving in it at this moment, so it goes as by munmap(2).
    pub fn unmake(&self, mappings: &Mappings) {
        let take = |part: &Range<u64>| {
            // SAFETY: the mapping is the snapshot's own, which the program does not know yet.
            unsafe { rustix::mm::munmap(part.start as *mut c_void, (part.end - part.start) as usize) }
        };
        let _ = mappings.unmap(&self.range(), &take);
    }
}

/// A snapshot in the making, and how far it has come.
#[derive(Clone, Copy)]
pub struct Part {
    pub wanted: Wanted,
    /// A record that is not published.
    record: Option<(u32, StateWord)>,
    /// A mapping that is in no record.
    mapping: Option<(*mut c_void, usize)>,
    /// A snapshot that is published.
    pub made: Option<Made>,
}

impl Part {
    pub const fn new(wanted: Wanted) -> Self {
        Self { wanted, record: None, mapping: None, made: None }
    }

    pub fn origin(&self) -> Origin {
        self.wanted.source.origin
    }

    /// Takes a record for the snapshot, by which writers find its origin in a creation that covers several.
    pub fn claim_record(&mut self, thread: &Thread) -> Result<(), Errno> {
        let (table, origin) = (thread.own.table, self.origin());
        let (index, head) = table.obtain_snapshot(thread.own.owner(), origin).ok_or_else(|| {
            say!(
                Level::Error,
                file = origin;
                "snapshot of {} refused: the table is full ({SNAPSHOTS} segments); end some snapshots",
                origin
            );
            Errno::NFILE
        })?;
        self.record = Some((index, head));
        table.publish_fingerprint(index, origin);
        Ok(())
    }

    /// The instant: maps the file as it is now, and publishes the snapshot.
    pub fn fill(&mut self, thread: &Thread, mappings: &Mappings) -> Result<(), Errno> {
        let Wanted { source, by, ref mmap } = self.wanted;
        let (index, head) = self.record.ok_or(Errno::NFILE)?;
        let (table, origin) = (thread.own.table, source.origin);
        let file = source.file()?;
        let modified = read_origin(file.as_fd(), origin)?;
        let seen = table.observation_at_instant(origin, modified);
        let size = modified.size;
        if by.short() == Short::Refuse && self.wanted.is_short_in(size) {
            return Err(Errno::NXIO);
        }
        let first = mmap.offset as u64 / PAGE;
        let backed = size.div_ceil(PAGE).saturating_sub(first).min(mmap.pages());
        let shown = first..first + backed;
        let address = if by.is_live() {
            map_live(file.as_fd(), mmap, &shown, by.short(), mmap.replaces())
        } else {
            map(file.as_fd(), mmap, size, shown, by.short(), mmap.replaces())
        }?;
        self.mapping = Some((address, mmap.length));
        // Another thread may have put another file under the number since the gate was told of the origin.
        if target_of_descriptor(file.number()) != Target::Origin(origin) {
            return Err(Errno::BADF);
        }
        let extent = Extent { address: address as u64, first, pages: mmap.pages(), protection: mmap.protection as u32 };
        if !identity::own_ranges().add(&(extent.address..extent.end()), index) {
            return Err(Errno::NFILE);
        }
        // The file behind a guarded mapping may grow: it may have any of its pages to keep one day.
        let size = if by.is_live() { (first + mmap.pages()) * PAGE } else { size };
        let meta = SnapshotMeta { origin, owner: thread.own.owner(), size, base: first, mapping: table.next_mapping() };
        if let Some(snapshot) = table.snapshot(index) {
            snapshot.describe(head, &meta, &extent, by.flags());
            snapshot.record_observation(&seen);
            snapshot.publish(head, source.worth);
            mappings.note_published();
            faults::mark(snapshot);
        }
        let incarnation = head.incarnation();
        (self.record, self.mapping) = (None, None);
        self.made = Some(Made { address, pages: mmap.pages(), backed, index, incarnation });
        if !by.is_live() {
            watch::watch(mappings, origin, file.as_fd());
        }
        Ok(())
    }

    /// Makes the snapshot doubtful because of `cause`.
    pub fn doubt(&self, thread: &Thread, cause: Cause) -> bool {
        self.made.is_some_and(|made| table::doubt(thread.own.table, made.index, made.incarnation, cause))
    }

    /// Takes away what there is of the snapshot.
    pub fn undo(&mut self, thread: &Thread, mappings: &Mappings) {
        if let Some(made) = self.made.take() {
            made.unmake(mappings);
        }
        if let Some((address, length)) = self.mapping.take() {
            // SAFETY: the creation made this mapping, and no other code has its address.
            let _ = unsafe { rustix::mm::munmap(address, length) };
        }
        if let Some((index, head)) = self.record.take() {
            thread.own.table.retire_snapshot(index, head.incarnation());
        }
    }
}

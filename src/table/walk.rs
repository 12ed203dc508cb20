//! Walks over the snapshots there are.
//!
//! A mapper that splits a snapshot publishes the new record, counts the split, and only then lets the old record shrink. It may
//! retire the old record next. A walk that has passed the new record before the split, and reaches the old one after it, meets
//! neither, although the pages were in one of them all the time. The count tells: if it did not move beside a walk, the walk meets
//! every snapshot that was there throughout.
//!
//! So nothing is concluded from a single walk. [`Table::over_splits`] and [`Table::find_over_splits`] repeat it. A caller has to
//! ask for a single walk by name ([`Table::walk_once`]), and says why a segment that the walk misses does no harm.

use super::Table;
use crate::protocol::holdings::Places;
use crate::protocol::origin::Origin;
use crate::protocol::process_id::owner_index;
use crate::protocol::snapshot::View;
use crate::sys::sync::Ordering;

/// One look at each record.
#[derive(Clone, Copy)]
pub struct Walk<'a> {
    table: &'a Table,
}

impl core::fmt::Debug for Walk<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Walk").finish_non_exhaustive()
    }
}

impl<'a> Walk<'a> {
    /// The snapshots there are, with their indices.
    pub fn live(self) -> impl Iterator<Item = (u32, View)> + use<'a> {
        let table = self.table;
        table.used_records().filter_map(|index| Some((index, table.view(index)?)))
    }

    pub(super) fn view(self, index: u32) -> Option<View> {
        self.table.view(index)
    }

    /// The snapshots that stand near others of `origin`: all of `origin`, moved ones as well, and perhaps some of others.
    pub fn near(self, origin: Origin) -> impl Iterator<Item = (u32, View)> + use<'a> {
        let table = self.table;
        table.records_near(origin).filter_map(|index| Some((index, table.view(index)?)))
    }

    /// The snapshots of the process that `owner` refers to.
    pub fn owned_by(self, owner: u64) -> impl Iterator<Item = (u32, View)> + use<'a> {
        let table = self.table;
        // What a process that is not in the table any more has left may stand anywhere.
        let process = owner_index(owner).and_then(|index| table.process(index));
        let places = process.map_or(Places::ALL, |process| process.places_of(owner));
        // The look at the whole record is for those that are the owner's.
        let is_theirs = move |index: &u32| table.snapshot(*index).is_some_and(|snapshot| snapshot.is_owned_by(owner));
        let views =
            table.used_records_in(places).filter(is_theirs).filter_map(move |index| Some((index, table.view(index)?)));
        views.filter(move |(_, view)| view.meta.owner == owner)
    }

    /// The snapshots of `origin` that want their pages preserved.
    pub fn of(self, origin: Origin) -> impl Iterator<Item = (u32, View)> + use<'a> {
        let table = self.table;
        self.perhaps_of(origin).filter_map(move |index| {
            let view = table.view(index)?;
            let wanted = view.meta.origin == origin && view.head.wants_pages() && !view.is_relocated();
            wanted.then_some((index, view))
        })
    }

    /// The indices of the snapshots of `origin`, and perhaps of others.
    pub fn perhaps_of(self, origin: Origin) -> impl Iterator<Item = u32> + use<'a> {
        let fingerprint = origin.fingerprint();
        let table = self.table;
        // Acquire: pairs with the Release in `publish_fingerprint`.
        let is_like = move |index: &u32| {
            let word = table.origin_fingerprints.get(*index as usize);
            word.is_some_and(|word| word.load(Ordering::Acquire) == fingerprint)
        };
        table.records_near(origin).filter(is_like)
    }
}

impl Table {
    /// The result of a walk beside which no snapshot was split. What `walk` does to the snapshots that it meets, it may do again.
    pub fn over_splits<T>(&self, mut walk: impl FnMut(Walk<'_>) -> T) -> T {
        let mut result = None;
        self.header.splits.over(|| -> Option<()> {
            result = Some(walk(self.walk_once()));
            None
        });
        match result {
            Some(result) => result,
            // `over` walks at least once.
            None => walk(self.walk_once()),
        }
    }

    /// What a walk finds. `None`: a walk found nothing, and no snapshot was split beside it.
    pub fn find_over_splits<T>(&self, mut walk: impl FnMut(Walk<'_>) -> Option<T>) -> Option<T> {
        self.header.splits.over(|| walk(self.walk_once()))
    }

    /// A single walk: it misses a segment that is split off beside it. The caller says why that does no harm.
    #[must_use]
    pub fn walk_once(&self) -> Walk<'_> {
        Walk { table: self }
    }
}

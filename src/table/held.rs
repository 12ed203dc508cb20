//! Walks over a process's own snapshots, which it finds by its own knowledge of where they lie ([`OwnRanges`]).
//!
//! Beside each range stands a guess in which record its pages are. A guess that is right costs one look, however many snapshots
//! there are. Where it is wrong, the record is searched for among all, and the guess is put right.

use core::ops::Range;

use super::walk::Walk;
use crate::PAGE;
use crate::protocol::own_ranges::OwnRanges;
use crate::protocol::snapshot::View;

impl<'a> Walk<'a> {
    /// The segments of process `owner`, the calling one, that a range of addresses touches, in the order of their addresses.
    ///
    /// A segment that is on its way into the table or out of it may be missed.
    pub fn held_in(
        self,
        owner: u64,
        own_ranges: &'a OwnRanges,
        addresses: &Range<u64>,
    ) -> impl Iterator<Item = (u32, View)> + use<'a> {
        let Range { start: mut at, end } = *addresses;
        let mut place = 0;
        core::iter::from_fn(move || {
            while at < end {
                let held = own_ranges.first_from_near(at, place).filter(|held| held.range.start < end)?;
                place = held.place;
                let here = at.max(held.range.start)..end.min(held.range.end);
                if let Some((index, view)) = self.guessed(held.record, owner, here.start).or_else(|| {
                    let found = self.searched(owner, &here);
                    if let Some((index, view)) = &found {
                        own_ranges.note_record(view.extent.address.max(here.start), *index);
                    }
                    found
                }) {
                    at = view.extent.end().max(here.start + PAGE);
                    return Some((index, view));
                }
                at = here.end;
            }
            None
        })
    }

    fn guessed(self, record: u32, owner: u64, address: u64) -> Option<(u32, View)> {
        let view = self.view(record)?;
        let is_it = view.meta.owner == owner && view.extent.address <= address && address < view.extent.end();
        is_it.then_some((record, view))
    }

    /// The first segment that touches `addresses`.
    fn searched(self, owner: u64, addresses: &Range<u64>) -> Option<(u32, View)> {
        let touching = self
            .owned_by(owner)
            .filter(|(_, view)| view.extent.address < addresses.end && addresses.start < view.extent.end());
        touching.min_by_key(|(_, view)| view.extent.address)
    }
}

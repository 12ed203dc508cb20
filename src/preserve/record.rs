//! Recording that pages are preserved.

use core::ops::Range;

use crate::protocol::snapshot::View;
use crate::table::Table;

/// Records that `pages` (of the origin) of a snapshot are preserved and verified.
pub(super) fn record(table: &Table, index: u32, view: &View, pages: Range<u64>) {
    let Some(snapshot) = table.snapshot(index) else { return };
    let base = view.meta.base;
    let pool = table.blocks_for(index);
    if table.bits(&pool, view).set(pages.start - base..pages.end - base).is_none() {
        snapshot.add_flags(crate::protocol::snapshot::BITS_INCOMPLETE);
    }
}

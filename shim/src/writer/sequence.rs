//! Sequential writers: how many pages are preserved ahead of a thread that writes a file from front to back.
//!
//! A push costs about as much for some pages as for one. A thread that has written in a row goes on for as long again more often
//! than not, so a part of that length is preserved along with what its write needs; the copies are what the snapshot shows, needed
//! or not.

use core::cell::Cell;
use core::ops::Range;

use snapshim::PAGE;
use snapshim::protocol::bytes::AT_ONCE;
use snapshim::protocol::origin::Origin;

/// The bytes that a thread has written in a row.
#[derive(Clone, Copy)]
struct Sequence {
    origin: Option<Origin>,
    /// Where the thread's next write begins if it goes on.
    next: u64,
    length: u64,
}

thread_local! {
    static SEQUENCE: Cell<Sequence> = const { Cell::new(Sequence { origin: None, next: 0, length: 0 }) };
}

/// The pages ahead are a quarter of what was written in a row, and at most so many that they are read and stored in one go with
/// the first page. So much is preserved in vain at the most.
const PART: u64 = 4;
const MOST: u64 = AT_ONCE as u64 - 1;

/// How many pages behind `bytes`, which the calling thread is about to write, are worth preserving along with them.
pub fn pages_ahead(origin: Origin, bytes: &Range<u64>) -> u64 {
    let before = SEQUENCE.get();
    let goes_on = before.origin == Some(origin) && before.next == bytes.start;
    let length = if goes_on { before.length } else { 0 };
    let now = length.saturating_add(bytes.end - bytes.start);
    SEQUENCE.set(Sequence { origin: Some(origin), next: bytes.end, length: now });
    // A long write is preserved in long pushes as it is.
    if bytes.end - bytes.start > MOST * PAGE { 0 } else { (length / PAGE / PART).min(MOST) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Origin = Origin::file(1, 2);

    #[test]
    fn the_longer_the_sequence_the_more_pages_ahead() {
        let write = |page: u64| pages_ahead(FILE, &(page * PAGE..(page + 1) * PAGE));
        let ahead: Vec<u64> = (0..10).map(write).collect();
        assert_eq!(ahead, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]);
        assert_eq!((10..1000).map(write).max(), Some(MOST));
        assert_eq!(pages_ahead(FILE, &(1000 * PAGE..1100 * PAGE)), 0, "much at once");
        assert_eq!(write(5000), 0, "elsewhere");
        assert_eq!(pages_ahead(Origin::file(1, 3), &(5001 * PAGE..5002 * PAGE)), 0, "another file");
    }
}

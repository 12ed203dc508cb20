//! What a call would change of a file.

use snapshim::cooperate::locate::place_behind;
use snapshim::protocol::origin::Place;

/// The bytes of a file that a call would change.
pub trait Touch {
    /// How many at the most.
    fn length(&self) -> u64;
    /// At which offset; `None`: at the descriptor's file position.
    fn offset(&self) -> Option<i64>;
    /// Whether the bytes go to the end of the file, given that the descriptor was opened with O_APPEND or not.
    fn appends(&self, opened_with_append: bool) -> bool {
        opened_with_append
    }
    /// The byte from which on the call takes the file's content away or moves it; `None`: it only replaces bytes.
    fn cuts_from(&self) -> Option<u64> {
        None
    }
    /// Which file it is, if that is known without the descriptor that the call is made with.
    fn known_place(&self) -> Place {
        Place::Unknown
    }
    /// Which file it is, looked up by that descriptor.
    fn place(&self, descriptor: u32) -> Place {
        place_behind(descriptor)
    }
}

/// What the gate is told of a change without a descriptor: its place is known, and it moves no file position.
pub struct Nowhere;

impl Touch for Nowhere {
    fn length(&self) -> u64 {
        0
    }
    fn offset(&self) -> Option<i64> {
        Some(0)
    }
}

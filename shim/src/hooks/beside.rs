//! The ways in for a libc beside ([`beside`](crate::interpose::beside)), as a list.

use super::{OF_FILES, each, mmap};
use crate::interpose::Door;
use crate::interpose::beside::Way;

/// The calls that change files, mappings, or what a descriptor means. Those about processes and signals do not come in there: the
/// bare system call would leave out what libc does around it.
pub fn ways_beside() -> impl Iterator<Item = Way> {
    each(&OF_FILES).map(Door::way).chain(mmap::BESIDE.iter().copied())
}

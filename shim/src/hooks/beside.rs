//! The entry points for a libc beside the program's own ([`beside`](crate::interpose::beside)), as a list.

use super::{OF_FILES, each, mmap};
use crate::interpose::Door;
use crate::interpose::beside::Way;

/// The calls that change files, mappings, or what a descriptor means.
///
/// Calls about processes and signals are left alone there: the hook would go on by the bare system call, and what libc does around
/// it would be lost.
pub fn ways_beside() -> impl Iterator<Item = Way> {
    each(&OF_FILES).map(Door::way).chain(mmap::BESIDE.iter().copied())
}

//! Hooks: one file a family of calls. Each says what its call would touch and hands it over; decisions live in the core.

pub mod change;
pub mod descriptors;
pub mod fork;
pub mod map;
pub mod write;

use crate::doors::Door;

/// Every door there is.
pub fn doors() -> impl Iterator<Item = &'static Door> {
    [write::DOORS, descriptors::DOORS, fork::DOORS].into_iter().flatten().copied()
}

//! Hooks: one file a family of calls. Each says what its call would touch and hands it over; decisions live in the core.

pub mod aio;
pub mod bare;
pub mod change;
pub mod copy;
pub mod descriptors;
pub mod device;
pub mod exec;
pub mod fork;
pub mod map;
pub mod open;
pub mod read;
pub mod receive;
pub mod resize;
pub mod ring;
pub mod write;

use crate::doors::Door;

/// Every door there is.
pub fn doors() -> impl Iterator<Item = &'static Door> {
    [
        write::DOORS,
        read::DOORS,
        receive::DOORS,
        resize::DOORS,
        open::DOORS,
        copy::DOORS,
        device::DOORS,
        bare::DOORS,
        ring::DOORS,
        aio::DOORS,
        descriptors::DOORS,
        fork::DOORS,
        exec::DOORS,
    ]
    .into_iter()
    .flatten()
    .copied()
}

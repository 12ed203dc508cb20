//! Several snapshots at one instant: `snapshim_mapv()` of snapshim.h.

use core::ffi::{c_int, c_void};

use libc::{off64_t, size_t};
use rustix::io::Errno;
use snapshim::protocol::limits::GROUP;

use super::create::{Failure, take};
use super::part::Part;
use super::request::{By, Wanted};
use crate::base::mmap_call::{MAP_SNAPSHOT, Mmap};
use crate::base::scratch::Scratch;

/// `struct snapshim_map` of snapshim.h.
#[repr(C)]
pub struct SnapshimMap {
    fd: c_int,
    prot: c_int,
    offset: off64_t,
    length: size_t,
    addr: *mut c_void,
    flags: c_int,
    error: c_int,
}

impl SnapshimMap {
    fn request(&self) -> Mmap {
        Mmap {
            address: self.addr,
            length: self.length,
            protection: self.prot,
            flags: self.flags | libc::MAP_PRIVATE | MAP_SNAPSHOT,
            descriptor: self.fd,
            offset: self.offset,
        }
    }
}

/// Takes all `maps` at one instant, or none. Each is then told where it lies, or the one that failed is told why.
///
/// Errors: those of [`create`](super::create::create); `EINVAL` (there are none), `E2BIG` (there are more than 16,384), `ENOMEM`.
pub fn map_all(maps: &mut [SnapshimMap]) -> Result<(), Errno> {
    maps.iter_mut().for_each(|map| map.error = 0);
    if maps.is_empty() {
        return Err(Errno::INVAL);
    }
    if maps.len() > GROUP {
        return Err(Errno::TOOBIG);
    }
    let mut parts = Scratch::with_room(maps.len())?;
    let listed = maps.iter().enumerate().try_for_each(|(at, map)| {
        let wanted = Wanted::of(&map.request(), By::Flag).map_err(|error| Failure { error, part: Some(at) })?;
        parts.push(Part::new(wanted));
        Ok(())
    });
    match listed.and_then(|()| take(&mut parts)) {
        Ok(()) => {
            for (map, made) in maps.iter_mut().zip(parts.iter().filter_map(|part| part.made)) {
                map.addr = made.address;
            }
            Ok(())
        }
        Err(failure) => {
            if let Some(map) = failure.part.and_then(|at| maps.get_mut(at)) {
                map.error = failure.error.raw_os_error();
            }
            Err(failure.error)
        }
    }
}

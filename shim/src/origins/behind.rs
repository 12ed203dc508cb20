//! Calls that change a file or device past its page cache: commands to a block device, requests that give a device other bytes
//! while it may answer no read, and calls that put pages into holes.
//!
//! The bytes that they change cannot be preserved first, so the snapshots concerned become doubtful. That is done twice: before the
//! call, so that no snapshot shows its effect while it is called exact, and after the call, for snapshots made meanwhile.

use core::ffi::c_int;

use snapshim::cooperate::locate::target_of_descriptor;
use snapshim::protocol::cause::Cause;
use snapshim::protocol::origin::{Origin, Target};
use snapshim::protocol::snapshot::{State, View};
use snapshim::sys::raw;
use snapshim::table;

use crate::base::sysfs::{self, Device};
use crate::base::user_memory;
use crate::process::identity::ThisProcess;
use crate::process::log::{Level, Program, say};
use crate::process::membership;

/// What a call changes past the page cache.
pub enum Named<'a> {
    /// A block device and what lies on it.
    Device(Origin),
    /// What lies on a block device, but not the device itself.
    Above(Origin),
    /// The block device that a `struct dm_ioctl` of the device mapper names, and what lies on it.
    Mapped(&'a Mapped),
    /// A regular file.
    File(Origin),
    /// Any regular file.
    EveryFile,
    /// Nothing that can be an origin.
    Nothing,
}

impl Named<'_> {
    /// The block device behind a descriptor.
    pub fn descriptor(descriptor: c_int) -> Self {
        block_device(descriptor).map_or(Self::Nothing, Self::Device)
    }

    /// What lies on that device.
    pub fn above(descriptor: c_int) -> Self {
        block_device(descriptor).map_or(Self::Nothing, Self::Above)
    }

    fn concerns(&self, origin: Origin) -> bool {
        match self {
            Self::Device(device) => origin == *device || lies_on(origin, &|below| below == *device),
            Self::Above(device) => lies_on(origin, &|below| below == *device),
            Self::Mapped(mapped) => mapped.is(origin) || lies_on(origin, &|below| mapped.is(below)),
            Self::File(file) => origin == *file,
            Self::EveryFile => !origin.is_block_device(),
            Self::Nothing => false,
        }
    }
}

fn block_device(descriptor: c_int) -> Option<Origin> {
    match target_of_descriptor(descriptor as u32) {
        Target::Origin(origin) if origin.is_block_device() => Some(origin),
        _ => None,
    }
}

/// Whether a block device is a partition of one that `is_wanted`, or built on such a one (device mapper, RAID).
fn lies_on(origin: Origin, is_wanted: &dyn Fn(Origin) -> bool) -> bool {
    // LVM on RAID on partitions: deeper stacks are rare.
    lies_on_within(origin, 4, is_wanted)
}

fn lies_on_within(origin: Origin, depth: u32, is_wanted: &dyn Fn(Origin) -> bool) -> bool {
    if !origin.is_block_device() || depth == 0 {
        return false;
    }
    let directory = Device(origin.device());
    let is_it = |device: u64| {
        let below = Origin::block_device(device);
        is_wanted(below) || lies_on_within(below, depth - 1, is_wanted)
    };
    directory.disk().is_some_and(is_it)
        || sysfs::any_entry(format_args!("{directory}/slaves"), |name| {
            sysfs::device(format_args!("{directory}/slaves/{name}/dev")).is_some_and(is_it)
        })
}

/// The part of `struct dm_ioctl` (linux/dm-ioctl.h) that names a device: by its number, or by a name or a UUID that end with a NUL.
pub struct Mapped {
    device: u64,
    name: [u8; 128],
    uuid: [u8; 129],
}

impl Mapped {
    const DEVICE: u64 = 40;
    const NAME: u64 = 48;
    const UUID: u64 = 176;

    /// The device that the argument at `address` names; `None`: it cannot be read, and the kernel refuses the call.
    pub fn read(address: u64) -> Option<Self> {
        let mut read = Self { device: 0, name: [0; 128], uuid: [0; 129] };
        let device = raw::read_remote_word(raw::own_tid(), address.wrapping_add(Self::DEVICE)).ok()?;
        // The numbers are packed as in new_decode_dev (linux/kdev_t.h).
        let (major, minor) = ((device & 0xf_ff00) >> 8, device & 0xff | device >> 12 & 0xf_ff00);
        read.device = rustix::fs::makedev(major as u32, minor as u32);
        fill(address.wrapping_add(Self::NAME), &mut read.name)?;
        fill(address.wrapping_add(Self::UUID), &mut read.uuid)?;
        Some(read)
    }

    fn is(&self, origin: Origin) -> bool {
        let (name, uuid) = (until_nul(&self.name), until_nul(&self.uuid));
        if name.is_empty() && uuid.is_empty() {
            return origin == Origin::block_device(self.device);
        }
        let directory = Device(origin.device());
        let mut buffer = [0; 160];
        let mut says = |what, wanted: &[u8]| {
            sysfs::read(format_args!("{directory}/dm/{what}"), &mut buffer).is_some_and(|it| it == wanted)
        };
        !name.is_empty() && says("name", name) || !uuid.is_empty() && says("uuid", uuid)
    }
}

/// Fills the buffer from the application's memory.
fn fill(address: u64, buffer: &mut [u8]) -> Option<()> {
    let length = buffer.len() as u64;
    (user_memory::read_own(address, buffer.as_mut_ptr() as u64, length) == length).then_some(())
}

fn until_nul(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or(text)
}

/// Makes `call`, which changes what `named` says past the page cache. `what` names the call in the log.
pub fn changing(what: &str, named: &Named<'_>, call: &dyn Fn() -> c_int) -> c_int {
    if matches!(named, Named::Nothing) {
        return call();
    }
    let Ok(own) = membership::join() else { return call() };
    doubt(&own, what, named);
    let result = call();
    doubt(&own, what, named);
    result
}

fn doubt(own: &ThisProcess, what: &str, named: &Named<'_>) {
    if !own.table.gate().active.is_raised() {
        return;
    }
    own.table.over_splits(|walk| {
        let exact = walk.live().filter(|(_, view)| view.head.state() == State::Exact && !view.is_relocated());
        for (index, view) in exact.filter(|(_, view)| named.concerns(view.meta.origin)) {
            if table::doubt(own.table, index, view.head.incarnation(), Cause::PastTheCache) {
                log_doubtful(own, what, &view);
            }
        }
    });
}

fn log_doubtful(own: &ThisProcess, what: &str, view: &View) {
    let pid = own.table.owner(view.meta.owner).map_or(0, |(_, _, id)| id.pid());
    say!(
        Level::Warn,
        file = view.meta.origin, process = pid;
        "{}'s snapshot of {} is doubtful from now on: {} ({what}); {}",
        Program(pid),
        view.meta.origin,
        Cause::PastTheCache.of(Program(raw::own_pid())),
        Cause::PastTheCache.remedy()
    );
}

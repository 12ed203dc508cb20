//! mlockall(2) and munlockall(2).
//!
//! The kernel refuses to lock what is mapped if the address space is larger than RLIMIT_MEMLOCK allows. The shim's reservation and
//! table are a part of that address space which the program does not know of. Where they make the difference, each mapping of the
//! program's is locked by itself.

use core::ffi::{c_int, c_uint};
use core::ops::Range;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use snapshim::protocol::snapshot::LOCKED;
use snapshim::sys::{permission, procfs, raw};
use snapshim::table::Table;
use syscalls::{Sysno, syscall};

use crate::address_space::lock;
use crate::base::arena;
use crate::process::identity;
use crate::snapshot::request::ADDRESSES;

/// mlockall(2).
pub fn lock_all(flags: c_int) -> Result<(), Errno> {
    let call = || match lock_in_kernel(flags) {
        Err(Errno::NOMEM) if flags & libc::MCL_CURRENT != 0 => lock_each(flags),
        result => result,
    };
    match lock::touching(&lock::EVERYWHERE) {
        Some(mappings) if flags & libc::MCL_CURRENT != 0 => mappings.note(&lock::EVERYWHERE, LOCKED, true, call),
        _ => call(),
    }
}

/// munlockall(2).
pub fn unlock_all() -> Result<(), Errno> {
    // SAFETY: the call has no argument.
    let call = || unsafe { syscall!(Sysno::munlockall) }.map(drop).map_err(raw::errno);
    match lock::touching(&lock::EVERYWHERE) {
        None => call(),
        Some(mappings) => mappings.note(&lock::EVERYWHERE, LOCKED, false, call),
    }
}

fn lock_in_kernel(flags: c_int) -> Result<(), Errno> {
    // SAFETY: the argument is a value.
    unsafe { syscall!(Sysno::mlockall, flags) }.map(drop).map_err(raw::errno)
}

/// Locks what the program has mapped. ENOMEM: that is more than the limit allows.
fn lock_each(flags: c_int) -> Result<(), Errno> {
    const MLOCK_ONFAULT: c_uint = 1;
    if permission::forbids_any(&[Sysno::prlimit64, Sysno::mlock2]) {
        return Err(Errno::NOMEM);
    }
    let limit = getrlimit(Resource::Memlock).current.ok_or(Errno::NOMEM)?;
    let mut total = 0;
    each_mapping(|range| total += range.end - range.start);
    // Nothing: /proc cannot be read.
    if total == 0 || total > limit {
        return Err(Errno::NOMEM);
    }
    let how = if flags & libc::MCL_ONFAULT != 0 { MLOCK_ONFAULT } else { 0 };
    each_mapping(|range| {
        // SAFETY: locking changes no byte. As mlockall(2) does, what cannot be locked is passed over.
        let _ = unsafe { syscall!(Sysno::mlock2, range.start, range.end - range.start, how) };
    });
    if flags & libc::MCL_FUTURE != 0 { lock_in_kernel(flags & !libc::MCL_CURRENT) } else { Ok(()) }
}

/// Calls `each` with what is mapped, but for the shim's reservation and table.
fn each_mapping(mut each: impl FnMut(Range<u64>)) {
    let table = identity::table().map_or(0, |table| core::ptr::from_ref(table) as u64);
    let own = [arena::reservation(), table..table + size_of::<Table>() as u64];
    procfs::each_line(c"/proc/self/maps", |line| {
        if let Some(range) = procfs::mapped_range(line).filter(|range| range.start < ADDRESSES)
            && !own.iter().any(|own| own.contains(&range.start))
        {
            each(range);
        }
    });
}

//! Writable shared mappings of files: stores through them never reach a snapshot.
//!
//! A mapping is put into the [`list`] when it is made. When a snapshot of its file is made, it is *armed* ([`arm`]): the kernel's
//! protection loses PROT_WRITE, and the next store traps ([`open`]): the pages of a chunk are preserved, the chunk is opened, the
//! store runs again. The application's own calls on such mappings come in through [`change`]; what it asked for stands in the list,
//! what the kernel has may be less. Its calls that have the kernel store into such mappings come in through [`store`]; what the
//! kernel may have to store without a call is opened beforehand ([`owners`]).
//!
//! The order: the lock of `mapper`, then the gate, then the list's lock. Nobody who holds the list's lock waits for the gate.

use core::ffi::c_void;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::mm::MprotectFlags;
use snapshim::table::Table;

use super::list::{Entry, List};
use crate::process::identity::{self, Own};

/// What is left of a protection when stores have to trap. Where they are allowed, loads are too (on x86).
pub fn armed(protection: i32) -> i32 {
    if protection & libc::PROT_WRITE == 0 { protection } else { protection & !libc::PROT_WRITE | libc::PROT_READ }
}

/// Gives a part of a mapping the protection that the application set, or that without PROT_WRITE.
pub fn set_protection(entry: &Entry, part: &Range<u64>, is_open: bool) -> Result<(), Errno> {
    let protection = if is_open { entry.protection } else { armed(entry.protection) };
    let flags = MprotectFlags::from_bits_retain(protection as u32);
    // SAFETY: the part lies in a mapping of the application that cannot change while the list is held; PROT_WRITE is only taken
    // away or given back to what had it.
    unsafe { rustix::mm::mprotect(part.start as *mut c_void, (part.end - part.start) as usize, flags) }?;
    if !is_open {
        super::protection::want();
    }
    Ok(())
}

/// Says in the table which origins this process has mapped shared and writable. Called whenever that may have changed.
pub fn describe(own: &Own, list: &List) {
    if let Some(record) = own.record() {
        record.sharing.describe(list.entries().iter().filter(|entry| entry.is_writable()).map(|entry| entry.origin));
    }
}

/// Whether something was armed since the agent looked last.
pub static WANTED: AtomicBool = AtomicBool::new(false);

/// Something was armed: the agent has to look.
pub fn want() {
    // Release: pairs with the Acquire in `open_words`; what was armed before is found there.
    if WANTED.swap(true, Ordering::Release) {
        return;
    }
    if let Some(own) = identity::attached()
        && let Some(record) = own.record()
    {
        record.ring();
    }
}

/// Arms one mapping. Its parts become one mapping of the kernel's again.
pub fn arm_entry(entry: &Entry) -> Result<(), Errno> {
    if !entry.is_writable() {
        return Ok(());
    }
    // The list's lock orders it.
    entry.course.is_open.store(false, Ordering::Relaxed);
    set_protection(entry, &entry.range, false)
}

/// Arms all whose origin a snapshot is held of, so that few mappings of the kernel's are left. The list is held alone.
///
/// Not the others: the kernel may be storing into them.
pub fn arm_again(list: &List, table: &Table) {
    for entry in list.entries().iter().filter(|entry| table.is_origin_in_use(entry.origin)) {
        let _ = arm_entry(entry);
    }
}

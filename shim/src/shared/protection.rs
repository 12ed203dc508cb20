//! The protection of shared mappings: what the kernel has of what the application set.
//!
//! An armed mapping lacks PROT_WRITE, so the next store traps. Opening a part gives it what the application set; arming takes it
//! away again, and joins the parts to one mapping of the kernel's.

use core::ffi::c_void;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::mm::MprotectFlags;
use snapshim::table::Table;

use super::list::{self, Entry, List};
use crate::process::identity::{self, ThisProcess};

/// The protection of a mapping when stores have to trap. Where stores are allowed, x86 allows loads, so PROT_READ is added.
pub fn armed(protection: i32) -> i32 {
    if protection & libc::PROT_WRITE == 0 { protection } else { protection & !libc::PROT_WRITE | libc::PROT_READ }
}

/// How often a part of a mapping has been armed.
static ARMINGS: AtomicU32 = AtomicU32::new(0);

/// How often a part of a mapping has been armed so far. If that has not changed since before a call, the kernel found what was open
/// then open all the time. Acquire: pairs with the AcqRel in `note_arming`.
pub fn armings() -> u32 {
    ARMINGS.load(Ordering::Acquire)
}

/// Counts an arming, before the protection changes.
pub fn note_arming() {
    ARMINGS.fetch_add(1, Ordering::AcqRel);
}

/// Opens a part of a mapping, which gives it the protection that the application set, or arms it.
pub fn set_protection(entry: &Entry, part: &Range<u64>, is_open: bool) -> Result<(), Errno> {
    let protection = if is_open { entry.protection } else { armed(entry.protection) };
    let flags = MprotectFlags::from_bits_retain(protection as u32);
    if !is_open {
        note_arming();
    }
    // SAFETY: the part lies in a mapping of the application that cannot change while the list is held; PROT_WRITE is only taken
    // away or given back to what had it.
    unsafe { rustix::mm::mprotect(part.start as *mut c_void, (part.end - part.start) as usize, flags) }?;
    if !is_open {
        request_scan();
    }
    Ok(())
}

/// Describes in the table which origins this process has mapped shared and writable. To be called whenever that may have changed.
pub fn describe(own: &ThisProcess, list: &List) {
    if let Some(record) = own.record() {
        record.sharing.describe_counted(list.counts());
    }
}

/// Whether a mapping was armed since the agent last searched for words that the kernel may have to mark.
pub static IS_SCAN_REQUESTED: AtomicBool = AtomicBool::new(false);

/// Asks the agent for that search: a mapping was armed.
pub fn request_scan() {
    // Release: pairs with the Acquire in `open_lock_words`; the search finds what was armed before.
    if IS_SCAN_REQUESTED.swap(true, Ordering::Release) {
        return;
    }
    if let Some(own) = identity::attached()
        && let Some(record) = own.record()
    {
        record.ring();
    }
}

/// Arms a mapping. Its parts become one mapping of the kernel's again.
pub fn arm_entry(entry: &Entry) -> Result<(), Errno> {
    if !entry.is_writable() {
        return Ok(());
    }
    // Relaxed: the list's lock orders it.
    entry.history.is_open.store(false, Ordering::Relaxed);
    set_protection(entry, &entry.range, false)
}

/// Arms all mappings of whose origin a snapshot exists, so that few mappings of the kernel's are left. The list is held to write.
///
/// Mappings of other origins stay open: the kernel may be storing into them. So do those of a process that is about to be
/// confined.
pub fn arm_again(list: &List, table: &Table) {
    if list::is_sealed() {
        return;
    }
    for entry in list.entries().iter().filter(|entry| table.is_origin_in_use(entry.origin)) {
        let _ = arm_entry(entry);
    }
}

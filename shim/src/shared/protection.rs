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

use libc::pid_t;
use rustix::io::Errno;
use rustix::mm::MprotectFlags;
use snapshim::table::Table;

use super::list::{Entry, List};
use crate::agent::run;
use crate::process::identity::{self, Own};
use crate::process::log::{Level, Named, say};
use crate::process::membership;
use crate::signals;
use crate::writer::enter::{Announced, announced};

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

/// The process takes no part any more: its mappings are the kernel's and the program's alone.
pub fn give_up() {
    let mut list = super::list::write();
    for entry in list.entries().iter().filter(|entry| entry.is_writable()) {
        let _ = super::fault::open_whole(entry);
    }
    list.clear();
}

/// fork(2): the child gets the mappings and the list as they are between two changes. Signals are blocked.
pub fn fork(real: &dyn Fn() -> pid_t) -> pid_t {
    let mut list = super::list::write();
    let pid = real();
    if pid == 0 {
        list.keep_inherited();
    }
    pid
}

/// In a forked child, before it can store: makes its mappings known, and arms those whose file somebody has a snapshot of by now.
///
/// A creation that did not know of the child has come to its instant by then, and the child has stored nothing since.
pub fn join_in_child() {
    // Behind a call, so that the list is not held while it is armed.
    let origin_of = |at: usize| super::list::read().entries().get(at).map(|entry| entry.origin);
    let mut at = 0;
    while let Some(origin) = origin_of(at) {
        let Ok(own) = membership::join() else { return };
        run::start(&own);
        let arm = |announced: Option<&Announced<'_>>| {
            describe(&own, &super::list::read());
            let is_armed = !announced.is_some_and(Announced::is_in_use)
                || signals::install() && super::arm::arm(snapshim::creation::Scope::One(origin), || true).is_ok();
            if !is_armed {
                say!(
                    Level::Error,
                    "process {} was forked with a shared mapping of {} that cannot be armed: its stores are NOT held back from others' \
                     snapshots; raise vm.max_map_count",
                    snapshim::raw::own_pid(),
                    Named(origin)
                );
            }
        };
        let _ = announced(origin, arm);
        at += 1;
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

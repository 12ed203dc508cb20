//! Where descriptors led when the process was confined: for a process that may not ask the kernel any more.
//!
//! What is remembered of a number counts as long as the process has not counted a change of it ([`Process::descriptors`]). Of a
//! number that was free nothing is remembered: it is taken without being counted.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering, fence};

use crate::protocol::origin::{AtomicTarget, Target};
use crate::protocol::process::Process;
use crate::sys::procfs::{self, ProcPath};
use crate::sys::rare::Rare;
use crate::sys::raw;

/// Numbers from this one on are not remembered.
const NUMBERS: usize = 1024;

struct Remembered {
    target: AtomicTarget,
    /// The count of changes when the kernel was asked.
    seen: AtomicU32,
}

#[unsafe(link_section = ".bss.rare")]
static REMEMBERED: Rare<[Remembered; NUMBERS]> =
    Rare([const { Remembered { target: AtomicTarget::new(), seen: AtomicU32::new(0) } }; NUMBERS]);
/// The record of the process that was confined; null: nothing is remembered.
static RECORD: AtomicPtr<Process> = AtomicPtr::new(ptr::null_mut());

/// Asks for each descriptor that is open, by `ask`, where it leads. `record` is the calling process's.
pub fn remember(record: &'static Process, ask: impl Fn(u32) -> Target) {
    let mut highest = None;
    procfs::any_number(ProcPath::thread_self("fd").as_c_str(), |number| {
        highest = highest.max(Some(number as usize));
        false
    });
    // Without /proc each number is tried. One that is free by now is free for the program: the directory was open at one.
    for (number, place) in REMEMBERED.iter().enumerate().take(highest.map_or(NUMBERS, |highest| highest + 1)) {
        let seen = record.descriptors(number as u32);
        let is_open = rustix::io::fcntl_getfd(raw::borrow(number as u32)).is_ok();
        place.target.store(if is_open { ask(number as u32) } else { Target::Unknown });
        place.seen.store(seen, Ordering::Relaxed);
    }
    // Release: pairs with the Acquire in `target`.
    RECORD.store(ptr::from_ref(record).cast_mut(), Ordering::Release);
}

/// Forgets everything, in a forked child: its descriptors are its own.
pub fn forget() {
    RECORD.store(ptr::null_mut(), Ordering::Release);
}

/// Where `descriptor` leads, as far as that is remembered.
pub fn target(descriptor: u32) -> Target {
    // Acquire: pairs with the Release in `remember`.
    let record = RECORD.load(Ordering::Acquire);
    let Some(place) = REMEMBERED.get(descriptor as usize).filter(|_| !record.is_null()) else { return Target::Unknown };
    let target = place.target.load();
    fence(Ordering::Acquire);
    // SAFETY: the record of a process that is attached stays mapped.
    let now = unsafe { &*record }.descriptors(descriptor);
    if now == place.seen.load(Ordering::Relaxed) { target } else { Target::Unknown }
}

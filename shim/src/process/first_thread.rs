//! The word by which the kernel says that the first thread has ended.
//!
//! glibc has the kernel clear the thread's id in the thread's descriptor, and wake the futex there, when the thread ends
//! (set_tid_address(2)): that is what pthread_join(3) waits for. The agent waits for it as well, to find out that it is alone.

use core::sync::atomic::{AtomicU64, Ordering};

use snapshim::sys::raw;

/// The address of that word; 0: not known.
static WORD: AtomicU64 = AtomicU64::new(0);

/// Where in the thread's descriptor the id may stand. glibc has it behind the 704 bytes that the processor's ABI fixes
/// (nptl/descr.h).
const PLACES: core::ops::Range<u64> = 704..1024;

/// Looks for the word of the calling thread, if it is the first of its process. The constructor does that, and a forked child.
pub fn note() {
    let pid = raw::own_pid();
    let descriptor: u64;
    // SAFETY: on x86-64 the first word of a thread's descriptor is the descriptor's address (the psABI's variant II).
    unsafe { core::arch::asm!("mov {}, fs:0", out(reg) descriptor, options(nostack, readonly, preserves_flags)) };
    let has_id = |at: &u64| {
        // SAFETY: glibc's descriptor is longer than the range.
        descriptor != 0 && unsafe { core::ptr::with_exposed_provenance::<u32>(*at as usize).read() } == pid
    };
    let found =
        PLACES.step_by(size_of::<u32>()).map(|at| descriptor + at).find(has_id).filter(|_| raw::own_tid() == pid);
    // Relaxed: a thread that is started later reads it.
    WORD.store(found.unwrap_or(0), Ordering::Relaxed);
}

/// The address of the word; `None`: not known.
pub fn word() -> Option<u64> {
    Some(WORD.load(Ordering::Relaxed)).filter(|word| *word != 0)
}

//! Sleeping on words of the table: futex(2), shared between processes.

#[cfg(not(loom))]
use core::time::Duration;

#[cfg(not(loom))]
use rustix::thread::futex;

use super::sync::AtomicU32;
#[cfg(not(loom))]
use super::sync::AtomicU64;

/// The low half of a 64-bit word, to wait on.
#[cfg(not(loom))]
pub fn low_half(word: &AtomicU64) -> &AtomicU32 {
    const { assert!(cfg!(target_endian = "little")) };
    // SAFETY: an AtomicU64 is 8 bytes of atomically accessed memory; on little-endian its first four are the low half.
    unsafe { &*core::ptr::from_ref(word).cast::<AtomicU32>() }
}

/// Waits while `word` is `seen`: until a wake, a signal, or `at_most` has passed (futex(2) FUTEX_WAIT, shared between processes).
#[cfg(not(loom))]
pub fn wait(word: &AtomicU32, seen: u32, at_most: Duration) {
    let timeout = futex::Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
    let _ = futex::wait(word, futex::Flags::empty(), seen, Some(&timeout));
}

/// Wakes every thread that waits on `word`. In a model no thread sleeps.
pub fn wake(word: &AtomicU32) {
    #[cfg(not(loom))]
    let _ = futex::wake(word, futex::Flags::empty(), i32::MAX as u32);
    #[cfg(loom)]
    let _ = word;
}

//! Clocks and start times as the initial time namespace has them (time_namespaces(7)), whatever namespace the process is in.
//!
//! [`time_space`](super::time_space) finds out by how much this process's clocks differ; here the difference is applied.

use core::sync::atomic::{AtomicI64, Ordering};

/// By how many nanoseconds the clocks of this process are ahead of the initial namespace's.
static MONOTONIC: AtomicI64 = AtomicI64::new(0);
static SINCE_BOOT: AtomicI64 = AtomicI64::new(0);

/// CLOCK_MONOTONIC of the initial namespace, from `own`, which this process's clock says.
#[inline]
pub(crate) fn monotonic(own: u64) -> u64 {
    // Relaxed: the offset changes only while the process has one thread, or none that has asked for the time.
    own.wrapping_add_signed(MONOTONIC.load(Ordering::Relaxed).wrapping_neg())
}

/// CLOCK_BOOTTIME of the initial namespace, likewise.
#[inline]
pub(crate) fn boot(own: u64) -> u64 {
    // Relaxed: as above.
    own.wrapping_add_signed(SINCE_BOOT.load(Ordering::Relaxed).wrapping_neg())
}

/// A clock tick (proc_pid_stat(5): USER_HZ, 100 on x86), nanoseconds.
const TICK: i64 = 10_000_000;

/// When a process started, in ticks after boot, from `own`, which /proc/PID/stat says to this process. Where the offset of the
/// namespace is no whole number of ticks, the result may be one tick too late.
pub(crate) fn start(own: u64) -> u64 {
    own.wrapping_add_signed(SINCE_BOOT.load(Ordering::Relaxed).div_euclid(TICK).wrapping_neg())
}

/// Sets by how many nanoseconds the clocks of this process are ahead of the initial namespace's.
pub(crate) fn set_ahead(monotonic: i64, since_boot: i64) {
    MONOTONIC.store(monotonic, Ordering::Relaxed);
    SINCE_BOOT.store(since_boot, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_initial_namespace_nothing_is_translated() {
        assert_eq!((monotonic(7), start(7)), (7, 7));
    }
}

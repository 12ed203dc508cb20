//! Sleeping on words of the table: futex(2), shared between processes.

#[cfg(not(loom))]
use core::time::Duration;

#[cfg(not(loom))]
use rustix::thread::futex;
#[cfg(not(loom))]
use syscalls::Sysno;

use super::sync::AtomicU32;
#[cfg(not(loom))]
use super::sync::AtomicU64;
#[cfg(not(loom))]
use super::{permission, raw};

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
    if permission::forbids(Sysno::futex) {
        return raw::spin(at_most.min(Duration::from_micros(50)));
    }
    let timeout = futex::Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
    let _ = futex::wait(word, futex::Flags::empty(), seen, Some(&timeout));
}

/// What ended a wait on two words.
#[cfg(not(loom))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The first word, the time, a signal: nothing is known of the second word.
    Other,
    /// The second word was woken, or one of the two had another value, or the second is not mapped.
    PerhapsSecond,
    /// The kernel cannot wait on two words.
    Unsupported,
}

/// The same on two words, of which the second is given by its address: futex_waitv(2), Linux 5.16.
///
/// A wake of the second that comes while this ends for another reason is reported all the same (futex_unqueue_multiple,
/// kernel/futex/waitwake.c), so that it can be passed on.
#[cfg(not(loom))]
pub fn wait_on_two((first, seen): (&AtomicU32, u32), (second, expected): (u64, u32), at_most: Duration) -> Woken {
    use syscalls::{Errno, syscall};
    /// FUTEX2_SIZE_U32, shared between processes.
    const WORD: u64 = 2;
    /// CLOCK_MONOTONIC.
    const MONOTONIC: u32 = 1;
    if permission::forbids(Sysno::futex_waitv) {
        return Woken::Unsupported;
    }
    let first = core::ptr::from_ref(first) as u64;
    let words = [[u64::from(seen), first, WORD], [u64::from(expected), second, WORD]];
    let until = raw::now().saturating_add(at_most.as_nanos() as u64);
    let until = [until / 1_000_000_000, until % 1_000_000_000];
    // SAFETY: two words in the layout of `struct futex_waitv` (linux/futex.h); the kernel checks their addresses.
    let result = unsafe { syscall!(Sysno::futex_waitv, words.as_ptr(), words.len(), 0, until.as_ptr(), MONOTONIC) };
    match result {
        Ok(1) | Err(Errno::EAGAIN | Errno::EFAULT) => Woken::PerhapsSecond,
        Ok(_) | Err(Errno::ETIMEDOUT | Errno::EINTR) => Woken::Other,
        Err(_) => Woken::Unsupported,
    }
}

/// Wakes every thread that waits on the word at `address`, if it is one.
#[cfg(not(loom))]
pub fn wake_at(address: u64) {
    use syscalls::syscall;
    /// FUTEX_WAKE, shared between processes.
    const WAKE: u32 = 1;
    if permission::forbids(Sysno::futex) {
        return;
    }
    // SAFETY: the kernel looks the address up, and touches nothing there.
    let _ = unsafe { syscall!(Sysno::futex, address, WAKE, i32::MAX) };
}

/// Wakes every thread that waits on `word`. In a model no thread sleeps. Where the caller may not wake, those that wait find out
/// themselves: no wait is without a limit.
pub fn wake(word: &AtomicU32) {
    #[cfg(not(loom))]
    if permission::forbids(Sysno::futex) {
        return;
    }
    #[cfg(not(loom))]
    let _ = futex::wake(word, futex::Flags::empty(), i32::MAX as u32);
    #[cfg(loom)]
    let _ = word;
}

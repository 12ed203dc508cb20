//! Loads and stores at addresses that the application passed, as the kernel does them: EFAULT where there is nothing.
//!
//! Each is one instruction whose address is known. If it faults, and the fault is not one that is resolved, the handler goes on at
//! `failed` ([`recovers`]).

use core::arch::global_asm;

use rustix::io::Errno;

global_asm!(
    ".pushsection .text.snapshim_guarded,\"ax\",@progbits",
    ".hidden snapshim_guarded_load",
    ".globl snapshim_guarded_load",
    "snapshim_guarded_load:",
    "mov rax, [rdi]",
    "mov [rsi], rax",
    "xor eax, eax",
    "ret",
    ".hidden snapshim_guarded_store",
    ".globl snapshim_guarded_store",
    "snapshim_guarded_store:",
    "mov [rdi], rsi",
    "xor eax, eax",
    "ret",
    ".hidden snapshim_guarded_failed",
    ".globl snapshim_guarded_failed",
    "snapshim_guarded_failed:",
    "mov eax, 14",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    fn snapshim_guarded_load(from: *const u64, to: *mut u64) -> i32;
    fn snapshim_guarded_store(to: *mut u64, value: u64) -> i32;
    fn snapshim_guarded_failed();
}

/// The word at `from`, which need not be aligned.
pub fn load(from: *const u64) -> Result<u64, Errno> {
    let mut word = 0;
    // SAFETY: the load is guarded; `word` is writable.
    answer(unsafe { snapshim_guarded_load(from, &raw mut word) }).map(|()| word)
}

/// Stores a word at `to`, which need not be aligned.
pub fn store(to: *mut u64, value: u64) -> Result<(), Errno> {
    // SAFETY: the store is guarded; that nothing else of the program is there is the application's promise.
    answer(unsafe { snapshim_guarded_store(to, value) })
}

fn answer(errno: i32) -> Result<(), Errno> {
    if errno == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(errno)) }
}

/// Where to go on if the instruction at `place` faulted.
pub fn recovers(place: u64) -> Option<u64> {
    let guarded = [snapshim_guarded_load as *const () as u64, snapshim_guarded_store as *const () as u64];
    guarded.contains(&place).then_some(snapshim_guarded_failed as *const () as u64)
}

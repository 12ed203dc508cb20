//! Loads and stores at addresses that the application passed, with the kernel's answer where nothing is mapped: EFAULT.
//!
//! Each is one instruction whose address is known. If it faults, and the fault cannot be resolved, the handler goes on at
//! `snapshim_guarded_failed` ([`recovers`]).

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

/// Loads the word at `from`, which need not be aligned.
pub fn load(from: *const u64) -> Result<u64, Errno> {
    let mut word = 0;
    // SAFETY: the load is guarded; `word` is writable.
    answer(unsafe { snapshim_guarded_load(from, &raw mut word) }).map(|()| word)
}

/// Stores a word at `to`, which need not be aligned.
pub fn store(to: *mut u64, value: u64) -> Result<(), Errno> {
    // SAFETY: the store is guarded; the application passed the address to be stored to.
    answer(unsafe { snapshim_guarded_store(to, value) })
}

fn answer(errno: i32) -> Result<(), Errno> {
    if errno == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(errno)) }
}

/// The instruction to go on at if the one at `place` faulted; `None`: that is not guarded.
pub fn recovers(place: u64) -> Option<u64> {
    let guarded = [snapshim_guarded_load as *const () as u64, snapshim_guarded_store as *const () as u64];
    guarded.contains(&place).then_some(snapshim_guarded_failed as *const () as u64)
}

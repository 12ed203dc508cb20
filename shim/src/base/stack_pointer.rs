//! Where the calling thread is on its stack.

/// The stack pointer, near enough: an address below the caller's frame and above those of the functions that it calls.
#[inline(always)]
pub fn stack_pointer() -> u64 {
    let marker = 0u8;
    core::ptr::from_ref(core::hint::black_box(&marker)) as u64
}

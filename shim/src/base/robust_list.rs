//! Robust lists: the locks of a thread that the kernel marks when the thread ends (get_robust_list(2)).

use syscalls::{Sysno, syscall};

/// `struct robust_list_head` (linux/futex.h): libc's for a thread, or one that the program made itself.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct RobustListHead {
    pub first: u64,
    /// The distance from an entry to its futex word.
    pub offset: u64,
    /// The entry that is being taken or released.
    pub pending: u64,
}

impl RobustListHead {
    /// The address of the head of thread `tid`, 0 for the calling one; `None` if the thread has no such list.
    ///
    /// A program may have named an address where nothing is.
    pub fn of_thread(tid: u32) -> Option<u64> {
        let (mut head, mut size) = (0u64, 0usize);
        // SAFETY: both results are writable.
        let found = unsafe { syscall!(Sysno::get_robust_list, tid, &raw mut head, &raw mut size) };
        (found.is_ok() && head != 0 && size == size_of::<Self>()).then_some(head)
    }
}

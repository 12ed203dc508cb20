//! Spare buffers: bounce buffers that stay mapped, for calls that have the kernel store a little into one place of a snapshot.
//!
//! To map memory for such a call and to unmap it takes dozens of times as long as the call. A spare buffer belongs to the one call
//! that has set its bit: a call of a thread, of a handler that interrupts it, or of a child in the same memory. A forked child has
//! copies of the buffers and of the bits, so a call in which a handler forked ends in both processes with a buffer each. A buffer
//! is lost with a call that is left by pthread_cancel(3) or longjmp(3), and, in a forked child, with a call that another thread
//! was in. When no buffer is left, calls map memory.

use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use snapshim::PAGE;
use snapshim::sys::signal_block::SignalsBlocked;

use super::{bounce, list};
use crate::address_space::lock;
use crate::base::arena;

/// The most bytes that are stored into one.
pub const LENGTH: u64 = 64 << 10;
const COUNT: usize = 8;

/// A bit for each buffer: whether a call has it.
static TAKEN: AtomicU32 = AtomicU32::new(0);
/// The memory of each buffer, once it has been needed.
static MEMORY: [AtomicPtr<u8>; COUNT] = [const { AtomicPtr::new(ptr::null_mut()) }; COUNT];

/// A buffer that a call has.
pub struct Spare {
    index: usize,
    /// Where the kernel is to store: at the same offset within a page as `user`, so that a buffer aligned for O_DIRECT stays so.
    at: *mut u8,
    user: Range<u64>,
}

impl Spare {
    /// A buffer for a call that has the kernel store into `user`, if all of that lies in a snapshot and can be accessed. `None`:
    /// the call is to be made in another way.
    pub fn take(user: &Range<u64>) -> Option<Self> {
        let is_in_snapshot = !list::may_touch(user) && lock::may_move_whole(user);
        if is_in_snapshot { Self::take_within(user) } else { None }
    }

    /// The same for a piece of a longer buffer, which may lie in a shared mapping as well.
    pub fn take_for_piece(user: &Range<u64>) -> Option<Self> {
        let is_in_one = if list::may_touch(user) { is_in_one_mapping(user) } else { lock::may_move_whole(user) };
        if is_in_one { Self::take_within(user) } else { None }
    }

    fn take_within(user: &Range<u64>) -> Option<Self> {
        let length = user.end.checked_sub(user.start)?;
        if length == 0 || length > LENGTH {
            return None;
        }
        // A program without the shim may have truncated the file. The kernel answers EFAULT then, where a store would be SIGBUS.
        if !bounce::is_there(user.end - 1) {
            return None;
        }
        let index = take_bit()?;
        match memory(index) {
            Some(memory) => {
                Some(Self { index, at: memory.wrapping_add((user.start % PAGE) as usize), user: user.clone() })
            }
            None => {
                give_back(index);
                None
            }
        }
    }

    /// The address that the kernel gets.
    pub fn at(&self) -> *mut u8 {
        self.at
    }

    /// Ends the call: copies the bytes that its result counts to the user buffer, and returns the result.
    pub fn finish(self, result: isize) -> isize {
        if let Ok(received) = usize::try_from(result) {
            let length = (self.user.end - self.user.start) as usize;
            // SAFETY: the spare buffer is the shim's own memory; the application passed the user buffer to be stored into.
            unsafe {
                let user = ptr::with_exposed_provenance_mut(self.user.start as usize);
                ptr::copy_nonoverlapping::<u8>(self.at, user, received.min(length));
            }
        }
        give_back(self.index);
        result
    }
}

/// Whether all of a range lies in one shared mapping that the application may store into.
fn is_in_one_mapping(user: &Range<u64>) -> bool {
    let _signals = SignalsBlocked::new();
    list::read().at(user.start).is_some_and(|entry| entry.is_writable() && user.end <= entry.range.end)
}

fn take_bit() -> Option<usize> {
    let mut taken = TAKEN.load(Ordering::Relaxed);
    loop {
        let index = taken.trailing_ones() as usize;
        if index >= COUNT {
            return None;
        }
        // Acquire: pairs with the Release in `give_back`: the call before has copied what it got.
        match TAKEN.compare_exchange_weak(taken, taken | 1 << index, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return Some(index),
            Err(now) => taken = now,
        }
    }
}

fn give_back(index: usize) {
    // Release: pairs with the Acquire in `take_bit`.
    TAKEN.fetch_and(!(1 << index), Ordering::Release);
}

/// The memory of a buffer that the caller has taken. Relaxed: the buffer's bit orders the callers, one after the other.
fn memory(index: usize) -> Option<*mut u8> {
    let known = MEMORY[index].load(Ordering::Relaxed);
    if !known.is_null() {
        return Some(known);
    }
    let made = arena::memory((LENGTH + PAGE) as usize)?.cast();
    MEMORY[index].store(made, Ordering::Relaxed);
    Some(made)
}

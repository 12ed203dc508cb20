//! Spare buffers: memory aside that is kept, for calls that have the kernel store a little into one place of a snapshot.
//!
//! Mapping memory for such a call and unmapping it takes dozens of times as long as the call. A spare buffer belongs to the one call
//! that has set its bit, be it of a thread, of a handler that interrupts it, or of a child in the same memory. A forked child has
//! copies of the buffers and of the bits: a call that a handler forked in ends in both processes, each with its own. A call that is
//! left by pthread_cancel(3) or longjmp(3), or that another thread was in when a child was forked, takes its buffer along; when none is
//! left, calls map memory as others do.

use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use snapshim::PAGE;

use super::{bounce, list};
use crate::address_space::lock;
use crate::base::arena;

/// The most that is stored into one.
const LENGTH: usize = 64 << 10;
const COUNT: usize = 8;

/// A bit for each: whether a call has it.
static TAKEN: AtomicU32 = AtomicU32::new(0);
/// Their memory, once one has been needed.
static MEMORY: [AtomicPtr<u8>; COUNT] = [const { AtomicPtr::new(ptr::null_mut()) }; COUNT];

/// A buffer that a call has.
pub struct Spare {
    index: usize,
    /// At the place within a page that `home` has: what is aligned for O_DIRECT stays so.
    at: *mut u8,
    home: Range<u64>,
}

impl Spare {
    /// For a call that has the kernel store into `home`, where that lies in a snapshot, and all of it is there. `None`: it is to be
    /// done in another way.
    pub fn take(home: &Range<u64>) -> Option<Self> {
        let length = home.end.checked_sub(home.start)?;
        if length == 0 || length > LENGTH as u64 || list::may_touch(home) || !lock::may_move_whole(home) {
            return None;
        }
        // A program without the shim may have cut the file: the kernel finds that, where a store of ours would be SIGBUS.
        if !bounce::is_there(home.end - 1) {
            return None;
        }
        let index = take_bit()?;
        match memory(index) {
            Some(memory) => {
                Some(Self { index, at: memory.wrapping_add((home.start % PAGE) as usize), home: home.clone() })
            }
            None => {
                give_back(index);
                None
            }
        }
    }

    /// Where the kernel is to store.
    pub fn at(&self) -> *mut u8 {
        self.at
    }

    /// The call is over: its result, the bytes that it counts where they belong.
    pub fn finish(self, result: isize) -> isize {
        if let Ok(received) = usize::try_from(result) {
            let length = (self.home.end - self.home.start) as usize;
            // SAFETY: the bytes aside are ours; the application gave the others to be stored into.
            unsafe {
                let home = ptr::with_exposed_provenance_mut(self.home.start as usize);
                ptr::copy_nonoverlapping::<u8>(self.at, home, received.min(length));
            }
        }
        give_back(self.index);
        result
    }
}

fn take_bit() -> Option<usize> {
    let mut taken = TAKEN.load(Ordering::Relaxed);
    loop {
        let index = taken.trailing_ones() as usize;
        if index >= COUNT {
            return None;
        }
        // Acquire: pairs with the Release in `give_back`: the call before has read what it got.
        match TAKEN.compare_exchange_weak(taken, taken | 1 << index, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return Some(index),
            Err(now) => taken = now,
        }
    }
}

fn give_back(index: usize) {
    TAKEN.fetch_and(!(1 << index), Ordering::Release);
}

/// The memory of a buffer that the caller has taken; the bit orders what its callers do one after the other.
fn memory(index: usize) -> Option<*mut u8> {
    let known = MEMORY[index].load(Ordering::Relaxed);
    if !known.is_null() {
        return Some(known);
    }
    let made = arena::memory(LENGTH + PAGE as usize)?.cast();
    MEMORY[index].store(made, Ordering::Relaxed);
    Some(made)
}

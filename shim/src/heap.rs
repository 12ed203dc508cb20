//! The shim's own heap, for what Rust's library and the crate `detour` allocate in the constructor: the program's malloc is the program's.
//! Leak checkers, and programs that count what they allocate, would find ours there.
//!
//! Blocks are powers of two; one that is freed waits for the next of its size. The hook path allocates nothing.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use snapshim::PAGE;

use crate::arena;

#[global_allocator]
static HEAP: Heap = Heap { taken: AtomicBool::new(false), blocks: UnsafeCell::new(Blocks::NONE) };

struct Heap {
    taken: AtomicBool,
    blocks: UnsafeCell<Blocks>,
}

// SAFETY: who has not set `taken` does not touch the blocks.
unsafe impl Sync for Heap {}

struct Blocks {
    /// Those that were freed, by the logarithm of their size.
    freed: [*mut Freed; usize::BITS as usize],
    /// What no block was made of yet.
    start: usize,
    end: usize,
}

struct Freed {
    next: *mut Freed,
}

/// What is taken from the kernel at once.
const CHUNK: usize = 256 << 10;
const SMALLEST: usize = 16;

/// The size of the block for `layout`, which is its alignment too, up to a page. None: more than an address space.
fn block_size(layout: Layout) -> Option<usize> {
    layout.size().max(layout.align()).max(SMALLEST).checked_next_power_of_two()
}

impl Blocks {
    const NONE: Self = Self { freed: [ptr::null_mut(); usize::BITS as usize], start: 0, end: 0 };

    fn take(&mut self, size: usize) -> *mut u8 {
        let freed = self.freed[size.ilog2() as usize];
        if !freed.is_null() {
            // SAFETY: a block that was freed holds the next.
            self.freed[size.ilog2() as usize] = unsafe { (*freed).next };
            return freed.cast();
        }
        if size >= CHUNK {
            return arena::memory(size).map_or(ptr::null_mut(), |block| block.cast());
        }
        if self.end.saturating_sub(self.start.next_multiple_of(size)) < size {
            let Some(chunk) = arena::memory(CHUNK) else { return ptr::null_mut() };
            (self.start, self.end) = (chunk as usize, chunk as usize + CHUNK);
        }
        let block = self.start.next_multiple_of(size);
        self.start = block + size;
        ptr::with_exposed_provenance_mut(block)
    }

    fn give(&mut self, block: *mut u8, size: usize) {
        let freed = block.cast::<Freed>();
        // SAFETY: the block is its owner's no more; it is aligned, and large enough.
        unsafe { freed.write(Freed { next: self.freed[size.ilog2() as usize] }) };
        self.freed[size.ilog2() as usize] = freed;
    }
}

impl Heap {
    fn with<R>(&self, act: impl FnOnce(&mut Blocks) -> R) -> R {
        // Acquire: pairs with the Release below.
        while self.taken.swap(true, Ordering::Acquire) {
            snapshim::raw::yield_now();
        }
        // SAFETY: one caller at a time comes here; `act` allocates nothing.
        let result = act(unsafe { &mut *self.blocks.get() });
        self.taken.store(false, Ordering::Release);
        result
    }
}

// SAFETY: blocks do not overlap, are as large as asked for, and aligned: a chunk is to a page, a block in it to its size.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match block_size(layout) {
            Some(size) if layout.align() <= PAGE as usize => self.with(|blocks| blocks.take(size)),
            _ => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(size) = block_size(layout) {
            self.with(|blocks| blocks.give(block, size));
        }
    }
}

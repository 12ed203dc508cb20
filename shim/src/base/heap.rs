//! The shim's own heap, for what Rust's library and the crate `detour` allocate in the constructor. The program's malloc would not
//! do: leak checkers, and programs that count what they allocate, would find the shim's blocks there.
//!
//! The size of a small block is a multiple of 16 bytes, that of a larger one a power of two. A freed block waits in a list for the
//! next allocation of its size. The hook path allocates nothing.
//!
//! At its end the constructor gives all of it back ([`give_back`]): `detour` allocates for each function what would be needed to
//! take the detour down again, which never happens.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use snapshim::PAGE;

use super::arena;

#[global_allocator]
static HEAP: Heap = Heap { taken: AtomicBool::new(false), blocks: UnsafeCell::new(Blocks::NONE) };

struct Heap {
    taken: AtomicBool,
    blocks: UnsafeCell<Blocks>,
}

// SAFETY: only the thread that has set `taken` touches the blocks.
unsafe impl Sync for Heap {}

struct Blocks {
    /// The freed blocks, in a list for each size ([`list_of`]).
    freed: [*mut Freed; LISTS],
    /// The part of the chunk that no block was made of yet.
    start: usize,
    end: usize,
    /// The chunks that were taken, as far as there is room to note them.
    chunks: [*mut c_void; NOTED],
    taken: usize,
}

struct Freed {
    next: *mut Freed,
}

/// Bytes that are taken from the arena at once.
const CHUNK: usize = 256 << 10;
/// The constructor needs one or two.
const NOTED: usize = 8;
/// The size of a small block is a multiple of this.
const GRAIN: usize = 16;
const LARGEST_SMALL: usize = 512;
const LISTS: usize = list_of(1 << (usize::BITS - 1)) + 1;

/// The size of the block for `layout`: a multiple of its alignment, up to a page. `None`: more than an address space.
fn block_size(layout: Layout) -> Option<usize> {
    let size = layout.size().max(1).checked_next_multiple_of(layout.align().max(GRAIN))?;
    if size <= LARGEST_SMALL { Some(size) } else { size.checked_next_power_of_two() }
}

/// Which list of freed blocks is for this size.
const fn list_of(size: usize) -> usize {
    if size <= LARGEST_SMALL { size / GRAIN } else { LARGEST_SMALL / GRAIN + (size / LARGEST_SMALL).ilog2() as usize }
}

/// The largest power of two that `size` is a multiple of.
fn alignment(size: usize) -> usize {
    1 << size.trailing_zeros()
}

impl Blocks {
    const NONE: Self =
        Self { freed: [ptr::null_mut(); LISTS], start: 0, end: 0, chunks: [ptr::null_mut(); NOTED], taken: 0 };

    fn take(&mut self, size: usize) -> *mut u8 {
        let list = &mut self.freed[list_of(size)];
        let freed = *list;
        if !freed.is_null() {
            // SAFETY: a freed block holds the address of the next.
            *list = unsafe { (*freed).next };
            return freed.cast();
        }
        if size >= CHUNK {
            return arena::memory(size).map_or(ptr::null_mut(), |block| block.cast());
        }
        if self.end.saturating_sub(self.start.next_multiple_of(alignment(size))) < size {
            let Some(chunk) = arena::memory(CHUNK) else { return ptr::null_mut() };
            (self.start, self.end) = (chunk as usize, chunk as usize + CHUNK);
            if let Some(place) = self.chunks.get_mut(self.taken) {
                *place = chunk;
            }
            self.taken += 1;
        }
        let block = self.start.next_multiple_of(alignment(size));
        self.start = block + size;
        ptr::with_exposed_provenance_mut(block)
    }

    fn give(&mut self, block: *mut u8, size: usize) {
        let freed = block.cast::<Freed>();
        let list = &mut self.freed[list_of(size)];
        // SAFETY: its owner has given the block back; it is aligned, and large enough.
        unsafe { freed.write(Freed { next: *list }) };
        *list = freed;
    }
}

impl Heap {
    fn with<R>(&self, act: impl FnOnce(&mut Blocks) -> R) -> R {
        // Acquire: pairs with the Release below: the blocks are as the thread before left them.
        while self.taken.swap(true, Ordering::Acquire) {
            snapshim::sys::raw::yield_now();
        }
        // SAFETY: one thread at a time comes here, and `act` allocates nothing.
        let result = act(unsafe { &mut *self.blocks.get() });
        // Release: pairs with the Acquire above.
        self.taken.store(false, Ordering::Release);
        result
    }
}

/// Gives the memory of all blocks back to the kernel. What is allocated from now on lies elsewhere.
///
/// # Safety
/// No block that is allocated now is used any more, not even to free it.
pub unsafe fn give_back() {
    let (chunks, taken) = HEAP.with(|blocks| {
        let given = core::mem::replace(blocks, Blocks::NONE);
        (given.chunks, given.taken)
    });
    chunks[..taken.min(NOTED)].iter().for_each(|chunk| arena::give_back(*chunk, CHUNK));
}

// SAFETY: blocks do not overlap and are as large as asked for. They are aligned: a chunk to a page, a block in it to the largest
// power of two that divides its size.
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

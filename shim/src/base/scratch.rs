//! Memory for a list whose length is known when it is begun: no hook allocates from the program's heap.

use core::ops::{Deref, DerefMut};
use core::ptr;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// A list with room for so many, which is given back when it is dropped. What is in it needs no dropping.
pub struct Scratch<T: Copy> {
    start: *mut T,
    count: usize,
    room: usize,
}

impl<T: Copy> Scratch<T> {
    /// An empty list with room for `room`, which is not 0. `ENOMEM`: there is no memory.
    pub fn with_room(room: usize) -> Result<Self, Errno> {
        const { assert!(align_of::<T>() <= 4096 && size_of::<T>() > 0) };
        let bytes = room.checked_mul(size_of::<T>()).ok_or(Errno::NOMEM)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, access, MapFlags::PRIVATE) }?;
        Ok(Self { start: start.cast(), count: 0, room })
    }

    /// Adds one, as long as there is room.
    pub fn push(&mut self, item: T) {
        assert!(self.count < self.room);
        // SAFETY: `start` points to room for `room` items, which is more than `count`; whole pages are aligned for any item.
        unsafe { self.start.add(self.count).write(item) };
        self.count += 1;
    }
}

impl<T: Copy> Deref for Scratch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the first `count` items have been written.
        unsafe { core::slice::from_raw_parts(self.start, self.count) }
    }
}

impl<T: Copy> DerefMut for Scratch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the borrow is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.count) }
    }
}

impl<T: Copy> Drop for Scratch<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this list's own.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.room * size_of::<T>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_there_in_order() {
        let mut list = Scratch::with_room(5000).unwrap();
        (0..5000u64).for_each(|at| list.push(at));
        list[7] += 1;
        assert!(list.len() == 5000 && list[7] == 8 && list[4999] == 4999);
    }
}

//! Bounce buffers: memory that the kernel is given to store into in place of shared mappings, and of snapshots that may be moved
//! off their file.
//!
//! The kernel can always store there. Afterwards the bytes are copied to the user buffer by ordinary stores, which trap and
//! preserve as all stores do, or wait until a range has been moved. Only the parts of a user buffer that lie in such mappings are
//! replaced. The kernel gets the other parts as they are, so it finds a bad pointer where it would have found it. If the call
//! fails, what it has stored until then is not copied.

use core::ops::Range;
use core::ptr::{self, with_exposed_provenance as pointer, with_exposed_provenance_mut as pointer_mut};

use libc::iovec;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use snapshim::PAGE;
use snapshim::protocol::origin::Origin;
use snapshim::sys::signal_block;

use super::list::{self, Entry, List};
use crate::address_space::lock;
use crate::base::user_memory::{IOV_MAX, each_buffer, read_own};
use crate::writer::touch::LONGEST_WRITE;

/// Which mappings the user buffers of a call lie in.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Touched {
    /// In none that is shared, or a snapshot that may be moved, and that the application may store into.
    #[default]
    Nothing,
    /// In shared mappings of this origin.
    One(Origin),
    /// In shared mappings of several origins, or in snapshots.
    Several,
}

impl Touched {
    /// Counts another mapping.
    pub fn add(&mut self, user: &UserRange) {
        *self = match (*self, user.origin) {
            (Self::Nothing, Some(origin)) => Self::One(origin),
            (Self::One(before), Some(origin)) if before == origin => return,
            _ => Self::Several,
        };
    }
}

/// The memory of one call's bounce buffers, given out from its start to its end.
pub struct BounceArena {
    /// `None`: there is no memory yet, and the room only counts how much is needed.
    pub start: Option<u64>,
    at: u64,
    end: u64,
    pub touched: Touched,
}

impl BounceArena {
    fn counting() -> Self {
        Self { start: None, at: 0, end: 1 << 46, touched: Touched::Nothing }
    }

    /// Memory for as much as a counting arena has given out. Pages that are not used cost nothing.
    fn map(counted: &Self) -> Result<Self, Errno> {
        let length = counted.at.next_multiple_of(PAGE);
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), length as usize, access, flags)? } as u64;
        Ok(Self { start: Some(start), at: start, end: start + length, touched: Touched::Nothing })
    }

    /// Gives out so many bytes, at the same offset within a page as `user`: a buffer that is aligned for O_DIRECT stays so.
    pub fn take(&mut self, length: u64, user: u64) -> Option<u64> {
        let at = self.at.next_multiple_of(PAGE) + user % PAGE;
        self.at = at.checked_add(length).filter(|end| *end <= self.end)?;
        Some(at)
    }

    /// Gives out zeroed memory for `count` plain C structures; null while counting.
    pub fn take_zeroed<T>(&mut self, count: usize) -> Option<*mut T> {
        let at = self.take((size_of::<T>() * count) as u64, 0)?;
        Some(if self.start.is_some() { pointer_mut(at as usize) } else { ptr::null_mut() })
    }

    /// Unmaps the memory.
    pub fn give_back(&self) {
        if let Some(start) = self.start {
            // SAFETY: the mapping is the shim's own, and nothing else knows of it.
            let _ = unsafe { rustix::mm::munmap(pointer_mut(start as usize), (self.end - start) as usize) };
        }
    }
}

/// Which mappings `lay` would touch. A call that it cannot lay out is refused by the kernel as well.
pub fn measure<T>(lay: &impl Fn(&mut BounceArena, &List) -> Option<T>) -> Touched {
    let mut counting = BounceArena::counting();
    let _signals = signal_block::SignalsBlocked::new();
    let is_whole = lay(&mut counting, &list::read()).is_some();
    if is_whole { counting.touched } else { Touched::Nothing }
}

/// Lays a call out in memory of the right size.
pub fn lay_out<T>(lay: &impl Fn(&mut BounceArena, &List) -> Option<T>) -> Result<(BounceArena, T), Errno> {
    let _signals = signal_block::SignalsBlocked::new();
    let list = list::read();
    let mut counting = BounceArena::counting();
    lay(&mut counting, &list).ok_or(Errno::FAULT)?;
    let mut arena = BounceArena::map(&counting)?;
    // Another thread may have changed the application's vector since it was counted.
    let laid = lay(&mut arena, &list).ok_or(Errno::FAULT).inspect_err(|_| arena.give_back())?;
    Ok((arena, laid))
}

const MOST: usize = IOV_MAX as usize;

/// The vector that the kernel gets in place of the application's. All-zero is "empty".
#[repr(C)]
pub struct BounceVec {
    pub vector: [iovec; MOST],
    /// The user buffer of each part; 0 for a part that is the user buffer itself.
    users: [u64; MOST],
    pub count: usize,
    total: u64,
}

impl BounceVec {
    /// What the kernel gets.
    pub fn vector(&self) -> &[iovec] {
        &self.vector[..self.count]
    }

    /// Adds a part. If there are too many, the last are left out: the kernel stores less, as it may.
    fn push(&mut self, address: u64, length: u64, user: u64) {
        if self.count < MOST {
            self.vector[self.count] = iovec { iov_base: pointer_mut(address as usize), iov_len: length as usize };
            self.users[self.count] = user;
            self.count += 1;
            self.total = self.total.saturating_add(length);
        }
    }

    /// Adds a part of the user buffer itself.
    fn push_in_place(&mut self, range: Range<u64>) {
        self.push(range.start, range.end - range.start, 0);
    }

    /// The parts that are bounce buffers, each with its user buffer.
    fn bounced(&self) -> impl Iterator<Item = (&iovec, u64)> {
        self.vector().iter().zip(self.users.iter().copied()).filter(|(_, user)| *user != 0)
    }

    /// Copies the first `received` bytes of the vector to the user buffers.
    pub fn copy_out(&self, received: u64) {
        let mut rest = received as usize;
        for (part, user) in self.vector().iter().zip(self.users.iter().copied()) {
            let here = part.iov_len.min(rest);
            if user != 0 {
                copy_out(part.iov_base as u64, user, here as u64);
            }
            rest -= here;
        }
    }

    /// Copies the user buffers to the bounce buffers, for calls whose result counts more bytes than they store (MSG_TRUNC).
    pub fn copy_in(&self) {
        for (part, user) in self.bounced() {
            read_own(user, part.iov_base as u64, part.iov_len as u64);
        }
    }
}

/// Copies a bounce buffer to its user buffer, with ordinary stores.
pub fn copy_out(bounced: u64, user: u64, length: u64) {
    // SAFETY: the bounce buffer is the shim's own memory; the application passed the user buffer to be stored into.
    unsafe { ptr::copy_nonoverlapping::<u8>(pointer(bounced as usize), pointer_mut(user as usize), length as usize) };
}

/// A part of a user buffer into which the kernel must not store, although the application may.
pub struct UserRange {
    part: Range<u64>,
    /// The origin of the shared mapping that it lies in; `None`: it lies in a snapshot.
    origin: Option<Origin>,
}

/// The first such part in `range`.
pub fn first_user_range(list: &List, range: &Range<u64>) -> Option<UserRange> {
    let is_writable = |entry: &&Entry| entry.is_writable();
    let shared = list.touching(range).rfind(is_writable);
    let shared = shared.map(|entry| UserRange { part: entry.part(range), origin: Some(entry.origin) });
    let snapshot = lock::first_that_may_move(range).map(|part| UserRange { part, origin: None });
    shared.into_iter().chain(snapshot).min_by_key(|user| user.part.start)
}

/// Whether the byte at `address` can be read.
pub fn is_there(address: u64) -> bool {
    let mut byte = 0u8;
    read_own(address, (&raw mut byte) as u64, 1) == 1
}

/// The beginning of a part of a mapping that can be accessed: pages behind the end of the file cannot.
fn pages_there(part: &Range<u64>) -> Range<u64> {
    if is_there(part.end - 1) {
        return part.clone();
    }
    let first_page = part.start / PAGE;
    let (mut there, mut missing) = (first_page, (part.end - 1) / PAGE);
    while there < missing {
        let middle = (there + missing) / 2;
        if is_there((middle * PAGE).max(part.start)) { there = middle + 1 } else { missing = middle }
    }
    part.start..(there * PAGE).max(part.start)
}

/// Lays out one user buffer.
fn lay_buffer(
    arena: &mut BounceArena,
    list: &List,
    parts: &mut Option<&mut BounceVec>,
    buffer: Range<u64>,
) -> Option<()> {
    let mut at = buffer.start;
    while let Some(user) = first_user_range(list, &(at..buffer.end)) {
        arena.touched.add(&user);
        let part = user.part;
        // The kernel stores no more than that in one call.
        let longest = part.start..part.end.min(part.start + LONGEST_WRITE);
        match parts {
            None => _ = arena.take(longest.end - longest.start, longest.start)?,
            Some(parts) => {
                let there = pages_there(&longest);
                let length = there.end - there.start;
                if at < part.start {
                    parts.push_in_place(at..part.start);
                }
                if length > 0 {
                    parts.push(arena.take(length, there.start)?, length, there.start);
                }
                if there.end < part.end {
                    parts.push_in_place(there.end..part.end);
                }
            }
        }
        at = part.end;
    }
    if let Some(parts) = parts
        && (at < buffer.end || buffer.is_empty())
    {
        parts.push_in_place(at..buffer.end);
    }
    Some(())
}

/// Lays out a vector; null while counting. `None`: the vector cannot be read, or the arena has no room for it.
pub fn lay_vector(arena: &mut BounceArena, list: &List, vector: *const iovec, count: usize) -> Option<*mut BounceVec> {
    if count > MOST {
        return None;
    }
    let place = arena.take_zeroed::<BounceVec>(1)?;
    // SAFETY: null, or zeroed memory of the room, which is a valid value.
    let mut parts = unsafe { place.as_mut() };
    let mut is_laid = true;
    let is_read = each_buffer(vector, count as i32, |address, length| {
        // The kernel refuses a vector with such a length as a whole.
        is_laid &= i64::try_from(length).is_ok();
        let buffer = address..address.saturating_add(length);
        is_laid = is_laid && lay_buffer(arena, list, &mut parts, buffer).is_some();
    });
    (is_read && is_laid).then_some(place)
}

/// Which mappings the kernel would store into if it filled a vector.
pub fn touched_by(vector: *const iovec, count: usize) -> Touched {
    measure(&|arena: &mut BounceArena, list: &List| lay_vector(arena, list, vector, count))
}

/// A vector whose buffers are bounce buffers where they have to be.
pub struct Bounce {
    arena: BounceArena,
    parts: *const BounceVec,
}

impl Bounce {
    /// Lays out a vector.
    pub fn of(vector: *const iovec, count: usize) -> Result<Self, Errno> {
        let (arena, parts) = lay_out(&|arena: &mut BounceArena, list: &List| lay_vector(arena, list, vector, count))?;
        Ok(Self { arena, parts })
    }

    /// What the kernel is given.
    pub fn parts(&self) -> &BounceVec {
        // SAFETY: the parts were laid out in the arena, which is mapped until `finish`.
        unsafe { &*self.parts }
    }

    /// See `Messages::copy_in`.
    pub fn copy_in(&self) {
        self.parts().copy_in();
    }

    /// Ends the call: copies the bytes that its result counts to the user buffers, and returns the result.
    pub fn finish(self, result: isize) -> isize {
        if let Ok(received) = u64::try_from(result) {
            self.parts().copy_out(received);
        }
        self.arena.give_back();
        result
    }
}

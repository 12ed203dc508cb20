//! Memory aside: what the kernel is given to store into in place of shared mappings and of snapshots that may be moved off their
//! file, and how it gets from there into them.
//!
//! The kernel may always store there. What came is brought home with ordinary stores, which trap and preserve as all stores do, or
//! wait until a range has been moved. Only what lies in such memory is replaced; all else the kernel gets as it is, so that it finds
//! a bad pointer where it would have found it. What a call stored before it failed does not come home.

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
use crate::writer::enter::LONGEST_WRITE;

/// What the kernel may be handed of mappings.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Touched {
    /// No byte of a shared mapping, or of a snapshot that may be moved, that the application may store into.
    #[default]
    Nothing,
    /// Bytes of shared mappings that show this origin.
    One(Origin),
    /// Bytes of shared mappings of several origins, or of snapshots.
    Several,
}

impl Touched {
    pub fn add(&mut self, home: &Home) {
        *self = match (*self, home.origin) {
            (Self::Nothing, Some(origin)) => Self::One(origin),
            (Self::One(before), Some(origin)) if before == origin => return,
            _ => Self::Several,
        };
    }
}

/// Memory for one call, given out from its start to its end.
pub struct Room {
    /// `None`: there is no memory yet; it is found out how much is needed.
    pub start: Option<u64>,
    at: u64,
    end: u64,
    pub touched: Touched,
}

impl Room {
    fn counting() -> Self {
        Self { start: None, at: 0, end: 1 << 46, touched: Touched::Nothing }
    }

    /// Memory for as much as a counting room has given out. It costs only what is used of it.
    fn map(counted: &Self) -> Result<Self, Errno> {
        let length = counted.at.next_multiple_of(PAGE);
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), length as usize, access, flags)? } as u64;
        Ok(Self { start: Some(start), at: start, end: start + length, touched: Touched::Nothing })
    }

    /// So many bytes, at the place within a page that `home` has: what is aligned for O_DIRECT stays so.
    pub fn take(&mut self, length: u64, home: u64) -> Option<u64> {
        let at = self.at.next_multiple_of(PAGE) + home % PAGE;
        self.at = at.checked_add(length).filter(|end| *end <= self.end)?;
        Some(at)
    }

    /// Zeroed memory for `count` of a plain structure of the C kind; null while counting.
    pub fn take_zeroed<T>(&mut self, count: usize) -> Option<*mut T> {
        let at = self.take((size_of::<T>() * count) as u64, 0)?;
        Some(if self.start.is_some() { pointer_mut(at as usize) } else { ptr::null_mut() })
    }

    pub fn give_back(&self) {
        if let Some(start) = self.start {
            // SAFETY: our own mapping, of which nobody else was told.
            let _ = unsafe { rustix::mm::munmap(pointer_mut(start as usize), (self.end - start) as usize) };
        }
    }
}

/// What `lay` would touch. What it cannot lay out the kernel refuses as well.
pub fn look<T>(lay: &impl Fn(&mut Room, &List) -> Option<T>) -> Touched {
    let mut counting = Room::counting();
    let _signals = signal_block::SignalsBlocked::new();
    let is_whole = lay(&mut counting, &list::read()).is_some();
    if is_whole { counting.touched } else { Touched::Nothing }
}

/// Does `lay` in memory of the right size.
pub fn lay_out<T>(lay: &impl Fn(&mut Room, &List) -> Option<T>) -> Result<(Room, T), Errno> {
    let _signals = signal_block::SignalsBlocked::new();
    let list = list::read();
    let mut counting = Room::counting();
    lay(&mut counting, &list).ok_or(Errno::FAULT)?;
    let mut room = Room::map(&counting)?;
    // Another thread may have changed the application's vector meanwhile.
    let laid = lay(&mut room, &list).ok_or(Errno::FAULT).inspect_err(|_| room.give_back())?;
    Ok((room, laid))
}

const MOST: usize = IOV_MAX as usize;

/// A vector for the kernel in place of the application's. All-zero is "empty".
#[repr(C)]
pub struct Parts {
    pub vector: [iovec; MOST],
    /// Where each part belongs; 0 where it is there already.
    homes: [u64; MOST],
    pub count: usize,
    total: u64,
}

impl Parts {
    /// For the kernel.
    pub fn vector(&self) -> &[iovec] {
        &self.vector[..self.count]
    }

    /// Of a vector that has too many parts the last are cut off: the kernel stores less, as it may.
    fn push(&mut self, address: u64, length: u64, home: u64) {
        if self.count < MOST {
            self.vector[self.count] = iovec { iov_base: pointer_mut(address as usize), iov_len: length as usize };
            self.homes[self.count] = home;
            self.count += 1;
            self.total = self.total.saturating_add(length);
        }
    }

    fn push_at_home(&mut self, range: Range<u64>) {
        self.push(range.start, range.end - range.start, 0);
    }

    /// The parts that are aside, each with its home.
    fn aside(&self) -> impl Iterator<Item = (&iovec, u64)> {
        self.vector().iter().zip(self.homes.iter().copied()).filter(|(_, home)| *home != 0)
    }

    /// Stores the first `received` bytes of the vector where they belong.
    pub fn bring_home(&self, received: u64) {
        let mut rest = received as usize;
        for (part, home) in self.vector().iter().zip(self.homes.iter().copied()) {
            let here = part.iov_len.min(rest);
            if home != 0 {
                bring_home(part.iov_base as u64, home, here as u64);
            }
            rest -= here;
        }
    }

    /// Makes the memory aside what is at home, for calls that say more bytes than they store (MSG_TRUNC).
    pub fn fill_from_home(&self) {
        for (part, home) in self.aside() {
            read_own(home, part.iov_base as u64, part.iov_len as u64);
        }
    }
}

/// Copies with ordinary stores.
pub fn bring_home(aside: u64, home: u64, length: u64) {
    // SAFETY: the bytes aside are ours; the application gave the others to be stored into.
    unsafe { ptr::copy_nonoverlapping::<u8>(pointer(aside as usize), pointer_mut(home as usize), length as usize) };
}

/// Memory where the kernel would not store, but the application may.
pub struct Home {
    part: Range<u64>,
    /// What a shared mapping shows; `None` for a snapshot.
    origin: Option<Origin>,
}

/// The first in `range`.
pub fn first_home(list: &List, range: &Range<u64>) -> Option<Home> {
    let is_writable = |entry: &&Entry| entry.is_writable();
    let shared = list.touching(range).filter(is_writable).min_by_key(|entry| entry.range.start);
    let shared = shared.map(|entry| Home { part: entry.part(range), origin: Some(entry.origin) });
    let snapshot = lock::first_that_may_move(range).map(|part| Home { part, origin: None });
    shared.into_iter().chain(snapshot).min_by_key(|home| home.part.start)
}

/// Whether a byte of memory is there.
pub fn is_there(address: u64) -> bool {
    let mut byte = 0u8;
    read_own(address, (&raw mut byte) as u64, 1) == 1
}

/// How much of a part of a mapping is there: pages behind the end of the file are not.
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

/// Lays out one buffer.
fn lay_buffer(room: &mut Room, list: &List, parts: &mut Option<&mut Parts>, buffer: Range<u64>) -> Option<()> {
    let mut at = buffer.start;
    while let Some(home) = first_home(list, &(at..buffer.end)) {
        room.touched.add(&home);
        let part = home.part;
        // More than that the kernel does not store.
        let longest = part.start..part.end.min(part.start + LONGEST_WRITE);
        match parts {
            None => _ = room.take(longest.end - longest.start, longest.start)?,
            Some(parts) => {
                let there = pages_there(&longest);
                let length = there.end - there.start;
                if at < part.start {
                    parts.push_at_home(at..part.start);
                }
                if length > 0 {
                    parts.push(room.take(length, there.start)?, length, there.start);
                }
                if there.end < part.end {
                    parts.push_at_home(there.end..part.end);
                }
            }
        }
        at = part.end;
    }
    if let Some(parts) = parts
        && (at < buffer.end || buffer.is_empty())
    {
        parts.push_at_home(at..buffer.end);
    }
    Some(())
}

/// Lays out a vector; null while counting. `None`: it cannot be read, or there is no room for it.
pub fn lay_vector(room: &mut Room, list: &List, vector: *const iovec, count: usize) -> Option<*mut Parts> {
    if count > MOST {
        return None;
    }
    let place = room.take_zeroed::<Parts>(1)?;
    // SAFETY: null, or zeroed memory of our own, which is a valid value.
    let mut parts = unsafe { place.as_mut() };
    let mut is_laid = true;
    let is_read = each_buffer(vector, count as i32, |address, length| {
        // The kernel refuses it whole.
        is_laid &= i64::try_from(length).is_ok();
        let buffer = address..address.saturating_add(length);
        is_laid = is_laid && lay_buffer(room, list, &mut parts, buffer).is_some();
    });
    (is_read && is_laid).then_some(place)
}

/// What the kernel would touch of shared mappings if it filled a vector.
pub fn touched_by(vector: *const iovec, count: usize) -> Touched {
    look(&|room: &mut Room, list: &List| lay_vector(room, list, vector, count))
}

/// A vector aside.
pub struct Aside {
    room: Room,
    parts: *const Parts,
}

impl Aside {
    /// Lays out a vector.
    pub fn of(vector: *const iovec, count: usize) -> Result<Self, Errno> {
        let (room, parts) = lay_out(&|room: &mut Room, list: &List| lay_vector(room, list, vector, count))?;
        Ok(Self { room, parts })
    }

    /// What the kernel is given.
    pub fn parts(&self) -> &Parts {
        // SAFETY: laid out in the room, which is mapped until the end.
        unsafe { &*self.parts }
    }

    /// See [`Messages::fill_from_home`].
    pub fn fill_from_home(&self) {
        self.parts().fill_from_home();
    }

    /// The call is over: its result, the bytes that it counts where they belong.
    pub fn finish(self, result: isize) -> isize {
        if let Ok(received) = u64::try_from(result) {
            self.parts().bring_home(received);
        }
        self.room.give_back();
        result
    }
}

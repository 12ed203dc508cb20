//! Where the bytes of a write can land.

use core::ops::Range;

use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, OFlags, StatxFlags, statx};
use snapshim::protocol::gate::Frame;
use snapshim::protocol::origin::Origin;
use snapshim::sys::raw;
use snapshim::table::Table;

use super::touch::Touch;
use crate::process::thread::Thread;

/// The bytes that were preserved, and what has to hold afterwards for the write to have stayed within them.
pub struct Covered {
    pub bytes: Range<u64>,
    length: u64,
    aim: Aim,
}

/// What says where the bytes go.
enum Aim {
    /// The call.
    Call,
    /// The descriptor's O_APPEND, which whoever shares it can clear; where the file position and the end of the file were.
    Flag(u64, u64),
    /// The file position; where it was, and the bytes that all writes at one had announced until then.
    Position(u64, u64),
}

/// Finds out where the bytes of a call that has passed the gate can land.
pub fn range_of(thread: &Thread, frame: &Frame, descriptor: i32, origin: Origin, touch: &impl Touch) -> Covered {
    let file = raw::borrow(descriptor as u32);
    let length = touch.length();
    if let Some(offset) = touch.offset()
        && (origin.is_block_device() || !touch.appends(false))
    {
        // pwrite(2) on an O_APPEND descriptor appends, on Linux. An append touches no page that is not preserved: the page that
        // holds the end of the file is private from the start, and what lies behind a later, lower end has been relocated.
        let start = u64::try_from(offset).unwrap_or(0);
        return Covered { bytes: start..start.saturating_add(length), length, aim: Aim::Call };
    }
    // A block device is written at the position all the same (block/fops.c).
    if touch.appends(appends(file)) && !origin.is_block_device() {
        let aim = if touch.appends(false) {
            Aim::Call
        } else {
            // Without its times: see `place_behind`.
            let end = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::SIZE).map_or(0, |found| found.stx_size);
            Aim::Flag(rustix::fs::tell(file).unwrap_or(end), end)
        };
        return Covered { bytes: 0..0, length, aim };
    }
    let announced = frame.float(origin, length, thread.own.table.floating());
    let reach = floating_bytes(thread.own.table, origin);
    let position = rustix::fs::tell(file).unwrap_or(0);
    Covered { bytes: position..position.saturating_add(reach), length, aim: Aim::Position(position, announced) }
}

pub fn appends(file: BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::APPEND))
}

/// Bytes that all calls under way would place at a position of `origin` that others can move, the caller's included.
fn floating_bytes(table: &Table, origin: Origin) -> u64 {
    let slots = table.writers_used().iter();
    slots.flat_map(|slot| slot.frames()).map(|frame| frame.floating_on(origin)).fold(0, u64::saturating_add)
}

impl Covered {
    /// Whether the write certainly stayed within the preserved bytes.
    ///
    /// A position that only cooperating writers move goes forward, and by no more than they announced. Anything else was somebody
    /// who moved it at that very moment (lseek, read, a program without the shim), or an iovec that changed under the call.
    pub fn held(&self, thread: &Thread, descriptor: i32, written: u64) -> bool {
        if written > self.length {
            return false;
        }
        let file = raw::borrow(descriptor as u32);
        let (position, announced) = match self.aim {
            Aim::Call => return true,
            Aim::Flag(position, end) => return is_at_end(file, position, end, written),
            Aim::Position(position, announced) => (position, announced),
        };
        let Ok(now) = rustix::fs::tell(file) else { return false };
        let moved = now.wrapping_sub(position);
        let since = thread.own.table.floating().announced().wrapping_sub(announced);
        let reach = self.bytes.end - self.bytes.start;
        let alone = since == 0 && reach == self.length;
        moved == written || !alone && now >= position && (written..=reach.saturating_add(since)).contains(&moved)
    }
}

/// Whether a write with O_APPEND seems to have gone to the end, and not, for want of the flag, to `position`, which was before `end`.
/// A flag that is back again is told by the position.
fn is_at_end(file: BorrowedFd<'_>, position: u64, end: u64, written: u64) -> bool {
    // A descriptor that was closed meanwhile says nothing.
    let is_cleared = rustix::fs::fcntl_getfl(file).is_ok_and(|flags| !flags.contains(OFlags::APPEND));
    let has_moved_on = position < end && rustix::fs::tell(file) == Ok(position + written);
    !is_cleared && !has_moved_on
}

//! Where the bytes of a write can land, and whether they have landed there.

use core::ops::Range;

use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, OFlags, StatxFlags, statx};
use snapshim::protocol::gate::CallFrame;
use snapshim::protocol::origin::Origin;
use snapshim::sys::raw;
use snapshim::table::Table;

use super::touch::Touch;
use crate::process::thread::Thread;

/// The bytes that are preserved for a write, and what shows afterwards that it stayed within them.
pub struct WriteReach {
    pub bytes: Range<u64>,
    length: u64,
    source: PositionSource,
}

/// What decides where the bytes go.
enum PositionSource {
    /// The call alone.
    Call,
    /// O_APPEND, which a process that shares the open file can clear. The file position and the end of the file as they were
    /// before.
    Flag(u64, u64),
    /// The file position. Where it was before, and how many bytes all writes at a position had announced until then.
    Position(u64, u64),
}

/// Finds out where the bytes of a call that has passed the gate can land.
pub fn reach_of(thread: &Thread, frame: &CallFrame, descriptor: i32, origin: Origin, touch: &impl Touch) -> WriteReach {
    let file = raw::borrow(descriptor as u32);
    let length = touch.length();
    if let Some(offset) = touch.offset()
        && (origin.is_block_device() || !touch.appends(false))
    {
        // pwrite(2) on a descriptor with O_APPEND appends, on Linux, whatever its offset. An append touches no page that is not
        // preserved: the page with the end of the file is private from the start, and what lies behind an end that was lowered
        // later has been relocated.
        let start = u64::try_from(offset).unwrap_or(0);
        return WriteReach { bytes: start..start.saturating_add(length), length, source: PositionSource::Call };
    }
    // O_APPEND means nothing to a block device: it is written at the position (block/fops.c).
    if touch.appends(appends(file)) && !origin.is_block_device() {
        let source = if touch.appends(false) {
            PositionSource::Call
        } else {
            let end = size_of_file(file);
            PositionSource::Flag(rustix::fs::tell(file).unwrap_or(end), end)
        };
        return WriteReach { bytes: 0..0, length, source };
    }
    let announced = frame.announce_unplaced(origin, length, thread.own.table.unplaced());
    let reach = unplaced_bytes(thread.own.table, origin);
    let position = rustix::fs::tell(file).unwrap_or(0);
    WriteReach {
        bytes: position..position.saturating_add(reach),
        length,
        source: PositionSource::Position(position, announced),
    }
}

/// statx(2) without the file's times: see `target_of_descriptor`. Its answer is large: it lies on the stack during this call alone.
#[inline(never)]
fn size_of_file(file: BorrowedFd<'_>) -> u64 {
    statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::SIZE).map_or(0, |found| found.stx_size)
}

/// Whether a file was opened with O_APPEND.
pub fn appends(file: BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::APPEND))
}

/// How many bytes all calls under way, the caller's included, write to `origin` at a file position.
fn unplaced_bytes(table: &Table, origin: Origin) -> u64 {
    let slots = table.writers_used().iter();
    slots.flat_map(|slot| slot.frames()).map(|frame| frame.unplaced_on(origin)).fold(0, u64::saturating_add)
}

impl WriteReach {
    /// Whether the write certainly stayed within the preserved bytes.
    ///
    /// If only cooperating writers move a position, it goes forward, and by no more than they announced. Anything else shows that
    /// another call moved it at that very moment (lseek, read, a write without the shim), or that the vector changed during the
    /// call.
    pub fn stayed_within(&self, thread: &Thread, descriptor: i32, written: u64) -> bool {
        if written > self.length {
            return false;
        }
        let file = raw::borrow(descriptor as u32);
        let (position, announced) = match self.source {
            PositionSource::Call => return true,
            PositionSource::Flag(position, end) => return is_at_end(file, position, end, written),
            PositionSource::Position(position, announced) => (position, announced),
        };
        let Ok(now) = rustix::fs::tell(file) else { return false };
        let moved = now.wrapping_sub(position);
        let since = thread.own.table.unplaced().announced().wrapping_sub(announced);
        let reach = self.bytes.end - self.bytes.start;
        let alone = since == 0 && reach == self.length;
        moved == written || !alone && now >= position && (written..=reach.saturating_add(since)).contains(&moved)
    }
}

/// Whether a write with O_APPEND seems to have gone to the end of the file, and not to `position` because the flag was cleared. If
/// the flag is set again by now, the position shows it, provided that it was before `end`.
fn is_at_end(file: BorrowedFd<'_>, position: u64, end: u64, written: u64) -> bool {
    // A descriptor that was closed meanwhile proves nothing.
    let is_cleared = rustix::fs::fcntl_getfl(file).is_ok_and(|flags| !flags.contains(OFlags::APPEND));
    let has_moved_on = position < end && rustix::fs::tell(file) == Ok(position + written);
    !is_cleared && !has_moved_on
}

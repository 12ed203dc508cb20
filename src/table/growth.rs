//! Growth: how far the arrays of process records and of writer slots may be looked at, and how they come to more room.

use core::mem::offset_of;

use super::Table;
use crate::protocol::limits::{PROCESSES, WRITERS};
use crate::protocol::process::Process;
use crate::protocol::writer_slot::WriterSlot;
use crate::sys::sync::Ordering;

/// Process records, and slots, that have memory from the start. Most tables never use more, so a tmpfs that becomes full takes none
/// of these away.
const FIRST_PROCESSES: usize = 384;
const FIRST_WRITERS: usize = 4096;
/// Records and slots whose memory is asked for together.
const PROCESSES_AT_ONCE: usize = 64;
const WRITERS_AT_ONCE: usize = 32;
const _: () = assert!((PROCESSES_AT_ONCE * size_of::<Process>()).is_multiple_of(4096));
const _: () = assert!((WRITERS_AT_ONCE * size_of::<WriterSlot>()).is_multiple_of(4096));

/// The parts of the file that have memory from the start: processes look at them without asking.
pub(super) const BACKED: [(u64, u64); 2] = [
    (0, (offset_of!(Table, processes) + FIRST_PROCESSES * size_of::<Process>()) as u64),
    (offset_of!(Table, writers) as u64, (FIRST_WRITERS * size_of::<WriterSlot>()) as u64),
];

impl Table {
    /// How many process records may be looked at.
    #[inline]
    pub(crate) fn processes_backed(&self) -> usize {
        self.header.process_room.backed(FIRST_PROCESSES).min(PROCESSES)
    }

    /// How many writer slots may be looked at.
    #[inline]
    pub(crate) fn writers_backed(&self) -> usize {
        self.header.writer_room.backed(FIRST_WRITERS).min(WRITERS)
    }

    /// Whether what the header says of the memory can be true.
    pub(crate) fn is_room_sound(&self) -> bool {
        let header = &self.header;
        header.process_room.is_sound(PROCESSES)
            && header.writer_room.is_sound(WRITERS)
            && header.processes_used() <= self.processes_backed()
            && header.writers_used() <= self.writers_backed()
    }

    /// Whether all process records that have memory are taken, and more could have some.
    #[must_use]
    pub fn lacks_memory(&self) -> bool {
        let backed = self.processes_backed();
        self.header.processes_used() >= backed && backed < PROCESSES
    }

    /// Makes sure that process record `index` has memory.
    pub(crate) fn reach_process(&self, index: usize) -> bool {
        self.header.process_room.reach(&self.processes, FIRST_PROCESSES, PROCESSES_AT_ONCE, index)
    }

    /// Makes sure that slot `index` has memory.
    pub(crate) fn reach_writer(&self, index: usize) -> bool {
        self.header.writer_room.reach(&self.writers, FIRST_WRITERS, WRITERS_AT_ONCE, index)
    }

    /// Notes that process record `index` is free.
    pub(crate) fn note_free_process(&self, index: u32) {
        self.header.process_room.hint.store(index, Ordering::Relaxed);
    }

    /// Notes that slot `index` is free.
    pub fn note_free_writer(&self, index: u32) {
        self.header.writer_room.hint.store(index, Ordering::Relaxed);
    }
}

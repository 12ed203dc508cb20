//! Which processes hold creations back at this moment, for a person who asks.

use crate::protocol::delay::{Cause, Delay};
use crate::protocol::gate::CallFrame;
use crate::protocol::process::Process;
use crate::protocol::process_id::ProcessId;
use crate::protocol::writer_slot::WriterSlot;
use crate::table::Table;

impl Table {
    /// The processes for which a creation waits, or waited in vain, and which still do what it waited for.
    pub fn delays(&self) -> impl Iterator<Item = (ProcessId, Delay)> {
        self.processes_used().iter().enumerate().filter_map(|(index, record)| {
            let id = record.id()?;
            let delay = record.delay.of(id)?;
            self.is_current(index as u32, record, id, &delay).then_some((id, delay))
        })
    }

    fn is_current(&self, index: u32, record: &Process, id: ProcessId, delay: &Delay) -> bool {
        match delay.cause {
            Cause::Write(announcement, _) => {
                let owner = id.owner_word(index);
                let is_the_call = |frame: &CallFrame| frame.load().0.is_under_way() && frame.is_at(announcement);
                let is_threads = |slot: &&WriterSlot| {
                    let lease = slot.lease();
                    lease.process() == owner && slot.thread(lease) == delay.thread
                };
                self.writers_used().iter().filter(is_threads).any(|slot| slot.frames().iter().any(is_the_call))
            }
            // Whether it has armed its mappings meanwhile is known when a creation asks it again.
            Cause::Mapping => delay.origin.map_or(record.sharing.is_any(), |origin| record.sharing.includes(origin)),
            Cause::DirectWrite => record.has_queues(id),
        }
    }
}

//! Waiting until every process that shares an origin has armed its mappings; see [`crate::protocol::sharing`].

use super::drain::Straggler;
use super::summon::summon;
use crate::protocol::creation::Ticket;
use crate::protocol::delay::Cause;
use crate::protocol::origin::Origin;
use crate::protocol::process::{Agent, Process};
use crate::protocol::process_id::ProcessId;
use crate::protocol::sharing::OriginBits;
use crate::sys::wait::{Backoff, Deadline};
use crate::sys::{procfs, raw};
use crate::table::Table;

/// The origins of one creation.
#[derive(Clone, Copy, Debug)]
pub struct Origins {
    bits: OriginBits,
    /// The only one, if they are not several.
    one: Option<Origin>,
}

impl Origins {
    /// These.
    pub fn of(origins: impl Iterator<Item = Origin> + Clone) -> Self {
        let mut others = origins.clone();
        let first = others.next();
        Self { bits: origins.collect(), one: first.filter(|one| others.all(|other| other == *one)) }
    }

    /// Whether a process may have one of them mapped shared and writable.
    #[must_use]
    pub fn may_be_shared_by(&self, process: &Process) -> bool {
        process.sharing.includes_any(&self.bits)
    }
}

/// What a creation waits for.
#[derive(Clone, Copy)]
struct Arming<'a> {
    origins: &'a Origins,
    creation: Ticket,
    maps_none: &'a dyn Fn(&Process, u32) -> bool,
    deadline: u64,
}

impl Arming<'_> {
    fn is_awaited(&self, record: &Process, id: ProcessId) -> bool {
        self.origins.may_be_shared_by(record) && !record.sharing.is_armed_for(id.epoch(), self.creation)
    }

    /// The list of mappings is that of the image only if the image's own word is in it: that of a zombie is empty, and the pid may
    /// be another process's by now.
    fn is_mapped_nowhere(&self, record: &Process, id: ProcessId) -> bool {
        let is_of_image = || record.cookie(id).and_then(|word| procfs::is_mapped(id.pid(), word)) == Some(true);
        (self.maps_none)(record, id.pid()) && is_of_image()
    }
}

impl Table {
    /// Asks every other process to arm that may have one of `origins` mapped shared and writable, and waits for the answers.
    ///
    /// The gate is closed by `creation`, and the writers are drained: no process begins to map, or to open what has been armed. So
    /// a process that does not answer is not waited for if `maps_none` finds that none of its mappings of them is writable: its
    /// record says only that it may have one.
    pub fn arm_others(
        &self,
        origins: &Origins,
        creation: Ticket,
        own: ProcessId,
        maps_none: &dyn Fn(&Process, u32) -> bool,
        deadline: u64,
    ) -> Result<(), Straggler> {
        let wanted = Arming { origins, creation, maps_none, deadline };
        let sharers = || {
            let records = self.processes_used().iter().enumerate();
            records.filter_map(move |(index, record)| {
                let id = record.id().filter(|id| *id != own)?;
                wanted.is_awaited(record, id).then_some((index as u32, record, id))
            })
        };
        for (_, record, id) in sharers() {
            record.ring();
            if record.agent(id) == Agent::NotYet {
                summon(record, id);
            }
        }
        sharers().try_for_each(|(index, record, id)| self.await_arming(index, record, id, &wanted))
    }

    fn await_arming(&self, index: u32, record: &Process, id: ProcessId, wanted: &Arming<'_>) -> Result<(), Straggler> {
        /// A signal may be lost, or the thread that has it may be kept from running.
        const NEXT_SUMMONS: u64 = 200_000_000;
        let (mut backoff, mut deadline) = (Backoff::default(), Deadline::at(wanted.deadline));
        let mut next_summons = raw::now() + NEXT_SUMMONS;
        let mut looks = 0;
        while record.id() == Some(id) && wanted.is_awaited(record, id) {
            backoff.pause();
            if !backoff.is_sleeping() {
                continue;
            }
            if self.reap_if_dead(id.owner_word(index)) {
                return Ok(());
            }
            let tid = if let Agent::Thread(tid) = record.agent(id) { tid } else { 0 };
            record.delay.note(id, Cause::Mapping, tid, wanted.origins.one, raw::now());
            let is_last = deadline.expired_twice(&backoff);
            // At first, and ever more seldom: most processes answer in this time, and the look costs the more the more they map.
            looks += 1u32;
            if (looks.is_power_of_two() || is_last) && wanted.is_mapped_nowhere(record, id) {
                break;
            }
            if is_last {
                return Err(Straggler { pid: id.pid(), delay: record.delay.of(id) });
            }
            record.ring();
            if raw::now() > next_summons && record.agent(id) == Agent::NotYet {
                summon(record, id);
                next_summons = raw::now() + NEXT_SUMMONS;
            }
        }
        if looks > 0 {
            record.delay.clear();
        }
        Ok(())
    }

    /// Whether a cooperating process may have `origin` mapped shared and writable. Then the file's time of modification moves with
    /// stores that make no call.
    ///
    /// A sharer that is dead is taken out of the table here, which counts its stores: maybe no other process ever comes to do it.
    #[must_use]
    pub fn is_shared(&self, origin: Origin) -> bool {
        self.processes_used().iter().enumerate().any(|(index, record)| {
            let sharer = record.id().filter(|_| record.sharing.includes(origin));
            sharer.is_some_and(|id| !self.reap_if_dead(id.owner_word(index as u32)))
        })
    }

    /// The creations that wait for process `id` to arm.
    pub fn creations_to_arm_for(&self, record: &Process, id: ProcessId) -> impl Iterator<Item = Ticket> {
        let waiting = self.header.creations.under_way().filter(Ticket::is_arming);
        waiting.filter(move |seen| !record.sharing.is_armed_for(id.epoch(), *seen))
    }
}

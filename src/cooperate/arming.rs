//! Waiting until every process that shares an origin has armed its mappings; see [`crate::protocol::sharing`].

use super::drain::Straggler;
use crate::protocol::creation::{Scope, Ticket};
use crate::protocol::origin::Origin;
use crate::protocol::process::{Agent, Process};
use crate::protocol::process_id::ProcessId;
use crate::sys::wait::{Backoff, Deadline};
use crate::table::Table;

impl Table {
    /// Asks every other process to arm that may have what `scope` covers mapped shared and writable, and waits for the answers.
    ///
    /// The gate is closed by `creation`, and the writers are drained: no process begins to map, or to open what has been armed.
    pub fn arm_others(&self, scope: Scope, creation: Ticket, own: ProcessId, deadline: u64) -> Result<(), Straggler> {
        let sharers = || {
            let records = self.processes_used().iter().enumerate();
            records.filter_map(move |(index, record)| {
                let id = record.id().filter(|id| *id != own)?;
                (record.sharing.includes(scope) && !record.sharing.is_armed_for(id.epoch(), creation)).then_some((
                    index as u32,
                    record,
                    id,
                ))
            })
        };
        for (_, record, _) in sharers() {
            record.ring();
        }
        sharers().try_for_each(|(index, record, id)| self.await_arming(index, record, id, scope, creation, deadline))
    }

    fn await_arming(
        &self,
        index: u32,
        record: &Process,
        id: ProcessId,
        scope: Scope,
        creation: Ticket,
        deadline: u64,
    ) -> Result<(), Straggler> {
        let (mut backoff, mut deadline) = (Backoff::default(), Deadline::at(deadline));
        while record.id() == Some(id)
            && record.sharing.includes(scope)
            && !record.sharing.is_armed_for(id.epoch(), creation)
        {
            backoff.pause();
            if !backoff.is_sleeping() {
                continue;
            }
            if self.reap_if_dead(id.owner_word(index)) {
                return Ok(());
            }
            if deadline.expired_twice(&backoff) {
                let tid = if let Agent::Thread(tid) = record.agent(id) { tid } else { 0 };
                return Err(Straggler { pid: id.pid(), tid });
            }
            record.ring();
        }
        Ok(())
    }

    /// Whether a cooperating process may have `origin` mapped shared and writable. Then the file's time of modification moves with
    /// stores that make no call.
    ///
    /// A sharer that is dead is taken out of the table here, which counts its stores: maybe no other process ever comes to do it.
    #[must_use]
    pub fn is_shared(&self, origin: Origin) -> bool {
        let scope = Scope::One(origin);
        self.processes_used().iter().enumerate().any(|(index, record)| {
            let sharer = record.id().filter(|_| record.sharing.includes(scope));
            sharer.is_some_and(|id| !self.reap_if_dead(id.owner_word(index as u32)))
        })
    }

    /// The creations that wait for process `id` to arm, and what each covers.
    pub fn creations_to_arm_for(&self, record: &Process, id: ProcessId) -> impl Iterator<Item = (Ticket, Scope)> {
        let creations = &self.header.creations;
        let waiting = creations.under_way().filter(Ticket::is_arming);
        let waiting = waiting.filter(move |seen| !record.sharing.is_armed_for(id.epoch(), *seen));
        waiting.filter_map(|seen| Some((seen, creations.scope(seen, self)?)))
    }
}

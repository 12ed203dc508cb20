//! Recovery: taking out of the table what the dead left in it.
//!
//! Any process may run any of this at any time and more than once, and be killed while it does.

use super::liveness::{self, Liveness};
use super::shared_mm::is_memory_in_use;
use crate::protocol::creation::Ticket;
use crate::protocol::gate::CallFrame;
use crate::protocol::limits::WRITERS;
use crate::protocol::process::{Child, Dead, Process};
use crate::protocol::process_id::{ProcessId, owner_index};
use crate::protocol::snapshot::View;
use crate::protocol::writer_slot::WriterSlot;
use crate::sys::futex;
use crate::table::Table;

impl Table {
    /// The process that `owner` refers to: its index, record and id, if it is still in the table.
    pub fn owner(&self, owner: u64) -> Option<(u32, &Process, ProcessId)> {
        let index = owner_index(owner)?;
        let record = self.process(index)?;
        Some((index, record, record.owner_id(owner)?))
    }

    /// Whether the process that `owner` refers to is certainly gone. If it is, everything it had is taken out of the table.
    pub fn reap_if_dead(&self, owner: u64) -> bool {
        let Some((index, record, id)) = self.owner(owner) else {
            self.retire_all_of(owner);
            return true;
        };
        let dead = liveness::of(record, id) == Liveness::Dead;
        if dead {
            self.reap(index, record, id);
        }
        dead
    }

    /// Whether no process sees the snapshots of `owner` any more. They are taken out of the table then. The process itself is taken
    /// out only if no child acts in its memory.
    pub fn retire_if_gone(&self, owner: u64) -> bool {
        let is_gone = |(_, record, id): (_, &Process, _)| liveness::of_image(record, id) == Liveness::Dead;
        let gone = self.owner(owner).is_none_or(is_gone);
        if gone && !self.reap_if_dead(owner) {
            self.retire_all_of(owner);
        }
        gone
    }

    /// The same of the mapper of `view`, which is the snapshot at `index`. If the result is true, that snapshot is over: a caller
    /// that found it once, and looks by its index, does not find it again.
    pub fn retire_with_mapper(&self, index: u32, view: &View) -> bool {
        let gone = self.retire_if_gone(view.meta.owner);
        let incarnation = view.head.incarnation();
        // The walk that takes out what the mapper had meets every snapshot that was published before. If it has missed this one, it
        // was misled, and walks miss snapshots of the living as well.
        if gone && self.view(index).is_some_and(|left| left.head.incarnation() == incarnation) {
            self.retire_snapshot(index, incarnation);
            self.declare_damaged();
        }
        gone
    }

    /// Takes the image `id` out: first what refers to its record, then the record.
    pub fn reap(&self, index: u32, record: &Process, id: ProcessId) {
        let dead = Dead { index, record, id };
        let owner = dead.owner();
        let creations = &self.header.creations;
        let is_theirs =
            |creation: &Ticket| self.creation_owner(*creation).is_none_or(|slot| slot.lease().process() == owner);
        // A process commits one creation at a time: it holds the lock over its mappings meanwhile.
        let is_committed = creations.under_way().filter(is_theirs).any(|creation| creation.is_committed());
        self.decide_forks_of(&dead, is_committed);
        creations.under_way().filter(is_theirs).for_each(|creation| self.end_creation(creation));
        for (number, slot) in self.slots_of(record) {
            let lease = slot.lease();
            if lease.process() == owner {
                slot.release(lease);
                self.note_free_writer(number);
            }
        }
        // The process has counted itself what its calls changed. Of its stores nothing is known but which files they may have
        // reached.
        self.header.note_changes_of_sharer(&record.sharing);
        self.retire_all_of(owner);
        self.retire_claims_of(&dead);
        self.clear_pid_hint(index);
        if record.free(id) {
            self.note_free_process(index);
        } else if let Some(next) = record.id() {
            // Another process took `id` out before. The hint that was cleared is that of the record's next image.
            self.hint_pid(index, next);
        }
        self.lower_active();
    }

    /// The slots among which those of a process are, with their indices.
    fn slots_of(&self, record: &Process) -> impl Iterator<Item = (u32, &WriterSlot)> {
        let (slots, noted) = (self.writers_used(), record.holdings.slots());
        let theirs = slots.get(noted.start..noted.end.min(slots.len())).unwrap_or_default();
        (noted.start as u32..).zip(theirs)
    }

    /// Retires the published snapshots of `owner`.
    pub fn retire_all_of(&self, owner: u64) {
        // Where only the image is dead, a child of vfork may still split its snapshots.
        let mut is_any_over = false;
        self.over_splits(|walk| {
            for (snapshot, view) in walk.owned_by(owner) {
                is_any_over |= self.retire_beside_others(snapshot, view.head.incarnation());
            }
        });
        if is_any_over {
            self.lower_active();
        }
    }

    /// Retires the snapshots that were claimed for `dead` and never published.
    fn retire_claims_of(&self, dead: &Dead<'_>) {
        // Marked or not: a claim that was not marked in the end is met by no walk.
        for index in Self::records_in(dead.record.places_of(dead.owner())) {
            let snapshot = self.snapshot(index);
            if snapshot.is_some_and(|snapshot| snapshot.retire_claim(dead.index, || dead.has_record())) {
                self.lower_marks(index);
            }
        }
    }

    /// Tells the children that `parent` was forking when it died how the fork went.
    fn decide_forks_of(&self, parent: &Dead<'_>, committed: bool) {
        if !parent.record.holdings.has_children() {
            return;
        }
        for (index, record) in self.processes_used().iter().enumerate() {
            let index = index as u32;
            let retire_claims = |id| {
                self.clear_pid_hint(index);
                self.retire_claims_of(&Dead { index, record, id });
            };
            if let Child::NeverForked(id) = record.resolve_orphan(parent, committed, retire_claims) {
                self.retire_all_of(id.owner_word(index));
            }
        }
    }

    /// Retires the snapshots whose mapper is not in the table any more: a process that reaped it was killed half-way.
    fn retire_orphans(&self) {
        // A single walk: no process is left to split these.
        for (snapshot, view) in self.walk_once().live() {
            if self.owner(view.meta.owner).is_none() {
                self.retire_snapshot(snapshot, view.head.incarnation());
            }
        }
    }

    /// Takes every dead process out.
    pub fn reap_the_dead(&self) {
        for (index, record) in self.processes_used().iter().enumerate() {
            let Some(id) = record.id() else { continue };
            if liveness::of(record, id) == Liveness::Dead {
                self.reap(index as u32, record, id);
            }
        }
        self.retire_orphans();
        self.lower_active();
    }

    /// Takes out what had the pid of `id` before: exec put `id` in its place, or the pid was used again.
    fn reap_earlier_images(&self, id: ProcessId) {
        let is_earlier = |other: &ProcessId| id.pid() != 0 && other.pid() == id.pid() && *other != id;
        for index in self.hinted(id.pid()) {
            if let Some(record) = self.process(index)
                && let Some(earlier) = record.id().filter(is_earlier)
                && !is_memory_in_use(record, earlier)
            {
                self.reap(index, record, earlier);
            }
        }
    }

    /// The slot of a creation's owner.
    pub fn creation_owner(&self, creation: Ticket) -> Option<&WriterSlot> {
        self.writer(u32::from(creation.owner()))
    }

    /// Ends the creation `seen` if its owner is gone.
    pub(crate) fn end_if_dead(&self, seen: Ticket) {
        let owner = self.creation_owner(seen).map_or(0, |slot| slot.lease().process());
        if owner == 0 || self.reap_if_dead(owner) {
            self.end_creation(seen);
        }
    }

    /// Ends a creation in the place of its owner, and wakes its waiters.
    pub fn end_creation(&self, seen: Ticket) {
        let creations = &self.header.creations;
        if creations.clear_impossible(seen) {
            self.declare_damaged();
        } else {
            creations.end(seen);
        }
        futex::wake(creations.futex(seen));
    }

    /// A record for process `id`, if one is free, can be freed, or can be had.
    pub fn claim_process(&self, id: ProcessId) -> Option<(u32, &Process)> {
        let parent = id.parent_of_pending().and_then(|parent| self.process(parent));
        parent.inspect(|parent| parent.holdings.note_child());
        let index = self.find_process(id)?;
        // This comes before the new process describes itself: what the record's last process shared would be taken for its own.
        self.processes[index].sharing.describe(core::iter::empty());
        self.processes[index].holdings.begin();
        self.reap_earlier_images(id);
        Some((index as u32, &self.processes[index]))
    }

    /// A slot for thread `tid` of process `owner`, if one is free, can be freed, or can be had.
    pub fn claim_writer(&self, owner: u64, tid: u32) -> Option<(u32, &WriterSlot)> {
        let index = self.find_writer(owner, tid)?;
        Some((index as u32, &self.writers[index]))
    }

    /// The slot that `owner` has for thread `tid`.
    pub fn writer_of(&self, owner: u64, tid: u32) -> Option<(u32, &WriterSlot)> {
        let is_wanted = |slot: &WriterSlot| {
            let lease = slot.lease();
            lease.process() == owner && slot.thread(lease) == tid
        };
        let found = self.writers_used().iter().enumerate().find(|(_, slot)| is_wanted(slot));
        found.map(|(index, slot)| (index as u32, slot))
    }

    /// A slot for the child `owner`, in which it goes on with the calls in `frames` of slot `parent`. The slot lies at the same
    /// offset in its page as `parent` does, so that the child can map it at the same address.
    pub fn claim_child_slot(&self, owner: u64, parent: u32, frames: &[CallFrame]) -> Option<(u32, &WriterSlot)> {
        let a_page = crate::PAGE as usize / size_of::<WriterSlot>();
        let can_continue =
            |slot: &WriterSlot| slot.frames().iter().zip(frames).all(|(frame, other)| frame.can_continue(other));
        let claim = |index: &usize| {
            let slot = &self.writers[*index];
            let is_claimed = slot.lease().is_vacant() && can_continue(slot) && {
                self.note_writer(owner, *index as u32);
                slot.claim(owner, 0)
            };
            // Another thread may have had the slot meanwhile.
            let is_good = is_claimed && can_continue(slot);
            if is_claimed && !is_good {
                slot.release(slot.lease());
            }
            is_good
        };
        let alike = || (parent as usize % a_page..WRITERS).step_by(a_page);
        let find = || alike().take_while(|index| self.reach_writer(*index)).find(claim);
        let index = find().or_else(|| {
            self.free_abandoned_slots();
            find()
        })?;
        Some((index as u32, &self.writers[index]))
    }

    /// Notes that the calls in `frames`, of the thread that is about to fork, are under way in `slot` as well. They are over in the
    /// parent only after this, and a creation that looks for calls meanwhile looks again.
    pub fn continue_calls(
        &self,
        slot: &WriterSlot,
        frames: &[CallFrame],
        descriptors_seen: impl Fn(&CallFrame) -> u32,
    ) {
        for (frame, other) in slot.frames().iter().zip(frames) {
            frame.continue_from(other, descriptors_seen(other));
        }
        self.header.note_continued();
    }

    /// Frees the slots of dead processes, and of threads that ended without saying so.
    pub fn free_abandoned_slots(&self) {
        self.reap_the_dead();
        for slot in self.writers_used() {
            let lease = slot.lease();
            match self.owner(lease.process()) {
                None => slot.release(lease),
                Some((_, record, id)) if liveness::is_thread_gone(record, id, slot.thread(lease)) => {
                    slot.release(lease)
                }
                Some(_) => {}
            }
        }
    }
}

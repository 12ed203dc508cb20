//! Waiting for others: a creation for the writers under way, a mapper for the pushers.
//!
//! No process waits for the dead, and none waits for ever.

use rustix::io::Errno;

use super::liveness::{self, Liveness};
use super::locate::target_of_stat;
use super::thread_state::{CallingThread, ThreadSyscall};
use crate::protocol::creation::Scope;
use crate::protocol::gate::{Announcement, CallFrame, NO_DESCRIPTOR};
use crate::protocol::origin::{Origin, Target};
use crate::protocol::process::Process;
use crate::protocol::process_id::ProcessId;
use crate::protocol::writer_slot::WriterSlot;
use crate::sys::procfs::ProcPath;
use crate::sys::sync::{Ordering, fence};
use crate::sys::wait::{Backoff, Deadline};
use crate::table::Table;

/// The thread that did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Straggler {
    /// Its process; 0 if that is not known.
    pub pid: u32,
    /// Its thread; 0 if that is not known.
    pub tid: u32,
}

impl Table {
    /// Waits until no call is under way that could change what `scope` covers, except the calls of the caller's slot.
    pub fn drain(&self, scope: Scope, own_slot: u32, deadline: u64) -> Result<(), Straggler> {
        loop {
            let continued = self.header.continued();
            for (index, slot) in self.writers_used().iter().enumerate() {
                if index as u32 == own_slot {
                    continue;
                }
                for frame in slot.frames() {
                    self.await_frame(slot, frame, scope, deadline)?;
                }
            }
            // If the count moved, a fork has copied calls to a child's slot: a call of this walk may be under way in a slot that
            // was passed before.
            if self.header.continued() == continued {
                break;
            }
        }
        self.await_unannounced(deadline)
    }

    /// Waits for the calls that found no free slot to announce themselves in.
    fn await_unannounced(&self, deadline: u64) -> Result<(), Straggler> {
        let (mut backoff, mut deadline) = (Backoff::default(), Deadline::at(deadline));
        while let Some((index, id)) = self.first_unannounced() {
            if self.process(index).is_some_and(|record| record.unannounced(id) > MOST_THREADS) {
                self.declare_damaged();
            }
            let is_gone = backoff.is_sleeping() && self.reap_if_dead(id.owner_word(index));
            if !is_gone && deadline.expired_twice(&backoff) {
                return Err(Straggler { pid: id.pid(), tid: 0 });
            }
            backoff.pause();
        }
        Ok(())
    }

    /// The first process that has calls under way without a slot.
    fn first_unannounced(&self) -> Option<(u32, ProcessId)> {
        self.processes_used().iter().enumerate().find_map(|(index, record)| {
            let id = record.id()?;
            (record.unannounced(id) != 0).then_some((index as u32, id))
        })
    }

    /// A call without a slot, of the calling process, begins. False: snapshots exist or are being made, so it may not. See
    /// [`Process::leave_unannounced`].
    pub fn enter_unannounced(&self, own: &Process, id: ProcessId) -> bool {
        own.enter_unannounced(id);
        let may = !self.header.active.is_raised();
        if !may {
            own.leave_unannounced(id);
        }
        may
    }

    fn await_frame(&self, slot: &WriterSlot, frame: &CallFrame, scope: Scope, deadline: u64) -> Result<(), Straggler> {
        let (mut backoff, mut deadline) = (Backoff::default(), Deadline::at(deadline));
        loop {
            let Some(announcement) = under_way(frame, scope) else { return Ok(()) };
            let is_sleeping = backoff.is_sleeping();
            if is_sleeping
                && (self.is_over(slot, frame, announcement) || self.is_elsewhere(slot, frame, announcement, scope))
            {
                return Ok(());
            }
            if deadline.expired_twice(&backoff) {
                return Err(self.straggler(slot));
            }
            backoff.pause();
        }
    }

    /// Whether no call is under way that may be changing `origin`. It does not wait.
    #[must_use]
    pub fn is_quiet(&self, origin: Origin) -> bool {
        let scope = Scope::One(origin);
        let is_clear = |slot: &WriterSlot, frame: &CallFrame| {
            under_way(frame, scope).is_none_or(|announcement| {
                self.is_over(slot, frame, announcement) || self.is_elsewhere(slot, frame, announcement, scope)
            })
        };
        let continued = self.header.continued();
        self.writers_used().iter().all(|slot| slot.frames().iter().all(|frame| is_clear(slot, frame)))
            && self.header.continued() == continued
            && self.is_all_announced()
    }

    /// Whether no living process has calls under way without a slot. A dead one is taken out: otherwise it would count as busy for
    /// ever.
    fn is_all_announced(&self) -> bool {
        self.processes_used().iter().enumerate().all(|(index, record)| {
            let busy = record.id().filter(|id| record.unannounced(*id) != 0);
            busy.is_none_or(|id| self.reap_if_dead(id.owner_word(index as u32)))
        })
    }

    pub(super) fn straggler(&self, slot: &WriterSlot) -> Straggler {
        let lease = slot.lease();
        let pid = self.owner(lease.process()).map_or(0, |(_, _, id)| id.pid());
        Straggler { pid, tid: slot.thread(lease) }
    }

    /// Whether the call of `announcement` cannot happen any more because its process or thread is gone.
    fn is_over(&self, slot: &WriterSlot, frame: &CallFrame, announcement: Announcement) -> bool {
        let lease = slot.lease();
        if lease.is_vacant() {
            return frame.load().1 == announcement;
        }
        if self.reap_if_dead(lease.process()) {
            // The record can be gone before its slots are: a process that reaped it was killed in between.
            slot.release(lease);
            return true;
        }
        let Some((_, record, id)) = self.owner(lease.process()) else { return false };
        let gone = liveness::is_thread_gone(record, id, slot.thread(lease));
        if gone {
            slot.release(lease);
        }
        gone
    }

    /// The thread that makes the calls of a slot. `None`: another process may make them, with descriptors of its own: a child that
    /// acts in this memory.
    fn calling_thread(&self, slot: &WriterSlot) -> Option<CallingThread<'_>> {
        let lease = slot.lease();
        let (_, process, id) = self.owner(lease.process())?;
        let thread = slot.thread(lease);
        let syscall = ThreadSyscall::read(id.pid(), thread);
        // The order counts: an image that is alive after the look at its thread was alive at that look.
        let shares_no_mm =
            || syscall.shares_no_mm(id.pid(), thread) && liveness::of_image(process, id) == Liveness::Alive;
        (thread != 0 && (process.mm_sharer(id).is_none() || shares_no_mm())).then_some(CallingThread {
            process,
            id,
            thread,
            syscall,
        })
    }

    /// Whether the descriptor of a call that has not noted its target leads to nothing that `scope` covers. A call by path has none,
    /// so it may go anywhere.
    fn is_elsewhere(&self, slot: &WriterSlot, frame: &CallFrame, announcement: Announcement, scope: Scope) -> bool {
        let (descriptor, seen) = frame.descriptor();
        if descriptor == NO_DESCRIPTOR {
            return false;
        }
        let Some(calling_thread) = self.calling_thread(slot) else { return false };
        let CallingThread { process, id, thread, syscall } = calling_thread;
        let path = ProcPath::of(id.pid(), "task").slash(thread).then("/fd").slash(descriptor);
        let covered = match rustix::fs::stat(path.as_c_str()) {
            Ok(stat) => match target_of_stat(&stat) {
                Target::Origin(origin) => scope.covers(origin),
                Target::Elsewhere => false,
                Target::Unknown => true,
            },
            Err(Errno::NOENT) => false,
            Err(_) => true,
        };
        // Acquire: pairs with the Release in `Process::change_descriptor`: the look at the descriptor comes before any change that
        // is not counted yet.
        fence(Ordering::Acquire);
        // A number that came to mean another file meanwhile tells nothing of a call that is in the kernel with it. If the call is
        // yet to be made, or made again, with a number that comes to mean an origin, the writer itself finds that out afterwards.
        let is_telling = process.descriptors(descriptor) == seen || syscall.is_waiting_elsewhere();
        !covered && is_telling && frame.load().1 == announcement && frame.target_at(announcement) == Target::Unknown
    }

    /// Waits until no thread pushes into snapshot `index`, whose generation is odd. With `only_bytes` it waits only for pushers
    /// that store bytes. False: a thread still pushes when `deadline` has come.
    #[must_use]
    pub fn await_pushers(&self, index: u32, only_bytes: bool, deadline: u64) -> bool {
        self.writers_used()
            .iter()
            .all(|slot| self.await_frames(slot, deadline, |frame| frame.is_pushing(index, only_bytes)))
    }

    /// Waits until no thread of the process that `owner` refers to pushes into any snapshot. False: one still does when `deadline`
    /// has come.
    #[must_use]
    pub fn await_pushers_of(&self, owner: u64, deadline: u64) -> bool {
        let mut own = self.writers_used().iter().filter(|slot| slot.lease().process() == owner);
        own.all(|slot| self.await_frames(slot, deadline, CallFrame::is_pushing_any))
    }

    /// Waits until `is_busy` holds for no frame of a slot whose call is under way.
    fn await_frames(&self, slot: &WriterSlot, deadline: u64, is_busy: impl Fn(&CallFrame) -> bool) -> bool {
        slot.frames().iter().all(|frame| {
            let mut backoff = Backoff::default();
            let mut deadline = Deadline::at(deadline);
            while is_busy(frame) {
                if backoff.is_sleeping() && self.is_over(slot, frame, frame.load().1) {
                    return true;
                }
                if deadline.expired_twice(&backoff) {
                    return false;
                }
                backoff.pause();
            }
            true
        })
    }
}

/// The call in `frame`, if it is under way and may be changing what `scope` covers.
fn under_way(frame: &CallFrame, scope: Scope) -> Option<Announcement> {
    let (phase, announcement) = frame.load();
    let concerned = phase.is_under_way()
        && match frame.target_at(announcement) {
            Target::Elsewhere => false,
            Target::Origin(origin) => scope.covers(origin),
            Target::Unknown => true,
        };
    concerned.then_some(announcement)
}

/// PID_MAX_LIMIT of linux/threads.h.
const MOST_THREADS: u32 = 4 << 20;

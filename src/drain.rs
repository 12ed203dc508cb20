//! Waiting for others: a creation for the writers under way, a writer for the creation under way, a mapper for the pushers.
//!
//! Nobody waits for the dead, and nobody waits for ever.

use core::ffi::c_char;
use core::mem::MaybeUninit;
use core::time::Duration;

use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, makedev, statx};
use rustix::io::Errno;
use syscalls::{Sysno, syscall};

use crate::protocol::changes::Modified;
use crate::protocol::creation::{Scope, Ticket};
use crate::protocol::gate::{Frame, Turn};
use crate::protocol::origin::{Origin, Place};
use crate::protocol::process::Process;
use crate::protocol::process_id::ProcessId;
use crate::protocol::writer_slot::WriterSlot;
use crate::sys::procfs::{self, ProcPath, Stat};
use crate::sys::sync::{Ordering, fence};
use crate::sys::wait::Patience;
use crate::sys::{futex, raw};
use crate::table::Table;
use crate::table::liveness::{self, Liveness};

/// Who did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blame {
    /// Its process; 0 if that is not known.
    pub pid: u32,
    /// Its thread; 0 if that is not known.
    pub tid: u32,
}

/// Where a descriptor leads; [`Place::Unknown`] if the kernel does not say, be it for want of memory or by a filter of seccomp(2) that
/// refuses to be asked.
///
/// Asks for type and inode only: to be asked for its times makes a file system with multigrain timestamps update them at every
/// later write (Documentation/filesystems/multigrain-ts.rst).
pub fn place_behind(descriptor: u32) -> Place {
    let wanted = StatxFlags::TYPE | StatxFlags::INO;
    match statx(raw::borrow(descriptor), c"", AtFlags::EMPTY_PATH, wanted) {
        Ok(found) => place_found(&found),
        Err(Errno::BADF) => Place::Elsewhere,
        Err(_) => place_otherwise(descriptor),
    }
}

/// By older calls: a filter may know one of them and not the others.
#[cold]
fn place_otherwise(descriptor: u32) -> Place {
    let file = raw::borrow(descriptor);
    match rustix::fs::fstat(file).or_else(|_| rustix::fs::statat(file, c"", AtFlags::EMPTY_PATH)) {
        Ok(found) => place_of(&found),
        Err(Errno::BADF) => Place::Elsewhere,
        // What has no position is neither a file nor a block device.
        Err(_) if rustix::fs::tell(file) == Err(Errno::SPIPE) => Place::Elsewhere,
        Err(_) => Place::Unknown,
    }
}

/// Where a path leads from `directory`, an application's path, with the flags of newfstatat(2). [`Place::Elsewhere`] also where the
/// call that will look it up fails as this look does.
pub fn place_at(directory: u32, path: *const c_char, flags: u32) -> Place {
    let mut found = MaybeUninit::<Statx>::uninit();
    let wanted = (StatxFlags::TYPE | StatxFlags::INO).bits();
    // SAFETY: `found` is a struct statx; the kernel checks the application's pointer.
    let done = unsafe { syscall!(Sysno::statx, directory as i32, path, flags, wanted, found.as_mut_ptr()) };
    match done {
        // SAFETY: the call filled it in.
        Ok(_) => place_found(unsafe { found.assume_init_ref() }),
        Err(error) if is_of_the_path(error) => Place::Elsewhere,
        Err(_) => place_at_otherwise(directory, path, flags),
    }
}

#[cold]
fn place_at_otherwise(directory: u32, path: *const c_char, flags: u32) -> Place {
    let mut found = MaybeUninit::<rustix::fs::Stat>::uninit();
    // SAFETY: `found` is a struct stat; the kernel checks the application's pointer.
    let done = unsafe { syscall!(Sysno::newfstatat, directory as i32, path, found.as_mut_ptr(), flags) };
    match done {
        // SAFETY: the call filled it in.
        Ok(_) => place_of(unsafe { found.assume_init_ref() }),
        Err(error) if is_of_the_path(error) => Place::Elsewhere,
        Err(_) => Place::Unknown,
    }
}

/// Whether the path, and not the looking, is what fails.
fn is_of_the_path(error: syscalls::Errno) -> bool {
    use syscalls::Errno as E;
    [E::ENOENT, E::ENOTDIR, E::ELOOP, E::ENAMETOOLONG, E::EACCES, E::EFAULT, E::EBADF].contains(&error)
}

/// Where a descriptor leads, when that file was modified, and its size. To be asked seldom: see [`place_behind`].
pub fn modified_behind(file: BorrowedFd<'_>) -> Option<(Place, Modified)> {
    let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MTIME | StatxFlags::SIZE;
    let found = statx(file, c"", AtFlags::EMPTY_PATH, wanted).ok()?;
    let modified = Modified::new(found.stx_mtime.tv_sec, u64::from(found.stx_mtime.tv_nsec), found.stx_size);
    StatxFlags::from_bits_retain(found.stx_mask).contains(wanted).then(|| (place_found(&found), modified))
}

fn place_found(found: &Statx) -> Place {
    match FileType::from_raw_mode(found.stx_mode.into()) {
        FileType::RegularFile => {
            Place::Origin(Origin::file(makedev(found.stx_dev_major, found.stx_dev_minor), found.stx_ino))
        }
        FileType::BlockDevice => {
            Place::Origin(Origin::block_device(makedev(found.stx_rdev_major, found.stx_rdev_minor)))
        }
        _ => Place::Elsewhere,
    }
}

/// Where a `stat` leads.
#[must_use]
pub fn place_of(stat: &rustix::fs::Stat) -> Place {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Place::Origin(Origin::file(stat.st_dev, stat.st_ino)),
        FileType::BlockDevice => Place::Origin(Origin::block_device(stat.st_rdev)),
        _ => Place::Elsewhere,
    }
}

impl Table {
    /// Waits until no call that could change what `scope` covers is under way, but for those of the caller's slot.
    pub fn drain(&self, scope: Scope, own_slot: u32, deadline: u64) -> Result<(), Blame> {
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
            // Else a call that was waited for may be under way in a slot that was passed by.
            if self.header.continued() == continued {
                break;
            }
        }
        self.await_unannounced(deadline)
    }

    /// Waits for the calls that found no free slot to announce themselves in.
    fn await_unannounced(&self, deadline: u64) -> Result<(), Blame> {
        let mut patience = Patience::default();
        while let Some((index, id)) = self.first_unannounced() {
            if self.process(index).is_some_and(|record| record.unannounced(id) > MOST_THREADS) {
                self.declare_damaged();
            }
            if patience.is_tried() && !self.bury_if_dead(id.owner_word(index)) && raw::now() > deadline {
                return Err(Blame { pid: id.pid(), tid: 0 });
            }
            patience.pause();
        }
        Ok(())
    }

    /// A process that has calls under way without a slot.
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

    fn await_frame(&self, slot: &WriterSlot, frame: &Frame, scope: Scope, deadline: u64) -> Result<(), Blame> {
        let mut patience = Patience::default();
        loop {
            let Some(turn) = under_way(frame, scope) else { return Ok(()) };
            if patience.is_tried() {
                if self.is_over(slot, frame, turn) || self.is_elsewhere(slot, frame, turn, scope) {
                    return Ok(());
                }
                if raw::now() > deadline {
                    return Err(self.blame(slot));
                }
            }
            patience.pause();
        }
    }

    /// Whether no call is under way that may be changing `origin`. Waits for nobody.
    #[must_use]
    pub fn is_quiet(&self, origin: Origin) -> bool {
        let scope = Scope::One(origin);
        let is_clear = |slot: &WriterSlot, frame: &Frame| {
            under_way(frame, scope)
                .is_none_or(|turn| self.is_over(slot, frame, turn) || self.is_elsewhere(slot, frame, turn, scope))
        };
        let continued = self.header.continued();
        self.writers_used().iter().all(|slot| slot.frames().iter().all(|frame| is_clear(slot, frame)))
            && self.header.continued() == continued
            && self.is_all_announced()
    }

    /// Whether no living process has calls under way without a slot. The dead are taken out: else one of them would be taken for
    /// busy for ever.
    fn is_all_announced(&self) -> bool {
        self.processes_used().iter().enumerate().all(|(index, record)| {
            let busy = record.id().filter(|id| record.unannounced(*id) != 0);
            busy.is_none_or(|id| self.bury_if_dead(id.owner_word(index as u32)))
        })
    }

    fn blame(&self, slot: &WriterSlot) -> Blame {
        let tenure = slot.tenure();
        let pid = self.owner(tenure.process()).map_or(0, |(_, _, id)| id.pid());
        Blame { pid, tid: slot.thread(tenure) }
    }

    /// Whether the call of `turn` cannot happen any more because its process or thread is gone.
    fn is_over(&self, slot: &WriterSlot, frame: &Frame, turn: Turn) -> bool {
        let tenure = slot.tenure();
        if tenure.is_vacant() {
            return frame.look().1 == turn;
        }
        if self.bury_if_dead(tenure.process()) {
            // The record may be gone before its slots are: who buried it was killed in between.
            slot.release(tenure);
            return true;
        }
        let Some((_, record, id)) = self.owner(tenure.process()) else { return false };
        let gone = liveness::is_thread_gone(record, id, slot.thread(tenure));
        if gone {
            slot.release(tenure);
        }
        gone
    }

    /// Who makes the calls of a slot; `None`: somebody else may, with descriptors of its own, as a child that acts in this memory.
    fn maker(&self, slot: &WriterSlot) -> Option<Maker<'_>> {
        let tenure = slot.tenure();
        let (_, process, id) = self.owner(tenure.process())?;
        let thread = slot.thread(tenure);
        let doing = Doing::read(id.pid(), thread);
        // Looked at in this order: an image that still is there was there when its thread was looked at.
        let is_no_loan = || doing.is_no_loan(id.pid(), thread) && liveness::of_image(process, id) == Liveness::Alive;
        (thread != 0 && (process.lender(id).is_none() || is_no_loan())).then_some(Maker { process, id, thread, doing })
    }

    /// Whether the descriptor of a call that has not said where it goes leads to nothing that `scope` covers.
    fn is_elsewhere(&self, slot: &WriterSlot, frame: &Frame, turn: Turn, scope: Scope) -> bool {
        let (descriptor, seen) = frame.descriptor();
        let Some(maker) = self.maker(slot) else { return false };
        let Maker { process, id, thread, doing } = maker;
        let path = ProcPath::of(id.pid(), "task").slash(thread).then("/fd").slash(descriptor);
        let covered = match rustix::fs::stat(path.as_c_str()) {
            Ok(stat) => match place_of(&stat) {
                Place::Origin(origin) => scope.covers(origin),
                Place::Elsewhere => false,
                Place::Unknown => true,
            },
            Err(Errno::NOENT) => false,
            Err(_) => true,
        };
        // Acquire: pairs with the Release in `Process::change_descriptor`: the look was before any change that is not counted.
        fence(Ordering::Acquire);
        // A number that was given away meanwhile says nothing of a call that is in the kernel with it. One that is yet to be made,
        // or made again, with a number that comes to mean an origin is found afterwards, by the writer itself.
        let is_telling = process.descriptors(descriptor) == seen || doing.is_waiting_elsewhere();
        !covered && is_telling && frame.look().1 == turn && frame.place_at(turn) == Place::Unknown
    }

    /// Waits until the creation that was seen is over, ending it if its owner is dead or has taken too long.
    pub fn await_creation(&self, seen: Ticket) {
        let creation = &self.header.creation;
        let first_seen = raw::now();
        let mut patience = Patience::default();
        while creation.look() == seen {
            patience.pause();
            if !patience.is_tried() {
                continue;
            }
            let owner = self.creation_owner(seen).map_or(0, |slot| slot.tenure().process());
            let dead = owner == 0 || self.bury_if_dead(owner);
            let deadline = creation.deadline(seen, self).unwrap_or(first_seen);
            if deadline > first_seen + LONGEST_CREATION {
                self.declare_damaged();
            }
            if dead || self.is_damaged() || raw::now() > deadline {
                self.end_creation(seen);
            } else {
                futex::wait(creation.futex(), seen.low_half(), Duration::from_millis(2));
            }
        }
    }

    /// Waits until nobody pushes into snapshot `index`, whose generation is odd. With `only_bytes`, only for pushers that store
    /// bytes. False: somebody still does when `deadline` has come.
    #[must_use]
    pub fn await_pushers(&self, index: u32, only_bytes: bool, deadline: u64) -> bool {
        self.writers_used()
            .iter()
            .all(|slot| self.await_frames(slot, deadline, |frame| frame.is_pushing(index, only_bytes)))
    }

    /// Waits until no thread of the process that `owner` refers to pushes into any snapshot. False as above.
    #[must_use]
    pub fn await_pushers_of(&self, owner: u64, deadline: u64) -> bool {
        let mut own = self.writers_used().iter().filter(|slot| slot.tenure().process() == owner);
        own.all(|slot| self.await_frames(slot, deadline, Frame::is_pushing_any))
    }

    /// Waits until `is_busy` holds for no frame of a slot whose call is under way.
    fn await_frames(&self, slot: &WriterSlot, deadline: u64, is_busy: impl Fn(&Frame) -> bool) -> bool {
        slot.frames().iter().all(|frame| {
            let mut patience = Patience::default();
            let mut is_late = false;
            while is_busy(frame) {
                if patience.is_tried() {
                    let (_, turn) = frame.look();
                    if self.is_over(slot, frame, turn) {
                        return true;
                    }
                    // Once more behind the clock: this thread may have been stopped.
                    if is_late {
                        return false;
                    }
                    is_late = raw::now() > deadline;
                }
                patience.pause();
            }
            true
        })
    }
}

/// The call in `frame`, if it is under way and may be changing what `scope` covers.
fn under_way(frame: &Frame, scope: Scope) -> Option<Turn> {
    let (phase, turn) = frame.look();
    let concerned = phase.is_under_way()
        && match frame.place_at(turn) {
            Place::Elsewhere => false,
            Place::Origin(origin) => scope.covers(origin),
            Place::Unknown => true,
        };
    concerned.then_some(turn)
}

/// The thread that makes the calls of a slot.
struct Maker<'a> {
    process: &'a Process,
    id: ProcessId,
    thread: u32,
    doing: Doing,
}

/// What a thread is doing in the kernel: /proc/PID/task/TID/syscall (proc_pid_syscall(5)), which is readable for who may trace it.
#[derive(Clone, Copy, Debug, Default)]
struct Doing {
    /// The number of the call that it waits in.
    call: Option<u64>,
}

impl Doing {
    fn read(pid: u32, thread: u32) -> Self {
        let mut buffer = [0u8; 256];
        let path = ProcPath::of(pid, "task").slash(thread).then("/syscall");
        let text = procfs::read_file(path.as_c_str(), &mut buffer).unwrap_or(b"");
        Self::parse(core::str::from_utf8(text).unwrap_or("")).unwrap_or_default()
    }

    /// "running", or the call's number (-1 outside of one) with its arguments, then the stack pointer and the program counter.
    ///
    /// Where the stack pointer is says nothing of a call further up: the thread may be in a handler on another stack.
    fn parse(text: &str) -> Option<Self> {
        let call = text.split_ascii_whitespace().next()?.parse::<u64>().ok();
        Some(Self { call })
    }

    /// Whether it waits in a call that writes nothing.
    fn is_waiting_elsewhere(&self) -> bool {
        self.call.is_some_and(|call| !WRITING.contains(&call))
    }

    /// Whether it certainly does not wait for a child of vfork(2), or by clone(2), that may have its memory and stack meanwhile.
    fn is_no_loan(&self, pid: u32, thread: u32) -> bool {
        const LENDING: [u64; 3] = [56, 58, 435];
        match self.call {
            Some(call) => !LENDING.contains(&call),
            // Running, or not ours to know; its state is there for everybody.
            None => {
                Stat::read(&ProcPath::of(pid, "task").slash(thread).then("/stat")).is_ok_and(|stat| stat.is_no_vfork())
            }
        }
    }
}

/// The system calls that the hooks announce (x86-64).
const WRITING: [u64; 21] =
    [1, 2, 16, 18, 20, 40, 76, 77, 85, 132, 209, 235, 257, 261, 275, 280, 285, 296, 304, 326, 328];

/// The longest SNAPSHIM_TIMEOUT_MS, in nanoseconds: no creator gives itself longer.
const LONGEST_CREATION: u64 = 60_000_000_000;

/// PID_MAX_LIMIT of linux/threads.h.
const MOST_THREADS: u32 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const IN_READ: &str = "0 0x0 0x7f0000000000 0x400 0x0 0x0 0x0 0x7ffd00001000 0x7f1234567890\n";

    #[test]
    fn a_thread_that_waits_in_read_writes_nothing() {
        let doing = Doing::parse(IN_READ).unwrap();
        assert_eq!(doing.call, Some(0));
        assert!(doing.is_waiting_elsewhere());
    }

    #[test]
    fn no_call_that_writes_is_taken_for_another() {
        use Sysno::*;
        let writing = [write, pwrite64, writev, pwritev, pwritev2, copy_file_range, sendfile, splice, io_submit, ioctl];
        let cutting = [truncate, ftruncate, fallocate, open, openat, creat, open_by_handle_at];
        for call in writing.into_iter().chain(cutting) {
            let doing = Doing { call: Some(call.id() as u64) };
            assert!(!doing.is_waiting_elsewhere(), "{call}");
        }
    }

    #[test]
    fn a_thread_that_writes_runs_or_cannot_be_seen_may_be_writing() {
        for text in [
            "1 0x3 0x7f0000000000 0x400 0x0 0x0 0x0 0x7ffd00001000 0x7f12",
            "running\n",
            "-1 0x7ffd00001000 0x7f12\n",
            "",
        ] {
            assert!(!Doing::parse(text).unwrap_or_default().is_waiting_elsewhere(), "{text}");
        }
    }
}

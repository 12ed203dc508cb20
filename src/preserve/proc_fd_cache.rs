//! Files of other processes in /proc that are opened once and used again, and the numbers that they have among the application's.
//!
//! A number of the application's table can be closed, or come to be another file, at any moment. Bytes for /proc/PID/mem would then
//! go into that file. Every system call that writes with force to another process takes a number, and a table of one's own takes a
//! thread of one's own, which a writer has not. So the numbers are guarded: the hooks of close(2), close_range(2), dup2(2) and
//! dup3(2) ask here. A close of a guarded number is answered as natively where nothing is open, and leaves the number open. A dup2
//! to a guarded number takes it out of service, waits for the frames that may be using it, and then replaces it.
//!
//! A hook that has looked before a number was guarded may make its call afterwards. It announces itself before it looks
//! ([`ProcFdCache::replacing`]), and a file is not used for the first time before all such calls are over. The two sides put a
//! fence between their store and their load, so at least one sees the other.
//!
//! A call that passes the hooks (a program's own system call instruction) is noticed at the next use: a file is known by its
//! position, a random one that nothing else moves (mem_lseek, fs/proc/base.c, takes any; all reading and writing here is at
//! offsets). The position is compared before bytes may be written, so that none go to a file that took the number, and after a look
//! at a pagemap, so that nothing is believed that came from another file. A file is bound to the address space that it was opened
//! on.
//!
//! There is room for the files of many mappers. The files of those that have ended are closed when another is opened, and by
//! writers that go on: about once a second.

use rustix::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use rustix::fs::{OFlags, SeekFrom, seek, tell};
use rustix::io::Errno;

use crate::protocol::process_id::ProcessId;
use crate::sys::procfs::ProcPath;
use crate::sys::raw;
use crate::sys::sync::{AtomicU32, AtomicU64, Ordering, full_fence};
use crate::sys::wait::{Backoff, Deadline};

const ENTRIES: usize = 128;
/// Files that are open for one use only, because no entry is free.
const GUESTS: usize = 8;

/// One file. All-zero is free.
#[derive(Debug)]
struct Entry {
    /// The process whose file it is. This word claims the entry.
    image: AtomicU64,
    position: AtomicU64,
    /// Its number + 1. The number is guarded as long as it stands here.
    number: AtomicU32,
    service: AtomicU32,
    /// Uses under way that found the entry serving.
    users: AtomicU32,
}

/// A use of a cached file.
struct InUse<'a>(&'a Entry);

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `give_back`. The count does not go below zero where `forget_calls` came in between.
        let _ = self.0.users.fetch_update(Ordering::Release, Ordering::Relaxed, |users| users.checked_sub(1));
    }
}

/// No use finds the entry: its file is being opened, or is open for one use.
const NOT_YET: u32 = 0;
const SERVING: u32 = 1;
/// A dup2 waits for the frames that use the file.
const WITHDRAWN: u32 = 2;

/// The cached files of a descriptor table: the calling process's, or its agent's own.
#[derive(Debug)]
pub struct ProcFdCache {
    pagemaps: [Entry; ENTRIES],
    memories: [Entry; ENTRIES],
    guests: [Entry; GUESTS],
    /// No number below this one is ever guarded.
    floor: AtomicU32,
    /// Calls under way that may close or replace a number from the floor on.
    replacing: AtomicU32,
    /// When the files of processes that have ended were closed last.
    given_back: AtomicU64,
}

/// How long a first use waits for calls that may replace its number, and a dup2 for uses, nanoseconds. Both take a few system
/// calls.
const LONGEST_WAIT: u64 = 1_000_000_000;

impl ProcFdCache {
    /// An empty cache.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "only ever a static, or an agent's")]
    pub const fn new() -> Self {
        const fn entry() -> Entry {
            Entry {
                image: AtomicU64::new(0),
                position: AtomicU64::new(0),
                number: AtomicU32::new(0),
                service: AtomicU32::new(NOT_YET),
                users: AtomicU32::new(0),
            }
        }
        Self {
            pagemaps: [const { entry() }; ENTRIES],
            memories: [const { entry() }; ENTRIES],
            guests: [const { entry() }; GUESTS],
            floor: AtomicU32::new(u32::MAX),
            replacing: AtomicU32::new(0),
            given_back: AtomicU64::new(0),
        }
    }

    /// Calls `read` with the pagemap of process `id`, one of whose living threads is `thread`.
    ///
    /// The result counts only if the number still is that pagemap afterwards. If it is not, `read` has read from another file at an
    /// offset, which moves nothing there.
    pub fn with_pagemap<T>(
        &self,
        id: ProcessId,
        thread: u32,
        read: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let checked = |entry: &Entry| {
            let result = read(entry.file());
            if entry.is_intact() { result } else { Err(Errno::BADF) }
        };
        if let Some(InUse(entry)) = &find(&self.pagemaps, id) {
            let result = checked(entry);
            if !matches!(result, Err(Errno::BADF)) {
                return result;
            }
        }
        let file = || open(id, thread, "pagemap", OFlags::RDONLY);
        self.with_new(&self.pagemaps, id, file, checked)
    }

    /// Calls `act` with the memory of process `id`, one of whose living threads is `thread`. When the file was opened, the word at
    /// `cookie` told that it is the memory of this image.
    pub fn with_memory<T>(
        &self,
        id: ProcessId,
        thread: u32,
        cookie: u64,
        act: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if let Some(InUse(entry)) = &find(&self.memories, id)
            && entry.is_intact()
        {
            return act(entry.file());
        }
        let file = || open(id, thread, "mem", OFlags::RDWR);
        self.with_new(&self.memories, id, file, |entry| {
            // The number is guarded by now: the file that is at it stays there.
            let mut word = [0u8; 8];
            rustix::io::pread(entry.file(), &mut word, cookie)?;
            if u64::from_ne_bytes(word) != id.to_word() {
                return Err(Errno::SRCH);
            }
            act(entry.file())
        })
    }

    /// Calls `act` with a file that `open` opens, and caches it if an entry is free.
    fn with_new<T>(
        &self,
        places: &[Entry],
        id: ProcessId,
        open: impl FnOnce() -> Result<OwnedFd, Errno>,
        act: impl FnOnce(&Entry) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.give_back_in_time();
        let has_one = places.iter().any(|entry| entry.image.load(Ordering::Relaxed) == id.to_word());
        let place = if has_one { None } else { claim(places, id) };
        let entry = place.or_else(|| claim(&self.guests, id)).ok_or(Errno::BUSY)?;
        let result = match self.put_under_guard(entry, open) {
            Err(error) => {
                entry.image.store(0, Ordering::Release);
                return Err(error);
            }
            Ok(()) if self.is_settled() => act(entry),
            Ok(()) => Err(Errno::BUSY),
        };
        if place.is_some() && result.is_ok() {
            // Release: pairs with the Acquire in `find`.
            entry.service.store(SERVING, Ordering::Release);
        } else {
            entry.close();
        }
        result
    }

    /// Opens a file, moves it to a number that programs seldom use, and guards that number.
    fn put_under_guard(&self, entry: &Entry, open: impl FnOnce() -> Result<OwnedFd, Errno>) -> Result<(), Errno> {
        // The limit of descriptors may have been lowered.
        self.lower_floor();
        let low = open()?;
        let high = rustix::io::fcntl_dupfd_cloexec(&low, raw::least_high_number() as i32);
        if !is_in_proc(&low) || high.as_ref().is_ok_and(|high| !is_in_proc(high)) {
            // The application has put a file of its own at the number before this one was moved. That file stays open, its position
            // as it is.
            let _ = low.into_raw_fd();
            return Err(Errno::BUSY);
        }
        let file = high.unwrap_or_else(|_| {
            // No high number is free. The low number is guarded as well, if later than the others.
            self.lower_floor_to(low.as_raw_fd() as u32);
            low
        });
        let position = raw::random() >> 2;
        if seek(&file, SeekFrom::Start(position)) != Ok(position) {
            return Err(Errno::SPIPE);
        }
        entry.position.store(position, Ordering::Relaxed);
        // Release: pairs with the Acquire in `guarding`; a thread that sees the number sees the position.
        entry.number.store(file.into_raw_fd() as u32 + 1, Ordering::Release);
        // SeqCst: pairs with the fence in `replacing`: the guard comes before the look at the calls.
        full_fence();
        Ok(())
    }

    /// Whether the calls are over that may have looked at a number before it was guarded.
    fn is_settled(&self) -> bool {
        let (mut backoff, mut deadline) = (Backoff::default(), Deadline::at(raw::now() + LONGEST_WAIT));
        // Acquire: pairs with the Release in `replacing`.
        while self.replacing.load(Ordering::Acquire) != 0 {
            if deadline.expired_twice(&backoff) {
                return false;
            }
            backoff.pause();
        }
        true
    }

    /// Lowers the floor to the numbers that may be guarded from now on. Called when the process attaches, before one is guarded.
    pub fn lower_floor(&self) {
        self.lower_floor_to(raw::least_high_number());
    }

    fn lower_floor_to(&self, number: u32) {
        if number < self.floor.load(Ordering::Relaxed) {
            self.floor.fetch_min(number, Ordering::Relaxed);
        }
    }

    /// Whether a number may be guarded, or may come to be.
    #[inline]
    pub fn may_guard(&self, number: u32) -> bool {
        number >= self.floor.load(Ordering::Relaxed)
    }

    /// Does `call`, which looks at what is guarded and may then close or replace a number.
    pub fn replacing<T>(&self, call: impl FnOnce() -> T) -> T {
        self.replacing.fetch_add(1, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `put_under_guard`: the announcement comes before the look.
        full_fence();
        let result = call();
        // Release: pairs with the Acquire in `is_settled`. The count does not go below zero where `forget_calls` came in between.
        let _ = self.replacing.fetch_update(Ordering::Release, Ordering::Relaxed, |calls| calls.checked_sub(1));
        result
    }

    /// Closes the files of processes that have ended, unless that was done in this second.
    pub fn give_back_in_time(&self) {
        const SECOND: u64 = 1_000_000_000;
        let (now, last) = (raw::now(), self.given_back.load(Ordering::Relaxed));
        if now / SECOND != last / SECOND
            // Relaxed: the word only spreads the work.
            && self.given_back.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.pagemaps.iter().chain(&self.memories).for_each(Entry::give_back);
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.pagemaps.iter().chain(&self.memories).chain(&self.guests)
    }

    /// The entry that guards `number`. An entry whose file was closed or replaced past the hooks guards nothing.
    fn guarding(&self, number: u32) -> Option<&Entry> {
        // Acquire: pairs with the Release in `put_under_guard`.
        self.entries().find(|entry| entry.number.load(Ordering::Acquire) == number.wrapping_add(1) && entry.is_intact())
    }

    /// Whether `number` is guarded.
    pub fn guards(&self, number: u32) -> bool {
        self.guarding(number).is_some()
    }

    /// The first guarded number in a range.
    pub fn first_guarded(&self, first: u32, last: u32) -> Option<u32> {
        let numbers = self.entries().filter_map(|entry| entry.number.load(Ordering::Acquire).checked_sub(1));
        numbers.filter(|number| (first..=last).contains(number) && self.guards(*number)).min()
    }

    /// Does `replace`, after which `number` is another file if it succeeded. `are_users_gone` waits until the frames are over that
    /// may be using the old file. The error is that of `replace`, or EBUSY if those frames are not over.
    pub fn vacate<T>(
        &self,
        number: u32,
        are_users_gone: impl FnOnce() -> bool,
        replace: impl FnOnce() -> Result<T, Option<Errno>>,
    ) -> Result<T, Option<Errno>> {
        let (mut backoff, deadline) = (Backoff::default(), raw::now() + LONGEST_WAIT);
        let busy = || Err(Some(Errno::BUSY));
        let entry = loop {
            let Some(entry) = self.guarding(number) else { return replace() };
            let service = &entry.service;
            if service.compare_exchange(SERVING, WITHDRAWN, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                break entry;
            }
            if raw::now() > deadline {
                return busy();
            }
            backoff.pause();
        };
        // SeqCst: pairs with the fence in `CallFrame::start_pushing`: a frame that is not seen now does not find the entry serving.
        full_fence();
        let replaced = if are_users_gone() { replace() } else { busy() };
        if replaced.is_ok() {
            entry.free();
        } else {
            // Release: pairs with the Acquire in `find`.
            entry.service.store(SERVING, Ordering::Release);
        }
        replaced
    }

    /// In a forked child: forgets the calls of the parent's other threads, which do not go on here.
    pub fn forget_calls(&self) {
        self.replacing.store(0, Ordering::Relaxed);
        self.entries().for_each(|entry| entry.users.store(0, Ordering::Relaxed));
        // A file that was being opened, replaced or used once is not there any more, or never serves again. It stays open.
        for entry in self.entries().filter(|entry| entry.service.load(Ordering::Relaxed) != SERVING) {
            entry.free();
        }
    }
}

fn open(id: ProcessId, thread: u32, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    // A child of vfork(2) acts as the process whose memory it has, and is no thread of it.
    let path = if thread == raw::own_tid() {
        ProcPath::thread_self(name)
    } else {
        ProcPath::of(id.pid(), "task").slash(thread).then("/").then(name)
    };
    raw::open(path.as_c_str(), flags)
}

/// Whether an open file is one in /proc.
fn is_in_proc(file: &OwnedFd) -> bool {
    const PROC: u64 = 0x9fa0;
    rustix::fs::fstatfs(file).is_ok_and(|found| found.f_type as u64 == PROC)
}

fn find(entries: &[Entry], id: ProcessId) -> Option<InUse<'_>> {
    let is_its = |entry: &&Entry| entry.image.load(Ordering::Relaxed) == id.to_word();
    let entry = from_its_place(entries, id).find(is_its)?;
    entry.users.fetch_add(1, Ordering::Relaxed);
    let in_use = InUse(entry);
    // SeqCst: pairs with the fence in `give_back`: the count comes before the look whether the entry serves.
    full_fence();
    // Acquire: pairs with the Release in `with_new`.
    (entry.service.load(Ordering::Acquire) == SERVING && is_its(&entry)).then_some(in_use)
}

fn claim(entries: &[Entry], id: ProcessId) -> Option<&Entry> {
    // Acquire: pairs with the Release in `free`.
    let claim =
        |entry: &&Entry| entry.image.compare_exchange(0, id.to_word(), Ordering::Acquire, Ordering::Relaxed).is_ok();
    from_its_place(entries, id).find(claim)
}

/// All entries, from the one on in which the file of a process is likely.
fn from_its_place(entries: &[Entry], id: ProcessId) -> impl Iterator<Item = &Entry> {
    let place = id.epoch() as usize % entries.len();
    entries[place..].iter().chain(&entries[..place])
}

impl Entry {
    fn file(&self) -> BorrowedFd<'static> {
        raw::borrow(self.number.load(Ordering::Relaxed).wrapping_sub(1))
    }

    /// Whether the number still is the file that was opened.
    fn is_intact(&self) -> bool {
        tell(self.file()) == Ok(self.position.load(Ordering::Relaxed))
    }

    /// Closes the file if its process has ended, and no use of it is under way.
    fn give_back(&self) {
        if self.service.load(Ordering::Acquire) != SERVING
            || !self.has_ended()
            || self.service.compare_exchange(SERVING, WITHDRAWN, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            return;
        }
        // SeqCst: pairs with the fence in `find`: a use that is not counted by now does not find the entry serving.
        full_fence();
        // Acquire: pairs with the Release in `InUse::drop`.
        if self.users.load(Ordering::Acquire) == 0 {
            self.close();
        } else {
            // Release: pairs with the Acquire in `find`.
            self.service.store(SERVING, Ordering::Release);
        }
    }

    /// Whether the address space that the file was opened on is gone: then nothing is read from it, and no error is told
    /// (pagemap_read in fs/proc/task_mmu.c, mem_rw in fs/proc/base.c). The same of a file that took its number does no harm.
    fn has_ended(&self) -> bool {
        rustix::io::pread(self.file(), &mut [0u8; 8], 0) == Ok(0)
    }

    /// Closes the file, if it still is that, while the number is guarded.
    fn close(&self) {
        if self.is_intact() {
            // SAFETY: the file was opened here, and nothing else closes it.
            drop(unsafe { raw::adopt_fd(self.file().as_raw_fd()) });
        }
        self.free();
    }

    /// Ends the guard, and makes the entry free.
    fn free(&self) {
        self.number.store(0, Ordering::Relaxed);
        self.service.store(NOT_YET, Ordering::Relaxed);
        // Release: pairs with the Acquire in `claim`.
        self.image.store(0, Ordering::Release);
    }
}

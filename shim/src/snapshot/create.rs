//! The creation of a snapshot: mmap(MAP_PRIVATE|MAP_SNAPSHOT).
//!
//! Nothing of a snapshot stays where a step fails: not its record, not its mapping, and the gate is open again.

use core::ffi::c_void;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use snapshim::PAGE;
use snapshim::cooperate::locate::target_of_stat;
use snapshim::protocol::creation::{Scope, Ticket};
use snapshim::protocol::origin::{Origin, Target};
use snapshim::protocol::snapshot::{Extent, GUARDED, LOCKED, NEVER_WRITABLE, SegmentFlags, SnapshotMeta, State};
use snapshim::protocol::writer_slot::{Request, Task};
use snapshim::sys::signal_block::SignalsBlocked;
use snapshim::sys::{procfs, raw};
use snapshim::table;

use super::instant::{
    armed, begin, commit, doubt_if_unseen, drained, landed, let_forks_go_first, observe_unseen, too_late,
};
use super::place::{map, map_live, read_origin};
use crate::address_space::lock::{self, Mappings};
use crate::agent::start;
use crate::base::config::{Short, config};
use crate::base::mmap_call::Mmap;
use crate::mapper::{faults, preserve_own};
use crate::origins::filesystem::{ALLOWED, OVERLAYFS, TMPFS, is_dax, kind_of_file_system};
use crate::origins::{alias_users, claim, device, foreign_maps, ring_users, watch};
use crate::process::fd_table::AppFd;
use crate::process::log::{Bytes, Level, say};
use crate::process::thread::{self, Thread};
use crate::process::{identity, membership, ptracer};
use crate::shared::calls;

const TYPE: i32 = libc::MAP_SHARED | libc::MAP_PRIVATE;
/// The end of a program's address space: 47 bits without the last page.
pub const ADDRESSES: u64 = (1 << 47) - PAGE;

/// Why a mapping is a snapshot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The program asks for it.
    Flag,
    /// The environment names the file of a private mapping.
    Name,
    /// The environment names the file of a shared mapping, which can never be made writable.
    NameOfShared,
    /// It is none: the environment asks that the mapping stays live, and keeps what a truncation takes away.
    Guard,
    /// The same of a shared mapping.
    GuardOfShared,
}

impl By {
    /// What is mapped past the end of the file. A program that asks for a snapshot by itself can ask for its size as well.
    fn short(self) -> Short {
        if self == Self::Flag { Short::Sigbus } else { config().short }
    }

    fn flags(self) -> SegmentFlags {
        match self {
            Self::Flag | Self::Name => SegmentFlags::NONE,
            Self::NameOfShared => NEVER_WRITABLE,
            Self::Guard => GUARDED,
            Self::GuardOfShared => GUARDED.with(NEVER_WRITABLE),
        }
    }

    /// Whether the mapping is to show the file as it is.
    fn is_live(self) -> bool {
        self.flags().contains(GUARDED)
    }
}

/// mmap(2) of a snapshot.
///
/// Errors: those of mmap(2), and `EINVAL` (shared or anonymous), `ENODEV` (neither file nor block device),
/// `EOPNOTSUPP` (a file system whose files can change without any system call here), `EBUSY` (a block device in use by the kernel,
/// or claimed by another process where `SNAPSHIM_CLAIM` asks for a claim), `ETIMEDOUT` (a writer did not finish in time), `EDEADLK`
/// (inside a write that a signal interrupted), `ENFILE` (the table is full), `ESTALE` (the table was replaced), `EUCLEAN` (it is
/// damaged), `ENXIO` (`SNAPSHIM_SHORT=refuse`, and the file is shorter), and the error that kept the process from joining the
/// table.
pub fn create(mmap: &Mmap, by: By) -> Result<*mut c_void, Errno> {
    if mmap.flags & TYPE != libc::MAP_PRIVATE || mmap.flags & libc::MAP_ANONYMOUS != 0 {
        return Err(Errno::INVAL);
    }
    if mmap.length == 0 || !(mmap.offset as u64).is_multiple_of(PAGE) {
        return Err(Errno::INVAL);
    }
    let (file, origin, worth) = open_origin(mmap.descriptor)?;
    membership::join_at_once()?;
    let thread = thread::current()?;
    if thread.is_inside() {
        return Err(Errno::DEADLK);
    }
    if !membership::is_table_current() {
        return Err(table_is_gone(origin));
    }
    start::start_for_snapshots(&thread.own);

    let wants_fixed = mmap.replaces();
    if wants_fixed && (mmap.address as u64).saturating_add(mmap.length as u64) > ADDRESSES {
        return Err(Errno::NOMEM);
    }
    let wanted = Wanted { origin, worth, by, file: file.as_fd(), mmap, scratch: wants_fixed };
    let made = make(&thread, &wanted);
    if by != By::Flag {
        log_if_short(&wanted, &made);
    }
    let mut made = made?;
    finish(&thread, mmap, &mut made).inspect_err(|_| made.unmake(&lock::hold(thread.own)))?;
    if !by.is_live() {
        ring_users::doubt_if_written(&thread.own, origin, "from the start");
        alias_users::log_users(&thread.own, origin);
        foreign_maps::request_search(&thread.own);
    }
    Ok(made.address)
}

#[cold]
fn table_is_gone(origin: Origin) -> Errno {
    say!(
        Level::Error,
        file = origin;
        "snapshot of {} refused: the table in {} was removed or replaced while this process used it; restart the programs that \
         cooperate",
        origin,
        Bytes(config().directory.to_bytes())
    );
    Errno::STALE
}

/// The file to map, its origin, and the state of a snapshot of it: exact or doubtful.
fn open_origin(descriptor: i32) -> Result<(AppFd, Origin, State), Errno> {
    if descriptor < 0 {
        return Err(Errno::BADF);
    }
    let file = raw::borrow(descriptor as u32);
    let stat = rustix::fs::fstat(file)?;
    let Target::Origin(origin) = target_of_stat(&stat) else { return Err(Errno::NODEV) };
    if origin.is_block_device() {
        device::refuse_if_busy(origin)?;
        return Ok((AppFd::Borrowed(file), origin, State::Exact));
    }
    let kind = kind_of_file_system(file)?;
    let is_known = ALLOWED.contains(&kind) && !is_dax(file);
    if !is_known && !config().takes_any_file_system {
        say!(
            Level::Warn,
            file = origin;
            "snapshot of {} refused: files on its file system (type {kind:#x}) can change without a system call here; copy the \
             file, keep it on ext4, xfs, btrfs, f2fs, tmpfs or overlayfs, or set SNAPSHIM_ANYFS=1 for a doubtful snapshot",
            origin
        );
        return Err(Errno::OPNOTSUPP);
    }
    if kind == TMPFS && is_memory_without_file(descriptor, stat.st_dev) {
        say!(
            Level::Warn,
            file = origin;
            "snapshot of {} refused: it is shared memory without a file (MAP_SHARED|MAP_ANONYMOUS, shmget), which changes by \
             stores that the shim does not see; use memfd_create or a file in /dev/shm",
            origin
        );
        return Err(Errno::OPNOTSUPP);
    }
    let worth = if is_known { State::Exact } else { State::Doubtful };
    if kind == OVERLAYFS {
        // A descriptor that was opened before the file was copied up maps the lower file. So the file is opened anew.
        let path = procfs::ProcPath::thread_self("fd").slash(descriptor as u32);
        return Ok((AppFd::Copied(raw::open(path.as_c_str(), OFlags::RDONLY)?), origin, worth));
    }
    Ok((AppFd::Borrowed(file), origin, worth))
}

/// Whether a file on a tmpfs is memory that was mapped without a file, reached through /proc/PID/map_files.
///
/// The kernel keeps such memory, and that of memfd_create(2), on a tmpfs of its own, where only names tell the two apart
/// (mm/shmem.c: "dev/zero", ipc/shm.c: "SYSV...", mm/memfd.c: "memfd:..."). A memfd is mapped like any file, so it is as good as
/// one.
fn is_memory_without_file(descriptor: i32, device: u64) -> bool {
    let own_tmpfs = device_of_memfds();
    if own_tmpfs != 0 && device != own_tmpfs {
        return false;
    }
    let mut buffer = [core::mem::MaybeUninit::uninit(); 300];
    let link = procfs::ProcPath::thread_self("fd").slash(descriptor as u32);
    let name = rustix::fs::readlinkat_raw(rustix::fs::CWD, link.as_c_str(), &mut buffer);
    // Without /proc no descriptor can lead to such memory.
    name.is_ok_and(|(name, _)| match own_tmpfs {
        // Which tmpfs is the kernel's is not known. No other file has these names.
        0 => name.starts_with(b"/dev/zero (deleted)") || name.starts_with(b"/SYSV"),
        _ => !name.starts_with(b"/memfd:"),
    })
}

/// The device number of the kernel's own tmpfs; 0 if it cannot be found out.
fn device_of_memfds() -> u64 {
    static DEVICE: AtomicU64 = AtomicU64::new(0);
    // Relaxed: the word is all there is; it makes nothing else visible.
    let known = DEVICE.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let probe = rustix::fs::memfd_create(c"snapshim", rustix::fs::MemfdFlags::CLOEXEC);
    let device = probe.and_then(rustix::fs::fstat).map_or(0, |stat| stat.st_dev);
    DEVICE.store(device, Ordering::Relaxed);
    device
}

/// A snapshot that the program has not been told of yet.
struct Made {
    address: *mut c_void,
    pages: u64,
    /// How many of its pages lie within the file.
    backed: u64,
    index: u32,
    incarnation: u32,
}

impl Made {
    fn range(&self) -> Range<u64> {
        self.address as u64..self.address as u64 + self.pages * PAGE
    }

    /// Takes the snapshot away again. Writers may be preserving in it at this moment, so it goes as by munmap(2).
    fn unmake(&self, mappings: &Mappings) {
        let length = (self.pages * PAGE) as usize;
        // SAFETY: the mapping is the snapshot's own, which the program does not know yet.
        let _ = mappings.replace(&self.range(), || unsafe { rustix::mm::munmap(self.address, length) });
    }
}

/// A snapshot in the making.
struct Wanted<'a> {
    origin: Origin,
    worth: State,
    by: By,
    file: BorrowedFd<'a>,
    mmap: &'a Mmap,
    /// Whether it is mapped at an address of the kernel's choice first, and moved to its place later.
    scratch: bool,
}

/// What a creation has done so far. Dropped before [`Undo::keep`], it undoes that, the last first.
struct Undo<'a> {
    thread: &'a Thread,
    /// The lock over the mappings, held from the end of the drain on.
    mappings: Option<Mappings>,
    is_kept: bool,
    /// The gate is closed.
    ticket: Option<Ticket>,
    /// The number and the incarnation of a record that is not published.
    record: Option<(u32, u32)>,
    /// A mapping that is in no record.
    mapping: Option<(*mut c_void, usize)>,
    /// A snapshot that is published.
    made: Option<Made>,
}

impl<'a> Undo<'a> {
    const fn new(thread: &'a Thread) -> Self {
        Self { thread, mappings: None, is_kept: false, ticket: None, record: None, mapping: None, made: None }
    }

    /// Takes the lock over the mappings.
    fn hold(&mut self) -> &Mappings {
        self.mappings.get_or_insert_with(|| lock::hold(self.thread.own))
    }

    /// The record has the mapping now.
    fn publish(&mut self, made: Made) {
        self.hold().note_published();
        (self.record, self.mapping, self.made) = (None, None, Some(made));
    }

    /// The creation has succeeded.
    fn keep(mut self) -> Option<Made> {
        self.is_kept = true;
        self.made.take()
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let table = self.thread.own.table;
        if let Some(made) = self.made.take() {
            made.unmake(self.hold());
        }
        if let Some((address, length)) = self.mapping {
            // SAFETY: the creation made this mapping, and no other code has its address.
            let _ = unsafe { rustix::mm::munmap(address, length) };
        }
        if let Some((index, incarnation)) = self.record {
            table.retire_snapshot(index, incarnation);
        }
        if let Some(ticket) = self.ticket.take() {
            table.end_creation(ticket);
            table.lower_active();
        }
        self.hold().forget_unneeded();
    }
}

/// Everything from the closing of the gate to its opening.
///
/// The lock over the mappings is not held while this waits: calls on memory that has nothing to do with the snapshot go on.
fn make(thread: &Thread, wanted: &Wanted<'_>) -> Result<Made, Errno> {
    let origin = wanted.origin;
    let _signals = SignalsBlocked::new();
    let_forks_go_first();
    prepare(thread, wanted)?;
    let mut undo = Undo::new(thread);
    let ticket = undo.ticket.insert(begin(thread, Scope::One(origin), &origin)?);
    drained(thread, Scope::One(origin), &origin)?;
    // No direct write and no store truncates a file: a guarded mapping does not wait for them.
    if !wanted.by.is_live() {
        landed(thread, origin)?;
        armed(thread, origin, wanted.file, ticket)?;
    }
    // Held so that no other thread forks between the mapping and its record.
    let mappings = undo.hold();
    // The last snapshot may have ended since, and what only snapshots need has gone with it.
    ptracer::allow(&thread.own);
    claim::take(mappings, wanted.file, origin)?;
    fill(&mut undo, wanted)?;
    if !wanted.by.is_live() {
        watch::watch(undo.hold(), origin, wanted.file);
    }
    let is_committed = undo.ticket.take().is_some_and(|ticket| commit(thread, ticket));
    if is_committed { undo.keep().ok_or(Errno::NFILE) } else { Err(too_late(origin)) }
}

/// What a creation asks for before it closes the gate, so that writers do not wait where it is refused.
fn prepare(thread: &Thread, wanted: &Wanted<'_>) -> Result<(), Errno> {
    let mappings = lock::hold(thread.own);
    if thread.own.leaves_after_inspection() {
        return Err(Errno::UCLEAN);
    }
    claim::take(&mappings, wanted.file, wanted.origin)
}

/// The instant: maps the file as it is now, and publishes the snapshot.
fn fill(undo: &mut Undo<'_>, wanted: &Wanted<'_>) -> Result<(), Errno> {
    let thread = undo.thread;
    let Wanted { origin, worth, by, file, mmap, scratch } = *wanted;
    let table = thread.own.table;
    let before = observe_unseen(table);
    let modified = read_origin(file, origin)?;
    let seen = table.observation_at_instant(origin, modified);
    let size = modified.size;
    if by.short() == Short::Refuse && is_short(mmap, size) {
        return Err(Errno::NXIO);
    }
    let first = mmap.offset as u64 / PAGE;
    let backed = size.div_ceil(PAGE).saturating_sub(first).min(mmap.pages());
    let (index, head) = table.obtain_snapshot(thread.own.owner()).ok_or_else(|| {
        say!(Level::Error, file = origin; "snapshot of {} refused: the table is full (4096 segments); end some snapshots", origin);
        Errno::NFILE
    })?;
    undo.record = Some((index, head.incarnation()));
    let shown = first..first + backed;
    let address = if by.is_live() {
        map_live(file, mmap, &shown, by.short(), scratch)
    } else {
        map(file, mmap, size, shown, by.short(), scratch)
    }?;
    undo.mapping = Some((address, mmap.length));
    let extent = Extent { address: address as u64, first, pages: mmap.pages(), protection: mmap.protection as u32 };
    if !identity::own_ranges().add(&(extent.address..extent.end())) {
        return Err(Errno::NFILE);
    }
    // The file behind a guarded mapping may grow: it may have any of its pages to keep one day.
    let size = if by.is_live() { (first + mmap.pages()) * PAGE } else { size };
    let meta = SnapshotMeta { origin, owner: thread.own.owner(), size, base: first, mapping: table.next_mapping() };
    if let Some(snapshot) = table.snapshot(index) {
        snapshot.describe(head, &meta, &extent, by.flags());
        snapshot.record_observation(&seen);
        table.publish_fingerprint(index, origin);
        snapshot.publish(head, worth);
        faults::mark(snapshot);
        doubt_if_unseen(table, before, &origin, || table::doubt(table, index, head.incarnation()));
        if thread.own.image.note_snapshot()
            && let Some(record) = thread.own.record()
        {
            record.ring();
        }
    }
    undo.publish(Made { address, pages: mmap.pages(), backed, index, incarnation: head.incarnation() });
    Ok(())
}

/// Whether a file of this size has less than the mapping is to show. A length of whole pages may have been rounded up.
fn is_short(mmap: &Mmap, size: u64) -> bool {
    let has = if (mmap.length as u64).is_multiple_of(PAGE) { size.next_multiple_of(PAGE) } else { size };
    (mmap.offset as u64).saturating_add(mmap.length as u64) > has
}

/// Says that the file is shorter than its reader was told: the first time in this process, and then to whom wants more of the log.
#[cold]
fn log_if_short(wanted: &Wanted<'_>, made: &Result<Made, Errno>) {
    static IS_SAID: AtomicBool = AtomicBool::new(false);
    let Wanted { origin, mmap, .. } = *wanted;
    let what = match (made, wanted.by.short()) {
        (Err(Errno::NXIO), Short::Refuse) => "the mapping fails (ENXIO); map it again at its present size",
        (Ok(made), Short::Zero) if made.backed < mmap.pages() => "pages past its end are zero",
        (Ok(made), Short::Sigbus) if made.backed < mmap.pages() => "pages past its end raise SIGBUS",
        _ => return,
    };
    let level = if IS_SAID.swap(true, Ordering::Relaxed) { Level::Info } else { Level::Warn };
    let end = (mmap.offset as u64).saturating_add(mmap.length as u64);
    say!(
        level,
        file = origin;
        "mapping of {} in process {}: the file has become shorter than the {end} bytes that are asked for, so {what}; \
         SNAPSHIM_SHORT is what decides (sigbus, zero or refuse)",
        origin,
        raw::own_pid()
    );
}

/// What comes after the instant: the place that MAP_FIXED asks for, and what MAP_LOCKED and MAP_POPULATE ask for. These may take
/// long, so the gate is open.
fn finish(thread: &Thread, mmap: &Mmap, made: &mut Made) -> Result<(), Errno> {
    if mmap.replaces() {
        move_to(thread, made, mmap.address)?;
    }
    apply_map_flags(thread, mmap, made)
}

/// MAP_FIXED: puts the snapshot at `target`, in place of what is there. It may have been split into several segments by now.
fn move_to(thread: &Thread, made: &mut Made, target: *mut c_void) -> Result<(), Errno> {
    let mappings = lock::hold(thread.own);
    let from = made.range();
    let to = target as u64..(target as u64).saturating_add(from.end - from.start);
    if !to.start.is_multiple_of(PAGE) {
        return Err(Errno::INVAL);
    }
    if !mappings.is_all(&from) {
        return Err(Errno::UCLEAN);
    }
    calls::take_away(&thread.own, &to, || mappings.shift(&from, to.start))?;
    made.address = target;
    Ok(())
}

/// MAP_LOCKED and MAP_POPULATE.
fn apply_map_flags(thread: &Thread, mmap: &Mmap, made: &Made) -> Result<(), Errno> {
    if mmap.flags & libc::MAP_LOCKED != 0 && made.backed > 0 {
        // SAFETY: locking changes no byte.
        let locked = unsafe { rustix::mm::mlock(made.address, (made.backed * PAGE) as usize) };
        // mmap(2) says EAGAIN where mlock(2) says ENOMEM.
        locked.map_err(|error| if error == Errno::NOMEM { Errno::AGAIN } else { error })?;
        lock::hold(thread.own).note(&made.range(), LOCKED, true, || Ok(()))?;
    }
    if mmap.flags & libc::MAP_POPULATE != 0 {
        populate(thread, mmap, made);
    }
    Ok(())
}

/// Preserves everything now, so that no writer has to later. As for the kernel's MAP_POPULATE, failure is no error.
fn populate(thread: &Thread, mmap: &Mmap, made: &Made) {
    let first = mmap.offset as u64 / PAGE;
    let mut page = first;
    while page < first + made.backed {
        let count = snapshim::preserve::RUN.min(first + made.backed - page);
        let request =
            Request { snapshot: made.index, incarnation: made.incarnation, task: Task::Preserve, first: page, count };
        let deadline = raw::now() + config().timeout;
        if !preserve_own::local_preserver(&thread.own, deadline).handle_whole(&request) {
            return;
        }
        page += count;
    }
}

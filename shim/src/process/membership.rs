//! Joining the table and leaving it, and what a process that could not join says of itself.
//!
//! A process joins on first need, in the call that needs the table. A process that cannot join says in the table, if it can reach
//! it, that its changes are not seen: it is *unseen* ([`snapshim::protocol::unseen`]), and snapshots are doubtful while it lives.

use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use rustix::io::Errno;
use snapshim::cooperate::inspection::Knowledge;
use snapshim::protocol::process::Process;
use snapshim::protocol::process_id::ProcessId;
use snapshim::protocol::unseen::Who;
use snapshim::sys::{permission, procfs, raw, signal_block, time_space};
use snapshim::table::Table;
use snapshim::table::attach::{self, Attached, Refusal, Standing};

use super::descriptors;
use super::identity::{
    ATTACHED, ImagePage, OWN_RANGES, PROC_FDS, ThisProcess, attached, image_page, is_vfork_child, lends_memory, table,
    table_location,
};
use super::log::{self, Level, say};
use crate::base::config::config;
use crate::base::own_stacks;

/// The errno with which `mmap(MAP_SNAPSHOT)` fails because joining was refused for good; 0: it was not.
static REFUSED: AtomicU8 = AtomicU8::new(0);

/// Whether a shared mapping was made that the table does not know of: stores through it stay unseen, in children too.
static HAS_UNSEEN_MAPPING: AtomicBool = AtomicBool::new(false);

/// Whether this process, or the one that it was forked from, has made a ring of io_uring.
static HAS_RING: AtomicBool = AtomicBool::new(false);

/// Notes in the table that this process is about to make a ring of io_uring.
pub fn note_ring(own: &ThisProcess) {
    HAS_RING.store(true, Ordering::Relaxed);
    if let Some(record) = own.record() {
        record.note_rings(own.id);
    }
}

/// In a forked child: its parent's ring is its own as well.
pub fn join_with_ring() {
    if HAS_RING.load(Ordering::Relaxed) {
        // A process that cannot join says so in the table by itself.
        let _ = join();
    }
}

/// Whether this process has left a damaged table.
pub fn has_left() -> bool {
    // Acquire: pairs with the Release in `leave`.
    i32::from(REFUSED.load(Ordering::Acquire)) == Errno::UCLEAN.raw_os_error() && ATTACHED.get().is_some()
}

/// This process, which joins if need be. The error is the errno for a snapshot; a writer without a table goes on alone.
///
/// After a refusal no attempt is made for some milliseconds, so that a program that writes all the time is not slowed down.
pub fn join() -> Result<ThisProcess, Errno> {
    match attached() {
        Some(own) => Ok(own),
        None => join_aside(false),
    }
}

/// The same, with an attempt at once.
pub fn join_at_once() -> Result<ThisProcess, Errno> {
    match attached() {
        Some(own) => Ok(own),
        None => join_aside(true),
    }
}

/// Joins before the program starts, if there are snapshots: later the process may not be able to. A refusal is not logged here, as
/// the process may never change a file.
pub fn join_if_in_use() {
    if attach::is_in_use(&table_location()) {
        let _ = attach_table().map(claim);
    }
}

/// Joins on a stack of the shim's own: the caller may be a handler on a small alternate one.
#[cold]
fn join_aside(is_eager: bool) -> Result<ThisProcess, Errno> {
    let mut joined = Err(Errno::NOMEM);
    own_stacks::aside(&mut || joined = join_now(is_eager));
    joined
}

#[cold]
fn join_now(is_eager: bool) -> Result<ThisProcess, Errno> {
    log::report_unusable();
    if config().is_disabled {
        return Err(Errno::OPNOTSUPP);
    }
    match REFUSED.load(Ordering::Relaxed) {
        0 => {}
        errno => return Err(Errno::from_raw_os_error(i32::from(errno))),
    }
    let image = image_page();
    if permission::is_confined() {
        return Err(stay_out_confined(image));
    }
    if let Some(image) = image
        && !is_eager
        && raw::now() < image.next_try.load(Ordering::Relaxed)
    {
        return Err(Errno::from_raw_os_error(image.refused.load(Ordering::Relaxed) as i32));
    }
    let begun = raw::now();
    match attach_table().map(claim) {
        Ok(Some(own)) => Ok(own),
        Ok(None) if has_left() => Err(Errno::UCLEAN),
        Ok(None) => Err(note_refusal(image, Hindrance::of_table_without_room(), begun)),
        Err(refusal) => Err(note_refusal(image, Hindrance::Refusal(refusal), begun)),
    }
}

/// For a process that is confined ([`permission`]) and has no record: a child of one that has, or one whose table is out of reach.
/// Joining takes calls that it may not make.
#[cold]
fn stay_out_confined(image: Option<&ImagePage>) -> Errno {
    let is_first = image.is_none_or(|image| image.said.swap(1, Ordering::Relaxed) == 0);
    if is_first && let Some(table) = table() {
        table.raise_unseen(Who { pid: raw::own_pid(), start: 0 });
        say!(
            Level::Warn,
            "process {} takes no part: it was forked by a process that a filter of seccomp confines. Its changes are not held \
             back, so all snapshots in the table are doubtful while it lives",
            raw::own_pid()
        );
    }
    Errno::PERM
}

/// Makes all snapshots doubtful while this process lives, which is confined: what it does now stays unseen, for the reason `why`.
#[cold]
pub fn stay_unseen_confined(why: &str) {
    HAS_UNSEEN_MAPPING.store(true, Ordering::Relaxed);
    let Some(own) = attached() else { return };
    // In a vfork child the pid is the child's.
    own.table.raise_unseen(Who { pid: raw::own_pid(), start: 0 });
    if own.table.unseen().begin_to_say() {
        say!(
            Level::Warn,
            "process {} {why}, and a filter of seccomp keeps the library from seeing it: all snapshots are doubtful while it lives",
            own.image.pid()
        );
    }
}

/// Why a process has no record.
#[derive(Clone, Copy)]
enum Hindrance {
    Refusal(Refusal),
    /// All records are taken, or there is no memory for what names this image.
    Full,
    /// All records that have memory are taken, and the file system of the table has no more.
    NoMemory,
}

impl Hindrance {
    fn of_table_without_room() -> Self {
        if table().is_some_and(Table::lacks_memory) { Self::NoMemory } else { Self::Full }
    }

    fn errno(self) -> Errno {
        match self {
            Self::Refusal(refusal) => errno_for(refusal),
            Self::Full => Errno::NFILE,
            Self::NoMemory => Errno::NOSPC,
        }
    }

    /// Whether a limit is in the way, of the process or of the machine at this moment.
    fn is_limit(self) -> bool {
        matches!(
            self.errno(),
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN | Errno::NOSPC | Errno::FBIG | Errno::NOBUFS
        )
    }

    /// Whether the table itself is good, so that the process can say in it that it is unseen.
    fn leaves_table_alone(self) -> bool {
        use Refusal::{Directory, File, Full, OtherNamespace, UnknownTime, WithoutProc};
        let Self::Refusal(refusal) = self else { return true };
        matches!(refusal, File(_) | Directory(_) | Full | OtherNamespace | UnknownTime | WithoutProc)
    }
}

/// Notes that joining failed, says so in the table and in the log, and sets when to try again.
#[cold]
fn note_refusal(image: Option<&ImagePage>, hindrance: Hindrance, begun: u64) -> Errno {
    const SOON: u64 = 10_000_000;
    /// Attempts take at most one part in so many of a process's time.
    const SHARE: u64 = 100;
    let errno = hindrance.errno();
    if matches!(hindrance, Hindrance::Refusal(Refusal::Damaged)) {
        REFUSED.store(errno.raw_os_error() as u8, Ordering::Relaxed);
    }
    let raised = if hindrance.leaves_table_alone() { raise_unseen(image, hindrance) } else { None };
    let is_first = image.is_none_or(|image| {
        image.refused.store(errno.raw_os_error() as u32, Ordering::Relaxed);
        let now = raw::now();
        image.next_try.store(now + SOON.max((now - begun) * SHARE), Ordering::Relaxed);
        image.said.swap(1, Ordering::Relaxed) == 0
    });
    // If the table can be reached, one process logs it, and not each process of a pipeline.
    if is_first && raised != Some(false) {
        log_refused(hindrance, raised.is_some());
    }
    errno
}

/// Says in the table that this process changes files unseen. Whether the log is to say it too; `None`: the table cannot be reached.
fn raise_unseen(image: Option<&ImagePage>, hindrance: Hindrance) -> Option<bool> {
    if matches!(hindrance, Hindrance::Refusal(Refusal::OtherNamespace | Refusal::WithoutProc)) {
        return raise_nameless();
    }
    let who = Who::of(image.map_or_else(raw::own_pid, ImagePage::pid));
    // Its start time, as /proc says it here, cannot be translated to the time of the initial namespace.
    let is_timeless = matches!(hindrance, Hindrance::Refusal(Refusal::UnknownTime));
    let who = if is_timeless { Who { start: 0, ..who } } else { who };
    if let Some(table) = table() {
        table.raise_unseen(who);
        return Some(table.unseen().begin_to_say());
    }
    let raise = || attach::raise_unseen(&table_location(), who);
    let raised = raise().ok();
    raised.or_else(|| if hindrance.is_limit() { crate::process::errand::run(raise)?.ok() } else { None })
}

/// The same for a process that has no pid in the table's namespace: a lock on the table says it. Once is enough: the lock stays, in
/// children too.
fn raise_nameless() -> Option<bool> {
    static IS_RAISED: AtomicBool = AtomicBool::new(false);
    if IS_RAISED.load(Ordering::Relaxed) {
        return Some(false);
    }
    let raised = attach::raise_nameless(&table_location()).ok();
    if raised.is_some() {
        IS_RAISED.store(true, Ordering::Relaxed);
    }
    raised
}

#[cold]
fn log_refused(hindrance: Hindrance, is_raised: bool) {
    let (what, remedy) = match hindrance {
        Hindrance::Refusal(refusal) => (refusal.what(), refusal.remedy()),
        Hindrance::Full => ("its table is full", "end some of the processes that use it"),
        Hindrance::NoMemory => ("its table cannot grow, as its file system is full", "free 4 MiB there"),
    };
    // What stands in the table is said once by itself; on a full file system nothing is left behind.
    let is_full = matches!(hindrance, Hindrance::Refusal(Refusal::Full));
    let write = if is_raised || is_full { log::write_line } else { log::write_line_once };
    write(
        Level::Error,
        log::About::default(),
        format_args!(
            "this process ({}) takes no part: {}: {} (errno {}); {}. {}",
            raw::own_pid(),
            log::Bytes(config().directory.to_bytes()),
            what,
            hindrance.errno().raw_os_error(),
            remedy,
            what_follows(is_raised)
        ),
    );
}

const fn what_follows(is_raised: bool) -> &'static str {
    if is_raised {
        "Its changes are not held back, so all snapshots in that table are doubtful while it lives"
    } else {
        "Its changes are NOT held back from others' snapshots"
    }
}

/// Notes that a shared mapping is about to be made that the table will not know of. False: another thread has joined meanwhile, so
/// the mapping can be recorded.
pub fn note_unseen_mapping() -> bool {
    HAS_UNSEEN_MAPPING.store(true, Ordering::Relaxed);
    // SeqCst: pairs with the fence in `lower_unseen`: the note comes before the question whether the process has joined.
    snapshim::sys::sync::full_fence();
    attached().is_none()
}

/// Notes that a shared mapping is about to be made of a file that is not known: all snapshots are doubtful while the process lives.
#[cold]
pub fn stay_unseen() {
    HAS_UNSEEN_MAPPING.store(true, Ordering::Relaxed);
    if let Ok(own) = join() {
        own.table.raise_unseen(Who::of(own.image.pid()));
        if own.table.unseen().begin_to_say() {
            say!(
                Level::Error,
                "process {} maps a file shared, and the kernel does not say which (statx, fstat and newfstatat are refused, by a \
                 filter of seccomp or for lack of memory): all snapshots are doubtful while it lives",
                raw::own_pid()
            );
        }
    }
}

/// A call of exec, for a process that would not find its table again: the next image finds the table by its path alone. Where the
/// path does not lead there, the process is unseen from then on, and says so while it still has the table.
pub struct Exec(Option<(&'static ImagePage, u32)>);

impl Exec {
    /// Before the call.
    pub fn begin() -> Self {
        let leaves = |attached: &&Attached| attached.standing() != Standing::Current;
        let (Some(_), Some(table), Some(image)) = (ATTACHED.get().filter(leaves), table(), image_page()) else {
            return Self(None);
        };
        // A process in another pid namespace was listed when it came there, under the pid that it has in the table's namespace.
        if table.is_damaged() || REFUSED.load(Ordering::Relaxed) != 0 {
            return Self(None);
        }
        let pid = if is_vfork_child() {
            pid_outside(image.pid()).unwrap_or_else(raw::own_pid)
        } else {
            // Counted like a call that is not announced: so another thread's exec that fails meanwhile does not take out what this
            // one lists.
            // SeqCst: as in `unseen`.
            image.unseen_calls.fetch_add(1, Ordering::SeqCst);
            raw::own_pid()
        };
        table.raise_unseen(Who::of(pid));
        Self(Some((image, pid)))
    }

    /// After the call: it failed.
    pub fn end(self) {
        let Some((image, pid)) = self.0 else { return };
        if !is_vfork_child() {
            image.end_unseen_call();
        } else if let Some(table) = table() {
            table.lower_unseen(pid);
        }
    }
}

/// In a forked child: lists it as unseen if it has inherited a mapping that the table does not know of. It may store without a
/// call.
pub fn join_with_unseen_mapping() {
    if HAS_UNSEEN_MAPPING.load(Ordering::Relaxed) {
        let _ = join().map(|own| own.table.raise_unseen(Who::of(raw::own_pid())));
    }
}

/// Makes a call that changes files and is not announced, in a process that could not join. `None`: another thread has joined
/// meanwhile, so the call is to be announced.
pub fn unseen<T>(call: &impl Fn() -> T) -> Option<T> {
    let Some(image) = image_page() else { return Some(call()) };
    // SeqCst: pairs with the fence in `lower_unseen`: the count comes before the question whether the process has joined.
    image.unseen_calls.fetch_add(1, Ordering::SeqCst);
    let result = if attached().is_some() { None } else { Some(call()) };
    image.end_unseen_call();
    result
}

/// The right to map the table at the address that is reserved for it: one thread at a time has it. The path may lead two threads
/// to two tables, if one of them calls chroot(2) or the table is replaced in between, and the second would be mapped over the
/// first.
struct AttachGuard;

static IS_ATTACHING: AtomicBool = AtomicBool::new(false);

impl AttachGuard {
    /// `None`: another thread has it and does not give it back, because it was a child of vfork(2) that was killed, or because this
    /// process was forked meanwhile.
    fn take() -> Option<Self> {
        const LONG: u64 = 1_000_000_000;
        let begun = raw::now();
        let mut backoff = snapshim::sys::wait::Backoff::default();
        // Acquire: pairs with the Release in `drop`: the table that the other thread has mapped is visible.
        while IS_ATTACHING.swap(true, Ordering::Acquire) {
            if table().is_some() || raw::now() > begun + LONG {
                return None;
            }
            backoff.pause();
        }
        Some(Self)
    }
}

impl Drop for AttachGuard {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `take`.
        IS_ATTACHING.store(false, Ordering::Release);
    }
}

fn attach_table() -> Result<&'static Table, Refusal> {
    if let Some(table) = table() {
        // A child may be in another time namespace than its parent without a hook having seen the fork.
        return time_space::read_offsets().map(|()| table).map_err(|_| Refusal::UnknownTime);
    }
    // A handler that writes now would wait for the thread that it interrupted.
    let _signals = signal_block::SignalsBlocked::new();
    let guard = AttachGuard::take();
    if let Some(table) = table() {
        return Ok(table);
    }
    let attach = || {
        attach::attach(
            &table_location(),
            if guard.is_some() { crate::base::arena::place_for_table() } else { ptr::null_mut() },
        )
    };
    let attached = attach().or_else(|refusal| {
        let is_limit = Hindrance::Refusal(refusal).is_limit();
        if is_limit { crate::process::errand::run(attach).unwrap_or(Err(refusal)) } else { Err(refusal) }
    });
    let attached = match attached {
        Ok(attached) => attached,
        // The path may lead this thread to no table because another one has joined, and then changed the root.
        Err(refusal) => return table().ok_or(refusal),
    };
    let leaked = crate::base::environment::try_leak(attached).ok_or(Refusal::File(Errno::NOMEM))?;
    let _ = ATTACHED.set(leaked);
    if attached.has_made_directory && config().is_directory_chosen {
        log_new_table();
    }
    if leaked.is_new {
        crate::process::other_tables::check(leaked.table);
    }
    table().ok_or(Refusal::NotATable)
}

/// Logs that the directory was made. Only this line shows that a name was mistyped: processes that use two tables do not see each
/// other.
#[cold]
fn log_new_table() {
    say!(
        Level::Warn,
        "process {} made the directory {} that SNAPSHIM_DIR names, because there was none; programs that name another directory, \
         or none, do not cooperate with those that name this one",
        raw::own_pid(),
        crate::process::log::Bytes(config().directory.to_bytes())
    );
}

/// Takes the processes that are gone out of the table's list of the unseen.
pub fn lower_unseen_that_are_over(table: &Table) {
    table.lower_unseen_that_are_over(|| ATTACHED.get().is_none_or(Attached::is_held_by_nameless));
}

/// Whether the path still leads to the table that this process uses.
pub fn is_table_current() -> bool {
    ATTACHED.get().is_some_and(Attached::is_current)
}

/// The second in which a writer last checked that the path leads to its table.
static TABLE_CHECKED: AtomicU32 = AtomicU32::new(0);

/// Checks, for a writer that is about to change a file and once a second at the most, that the path leads to the table that it
/// uses, and that snapshots which make writes slow are not those of the dead. In a process that lives long, the table may have been
/// removed, or the path may lead to another one after a change of mounts.
#[inline]
pub fn check_table_now_and_then(own: &ThisProcess) {
    if permission::is_confined() {
        return;
    }
    let second = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse).tv_sec as u32;
    if TABLE_CHECKED.load(Ordering::Relaxed) != second {
        check_table_path(own, second);
    }
}

#[cold]
fn check_table_path(own: &ThisProcess, second: u32) {
    let before = TABLE_CHECKED.swap(second, Ordering::Relaxed);
    if before != second {
        // The caller may be a handler on a small alternate stack.
        own_stacks::aside(&mut || {
            own.table.search_by_writer();
            PROC_FDS.give_back_in_time();
            warn_if_elsewhere(own);
        });
    }
}

fn warn_if_elsewhere(own: &ThisProcess) {
    static SAID: AtomicBool = AtomicBool::new(false);
    let standing = ATTACHED.get().map_or(Standing::Current, |attached| attached.standing());
    if standing == Standing::Current {
        return;
    }
    // The processes that use the table at the path do not see what this one changes. Mappers with snapshots in this process's own
    // table find out themselves that it is gone.
    let is_elsewhere = attach::raise_unseen(&table_location(), Who::of(own.image.pid())).is_ok();
    if is_elsewhere && !SAID.swap(true, Ordering::Relaxed) {
        say!(
            Level::Error,
            "process {}: the table in {} is not the one that it uses: that was removed or replaced, or the process has other \
             mounts now. Snapshots in the new one are doubtful while it lives; restart the programs that cooperate",
            raw::own_pid(),
            crate::process::log::Bytes(config().directory.to_bytes())
        );
    }
}

/// Takes a process record for this image. Of several threads that try, one takes it and the others wait for that.
fn claim(table: &'static Table) -> Option<ThisProcess> {
    let image = image_page()?;
    {
        // A handler that writes now would wait for the thread that it interrupted; a handler that jumps away would leave the others
        // waiting.
        let _signals = signal_block::SignalsBlocked::new();
        // AcqRel: pairs with the Release below, of a thread that failed before.
        if image.claiming.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            let claimed = enter(table, image, ProcessId::new(image.pid(), raw::random() as u32));
            // Release: pairs with the Acquire of the threads that wait below.
            image.claiming.store(u32::from(claimed), Ordering::Release);
        }
    }
    let mut backoff = snapshim::sys::wait::Backoff::default();
    // Acquire: pairs with the Release in `become_known`.
    while image.word.load(Ordering::Acquire) == 0 {
        // Acquire: pairs with the Release above: the thread that claimed has failed. Or the process had its record, and has left a
        // damaged table since: then it has no name for good.
        if image.claiming.load(Ordering::Acquire) == 0 || has_left() {
            return None;
        }
        backoff.pause();
    }
    this(table, image)
}

/// This process, if it has its record.
fn this(table: &'static Table, image: &'static ImagePage) -> Option<ThisProcess> {
    // Acquire: pairs with the Release in `become_known`: the index is visible.
    let id = ProcessId::from_word(image.word.load(Ordering::Acquire))?;
    Some(ThisProcess { table, image, id, index: image.index.load(Ordering::Relaxed) })
}

/// Takes a record for the image `id`. False: all are taken.
fn enter(table: &'static Table, image: &'static ImagePage, id: ProcessId) -> bool {
    let Some((index, record)) = table.claim_process(id) else { return false };
    // A child whose fork no hook saw has its parent's list of ranges; the snapshots there are not its own.
    OWN_RANGES.clear();
    become_known(table, image, record, (id, index));
    if table.unseen().was_ever_up() {
        image.lower_unseen(table);
    }
    true
}

/// Names this image `id`, and then says in its record how other processes can tell that it is this image.
fn become_known(table: &Table, image: &ImagePage, record: &Process, (id, index): (ProcessId, u32)) {
    PROC_FDS.forget_calls();
    PROC_FDS.lower_floor();
    // Empty before any thread finds the record and describes a shared mapping there.
    record.sharing.describe(core::iter::empty());
    record.direct.clear();
    record.begin_descriptors();
    descriptors::find_out_whether_hidden();
    if HAS_RING.load(Ordering::Relaxed) {
        record.note_rings(id);
    }
    // A parent that claimed the record did not know the pid.
    table.hint_pid(index, id);
    image.index.store(index, Ordering::Relaxed);
    // Release: pairs with the Acquire in `attached`.
    image.word.store(id.to_word(), Ordering::Release);
    // SeqCst: pairs with the fence in `shared_mm`: a thread that is about to share the memory finds the word, or is found here.
    snapshim::sys::sync::full_fence();
    if lends_memory() {
        record.note_shared_mm(id);
    }
    record.describe_start(id, snapshim::sys::procfs::start_of(id.pid()));
    record.describe_cookie(id, ptr::from_ref(&image.word) as u64);
}

/// Gives a forked child the record that its parent prepared.
pub fn adopt(table: &'static Table, id: ProcessId, index: u32) -> Option<ThisProcess> {
    let image = image_page()?;
    image.claiming.store(1, Ordering::Relaxed);
    become_known(table, image, table.process(index)?, (id, index));
    this(table, image)
}

/// In a forked child that is in another pid namespace than the table's processes: it takes no part, and neither do the programs
/// that it executes.
pub fn refuse_in_child(parent: &ThisProcess) {
    let refusal = Refusal::OtherNamespace;
    // One entry is enough for the whole namespace: its first process outlives all others there.
    let is_raised = pid_outside(parent.id.pid()).map(|pid| parent.table.raise_unseen(Who::of(pid))).is_some();
    if parent.table.gate().active.is_raised() {
        say!(
            Level::Error,
            "a process that {} forked takes no part: it is in another pid namespace; {}. {}",
            parent.id.pid(),
            refusal.remedy(),
            what_follows(is_raised)
        );
    }
    REFUSED.store(errno_for(refusal).raw_os_error() as u8, Ordering::Relaxed);
}

/// The pid that a child in another pid namespace has in the namespace of its `parent`, if /proc is the parent's.
fn pid_outside(parent: u32) -> Option<u32> {
    let numbers = |name: &[u8]| {
        let found = procfs::find_line(c"/proc/self/status", |line| {
            let text = core::str::from_utf8(line.strip_prefix(name)?).ok()?;
            let mut numbers = text.split_ascii_whitespace().map_while(|number| number.parse::<u32>().ok());
            Some([numbers.next(), numbers.next(), numbers.next()])
        });
        found.ok()?
    };
    // NSpid has a number for each namespace, from that of /proc on.
    let [Some(outside), Some(_inside), None] = numbers(b"NSpid:")? else { return None };
    (numbers(b"PPid:")?[0] == Some(parent)).then_some(outside)
}

fn errno_for(refusal: Refusal) -> Errno {
    match refusal {
        Refusal::Full => Errno::NOSPC,
        Refusal::Directory(errno) | Refusal::File(errno) => errno,
        Refusal::DirectoryOwner(_) | Refusal::DirectoryOpen | Refusal::FileOpen | Refusal::FileOwner(_) => {
            Errno::ACCESS
        }
        Refusal::NotATable | Refusal::OtherVersion => Errno::PROTO,
        Refusal::Damaged => Errno::UCLEAN,
        Refusal::OtherNamespace | Refusal::WithoutProc | Refusal::UnknownTime => Errno::OPNOTSUPP,
    }
}

impl ThisProcess {
    /// Compares the table with what this process knows of itself. True if the table cannot be trusted, and this process has left.
    /// The caller holds the lock over the mappings, so no snapshot is made, moved or unmapped meanwhile.
    pub fn leaves_after_inspection(&self) -> bool {
        self.table.inspect(&self.knowledge());
        self.leaves_damaged()
    }

    /// The same as far as `addresses` are concerned.
    pub fn leaves_after_inspection_of(&self, addresses: &Range<u64>) -> bool {
        self.table.inspect_in(&self.knowledge(), addresses);
        self.leaves_damaged()
    }

    /// The same with a look at the records of other processes: some hundred microseconds.
    pub fn leaves_after_long_inspection_of(&self, addresses: &Range<u64>) -> bool {
        self.table.inspect_reach();
        self.leaves_after_inspection_of(addresses)
    }

    /// The same of all addresses.
    pub fn leaves_after_long_inspection(&self) -> bool {
        self.table.inspect_reach();
        self.leaves_after_inspection()
    }

    fn knowledge(&self) -> Knowledge<'static> {
        let cookie = ptr::from_ref(&self.image.word) as u64 / snapshim::PAGE * snapshim::PAGE;
        Knowledge { id: self.id, index: self.index, cookie, own_ranges: &OWN_RANGES }
    }

    /// True if a process has found the table damaged, and this one has left.
    #[inline]
    pub fn leaves_damaged(&self) -> bool {
        self.table.is_damaged() && self.leave()
    }

    /// Stops taking part, for good. Like that of a child that was just forked, the page of this image names no process any more,
    /// so other processes take it for dead. Its snapshots stay mapped, and are doubtful.
    #[cold]
    fn leave(&self) -> bool {
        // Release, and before the name goes: a thread that finds no name finds this.
        REFUSED.store(Errno::UCLEAN.raw_os_error() as u8, Ordering::Release);
        if self.image.word.swap(0, Ordering::AcqRel) != 0 {
            say!(
                Level::Error,
                concat!(
                    "the table in {} is damaged: process {} takes no part any more. Its snapshots are doubtful from now on, and ",
                    "its changes are NOT held back from others' snapshots; end the programs that use the table and remove ",
                    snapshim::table_file_name!()
                ),
                crate::process::log::Bytes(config().directory.to_bytes()),
                raw::own_pid()
            );
            if let Some(record) = self.record() {
                record.ring();
            }
        }
        true
    }
}

impl ImagePage {
    fn end_unseen_call(&self) {
        // SeqCst: pairs with the count in `unseen` and the load in `lower_unseen`: the last call to end takes the process out.
        let before = self.unseen_calls.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1));
        if before == Ok(1)
            && let Some(own) = attached()
        {
            self.lower_unseen(own.table);
        }
    }

    /// Takes the process, which has joined, out of the list of the unseen. It stays there while a call is under way that was not
    /// announced, or a mapping exists that the table does not know of.
    fn lower_unseen(&self, table: &Table) {
        // SeqCst: pairs with the fences in `unseen` and `note_unseen_mapping`: the name of the image comes before this look at
        // both.
        snapshim::sys::sync::full_fence();
        if self.unseen_calls.load(Ordering::SeqCst) == 0 && !HAS_UNSEEN_MAPPING.load(Ordering::Relaxed) {
            table.lower_unseen(self.pid());
        }
    }
}

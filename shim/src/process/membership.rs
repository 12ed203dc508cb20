//! Joining the table and leaving it, and what a process says that could not join.
//!
//! A process is attached on first need, by whatever call needs it. One that cannot join says in the table, where that can be
//! reached, that its changes are not seen.

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use rustix::io::Errno;
use snapshim::cooperate::inspection::Knowledge;
use snapshim::protocol::process::Process;
use snapshim::protocol::process_id::ProcessId;
use snapshim::protocol::unseen::Who;
use snapshim::sys::{procfs, raw, signal_block, time_space};
use snapshim::table::Table;
use snapshim::table::attach::{self, Attached, Refusal, Standing};

use super::identity::{
    ATTACHED, HOLDINGS, Identity, KEPT, LENDS, Own, attached, identity_page, is_borrower, place, table,
};
use super::log::{self, Level, say};
use crate::base::config::config;

/// Whether joining was refused for good, and with what errno `mmap(MAP_SNAPSHOT)` answers.
static REFUSED: AtomicU8 = AtomicU8::new(0);

/// Whether a shared mapping was made that the table does not know of: its stores stay unseen, in children too.
static HAS_UNSEEN_MAPPING: AtomicBool = AtomicBool::new(false);

/// Whether this process has left a damaged table.
pub fn has_left() -> bool {
    i32::from(REFUSED.load(Ordering::Acquire)) == Errno::UCLEAN.raw_os_error() && ATTACHED.get().is_some()
}

/// This process, attaching it if need be. The error is the errno for a snapshot; a writer without a table goes on alone.
///
/// A refusal is believed for some milliseconds, so that a program that writes all the time is not slowed.
pub fn join() -> Result<Own, Errno> {
    match attached() {
        Some(own) => Ok(own),
        None => join_now(false),
    }
}

/// The same, trying again at once.
pub fn join_at_once() -> Result<Own, Errno> {
    match attached() {
        Some(own) => Ok(own),
        None => join_now(true),
    }
}

/// Joins if there are snapshots, before the program starts: later it may not be able to. A process that changes nothing is not
/// refused aloud.
pub fn join_if_in_use() {
    if attach::is_in_use(&place()) {
        let _ = attach_table().map(claim);
    }
}

#[cold]
fn join_now(is_eager: bool) -> Result<Own, Errno> {
    log::report_unusable();
    if config().is_disabled {
        return Err(Errno::OPNOTSUPP);
    }
    match REFUSED.load(Ordering::Relaxed) {
        0 => {}
        errno => return Err(Errno::from_raw_os_error(i32::from(errno))),
    }
    let identity = identity_page();
    if let Some(identity) = identity
        && !is_eager
        && raw::now() < identity.next_try.load(Ordering::Relaxed)
    {
        return Err(Errno::from_raw_os_error(identity.refused.load(Ordering::Relaxed) as i32));
    }
    let begun = raw::now();
    match attach_table().map(claim) {
        Ok(Some(own)) => Ok(own),
        Ok(None) => Err(note_refusal(identity, Hindrance::Full, begun)),
        Err(refusal) => Err(note_refusal(identity, Hindrance::Refusal(refusal), begun)),
    }
}

/// Why a process has no record.
#[derive(Clone, Copy)]
enum Hindrance {
    Refusal(Refusal),
    /// All records are taken, or there is no memory for what names this image.
    Full,
}

impl Hindrance {
    fn errno(self) -> Errno {
        match self {
            Self::Refusal(refusal) => errno_for(refusal),
            Self::Full => Errno::NFILE,
        }
    }

    /// Whether a limit of the process is in the way, or of the machine at this moment.
    fn is_limit(self) -> bool {
        matches!(
            self.errno(),
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN | Errno::NOSPC | Errno::FBIG | Errno::NOBUFS
        )
    }

    /// Whether the table itself is good, so that the process can say in it that it is unseen.
    fn leaves_table_alone(self) -> bool {
        use Refusal::{Directory, File, Full, OtherNamespace, UnknownTime};
        matches!(self, Self::Full | Self::Refusal(File(_) | Directory(_) | Full | OtherNamespace | UnknownTime))
    }
}

#[cold]
fn note_refusal(identity: Option<&Identity>, hindrance: Hindrance, begun: u64) -> Errno {
    const SOON: u64 = 10_000_000;
    /// Trying takes no more than so much of a process's time.
    const SHARE: u64 = 100;
    let errno = hindrance.errno();
    if matches!(hindrance, Hindrance::Refusal(Refusal::Damaged)) {
        REFUSED.store(errno.raw_os_error() as u8, Ordering::Relaxed);
    }
    let raised = if hindrance.leaves_table_alone() { raise_unseen(identity, hindrance) } else { None };
    let is_first = identity.is_none_or(|identity| {
        identity.refused.store(errno.raw_os_error() as u32, Ordering::Relaxed);
        let now = raw::now();
        identity.next_try.store(now + SOON.max((now - begun) * SHARE), Ordering::Relaxed);
        identity.said.swap(1, Ordering::Relaxed) == 0
    });
    // Of a table that can be reached it is said once, not by each process of a pipeline.
    if is_first && raised != Some(false) {
        say_refused(hindrance, raised.is_some());
    }
    errno
}

/// Says in the table, if it can be reached, that this process changes files unseen; whether it is to be said to a person too.
fn raise_unseen(identity: Option<&Identity>, hindrance: Hindrance) -> Option<bool> {
    if matches!(hindrance, Hindrance::Refusal(Refusal::OtherNamespace)) {
        return raise_nameless();
    }
    let who = Who::of(identity.map_or_else(raw::own_pid, Identity::pid));
    // What /proc says of its start cannot be translated.
    let is_timeless = matches!(hindrance, Hindrance::Refusal(Refusal::UnknownTime));
    let who = if is_timeless { Who { start: 0, ..who } } else { who };
    if let Some(table) = table() {
        table.raise_unseen(who);
        return Some(table.unseen().begin_to_say());
    }
    let raise = || attach::raise_unseen(&place(), who);
    let raised = raise().ok();
    raised.or_else(|| if hindrance.is_limit() { crate::process::errand::run(raise)?.ok() } else { None })
}

/// Once is enough: the lock stays, in children as well.
fn raise_nameless() -> Option<bool> {
    static IS_RAISED: AtomicBool = AtomicBool::new(false);
    if IS_RAISED.load(Ordering::Relaxed) {
        return Some(false);
    }
    let raised = attach::raise_nameless(&place()).ok();
    if raised.is_some() {
        IS_RAISED.store(true, Ordering::Relaxed);
    }
    raised
}

#[cold]
fn say_refused(hindrance: Hindrance, is_raised: bool) {
    let (what, remedy) = match hindrance {
        Hindrance::Refusal(refusal) => (refusal.what(), refusal.remedy()),
        Hindrance::Full => ("its table is full", "end some of the processes that use it"),
    };
    say!(
        Level::Error,
        "this process ({}) takes no part: {}: {} (errno {}); {}. {}",
        raw::own_pid(),
        crate::process::log::Bytes(config().directory.to_bytes()),
        what,
        hindrance.errno().raw_os_error(),
        remedy,
        what_follows(is_raised)
    );
}

const fn what_follows(is_raised: bool) -> &'static str {
    if is_raised {
        "Its changes are not held back, so all snapshots in that table are doubtful while it lives"
    } else {
        "Its changes are NOT held back from others' snapshots"
    }
}

/// A shared mapping is about to be made without a word in the table. False: another thread has joined meanwhile, and it can have one.
pub fn note_unseen_mapping() -> bool {
    HAS_UNSEEN_MAPPING.store(true, Ordering::Relaxed);
    // SeqCst: pairs with the fence in `lower_unseen`: the note before the look whether the process has joined.
    snapshim::sys::sync::full_fence();
    attached().is_none()
}

/// A shared mapping is about to be made of a file that cannot be named: snapshots are doubtful from now on, as long as the process lives.
#[cold]
pub fn stay_unseen() {
    HAS_UNSEEN_MAPPING.store(true, Ordering::Relaxed);
    if let Ok(own) = join() {
        own.table.raise_unseen(Who::of(own.identity.pid()));
        if own.table.unseen().begin_to_say() {
            say!(
                Level::Error,
                "process {} maps a file shared, and the kernel does not say which (statx, fstat and newfstatat are refused, by a filter of \
                 seccomp or for want of memory): all snapshots are doubtful while it lives",
                raw::own_pid()
            );
        }
    }
}

/// The next image of a process that is about to call exec finds the table by its path alone. Where that does not lead there, the
/// process is unseen from then on, and says so while it still has the table.
pub struct Exec(Option<(&'static Identity, u32)>);

impl Exec {
    pub fn begin() -> Self {
        let leaves = |attached: &&Attached| attached.standing() != Standing::Current;
        let (Some(_), Some(table), Some(identity)) = (ATTACHED.get().filter(leaves), table(), identity_page()) else {
            return Self(None);
        };
        // A process in another pid namespace has said so when it came there, under the pid that it has here.
        if table.is_damaged() || REFUSED.load(Ordering::Relaxed) != 0 {
            return Self(None);
        }
        let pid = if is_borrower() {
            pid_outside(identity.pid()).unwrap_or_else(raw::own_pid)
        } else {
            // As for a call that is not announced: another thread's exec that fails meanwhile does not lower what this one raises.
            identity.unseen_calls.fetch_add(1, Ordering::SeqCst);
            raw::own_pid()
        };
        table.raise_unseen(Who::of(pid));
        Self(Some((identity, pid)))
    }

    /// It failed.
    pub fn end(self) {
        let Some((identity, pid)) = self.0 else { return };
        if !is_borrower() {
            identity.end_unseen_call();
        } else if let Some(table) = table() {
            table.lower_unseen(pid);
        }
    }
}

/// In a forked child: it inherited such a mapping, and may store without any call.
pub fn join_with_unseen_mapping() {
    if HAS_UNSEEN_MAPPING.load(Ordering::Relaxed) {
        let _ = join().map(|own| own.table.raise_unseen(Who::of(raw::own_pid())));
    }
}

/// Makes a call that changes files without announcing it, for a process that could not join. `None`: another thread has joined
/// meanwhile, and the call is to be announced.
pub fn unseen<T>(call: &impl Fn() -> T) -> Option<T> {
    let Some(identity) = identity_page() else { return Some(call()) };
    // SeqCst: pairs with the fence in `lower_unseen`: the count before the look whether the process has joined.
    identity.unseen_calls.fetch_add(1, Ordering::SeqCst);
    let result = if attached().is_some() { None } else { Some(call()) };
    identity.end_unseen_call();
    result
}

/// One thread at a time maps a table at the place that is kept for it: the path may lead two threads to two tables, where one of them
/// calls chroot(2) or the table is replaced in between, and the second would put its own in place of the first's.
struct Turn;

static IS_ATTACHING: AtomicBool = AtomicBool::new(false);

impl Turn {
    /// `None`: another thread has it, and does not give it back: a child of vfork(2) was killed, or a child was forked meanwhile.
    fn take() -> Option<Self> {
        const LONG: u64 = 1_000_000_000;
        let begun = raw::now();
        let mut patience = snapshim::sys::wait::Patience::default();
        // Acquire: pairs with the Release below: what the other thread has mapped is known.
        while IS_ATTACHING.swap(true, Ordering::Acquire) {
            if table().is_some() || raw::now() > begun + LONG {
                return None;
            }
            patience.pause();
        }
        Some(Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        IS_ATTACHING.store(false, Ordering::Release);
    }
}

fn attach_table() -> Result<&'static Table, Refusal> {
    if let Some(table) = table() {
        // A child that no hook saw being forked may be in another namespace than its parent.
        return time_space::look().map(|()| table).map_err(|_| Refusal::UnknownTime);
    }
    // A handler that came now and wrote would wait for this very thread.
    let _signals = signal_block::SignalsBlocked::new();
    let turn = Turn::take();
    if let Some(table) = table() {
        return Ok(table);
    }
    let attach = || {
        attach::attach(&place(), if turn.is_some() { crate::base::arena::place_for_table() } else { ptr::null_mut() })
    };
    let attached = attach().or_else(|refusal| {
        let is_limit = Hindrance::Refusal(refusal).is_limit();
        if is_limit { crate::process::errand::run(attach).unwrap_or(Err(refusal)) } else { Err(refusal) }
    });
    let attached = match attached {
        Ok(attached) => attached,
        // The path may lead this thread to no table because another one, which has joined, has left the root.
        Err(refusal) => return table().ok_or(refusal),
    };
    let leaked = crate::base::environment::try_leak(attached).ok_or(Refusal::File(Errno::NOMEM))?;
    let _ = ATTACHED.set(leaked);
    if attached.has_made_directory && config().is_directory_chosen {
        say_made();
    }
    if leaked.is_new {
        crate::process::other_tables::look(leaked.table);
    }
    table().ok_or(Refusal::NotATable)
}

/// A name that was mistyped is found by this line alone: processes that cooperate on two tables do not see each other.
#[cold]
fn say_made() {
    say!(
        Level::Warn,
        "process {} made the directory {} that SNAPSHIM_DIR names, because there was none; programs that name another directory, or \
         none, do not cooperate with those that name this one",
        raw::own_pid(),
        crate::process::log::Bytes(config().directory.to_bytes())
    );
}

/// Takes out the unseen processes that are gone.
pub fn lower_unseen_that_are_over(table: &Table) {
    table.lower_unseen_that_are_over(|| ATTACHED.get().is_none_or(Attached::is_held_by_nameless));
}

/// Whether the path still names the table that this process is attached to.
pub fn is_table_current() -> bool {
    ATTACHED.get().is_some_and(Attached::is_current)
}

/// The second in which a writer looked last whether others still meet at its table.
static LOOKED_AT: AtomicU32 = AtomicU32::new(0);

/// For a writer that is about to change a file, once a second at the most: a process that lives long may be left alone at a table
/// that was removed, or be shut in where another lies at its path.
#[inline]
pub fn look_now_and_then(own: &Own) {
    let second = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse).tv_sec as u32;
    if LOOKED_AT.load(Ordering::Relaxed) != second {
        look_for_table(own, second);
    }
}

#[cold]
fn look_for_table(own: &Own, second: u32) {
    static SAID: AtomicBool = AtomicBool::new(false);
    let before = LOOKED_AT.swap(second, Ordering::Relaxed);
    let standing = ATTACHED.get().map_or(Standing::Current, |attached| attached.standing());
    if before == second || standing == Standing::Current {
        return;
    }
    // Where another table lies at the path, its processes do not see what this one changes. Whoever has snapshots in this one looks
    // after them itself.
    let is_elsewhere = attach::raise_unseen(&place(), Who::of(own.identity.pid())).is_ok();
    if is_elsewhere && !SAID.swap(true, Ordering::Relaxed) {
        say!(
            Level::Error,
            "process {}: the table in {} is not the one that it uses: that was removed or replaced, or the process has other mounts now. \
             Snapshots in the new one are doubtful while it lives; restart the programs that cooperate",
            raw::own_pid(),
            crate::process::log::Bytes(config().directory.to_bytes())
        );
    }
}

/// Takes a process record for this image. Several threads may try; one does, the others wait for it.
fn claim(table: &'static Table) -> Option<Own> {
    let identity = identity_page()?;
    {
        // A handler that came now and wrote would wait for this very thread; one that jumped away would leave the others waiting.
        let _signals = signal_block::SignalsBlocked::new();
        if identity.claiming.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            let claimed = enter(table, identity, ProcessId::new(identity.pid(), raw::random() as u32));
            identity.claiming.store(u32::from(claimed), Ordering::Release);
        }
    }
    let mut patience = snapshim::sys::wait::Patience::default();
    while identity.word.load(Ordering::Acquire) == 0 {
        if identity.claiming.load(Ordering::Acquire) == 0 {
            return None;
        }
        patience.pause();
    }
    this(table, identity)
}

fn this(table: &'static Table, identity: &'static Identity) -> Option<Own> {
    let id = ProcessId::from_word(identity.word.load(Ordering::Acquire))?;
    Some(Own { table, identity, id, index: identity.index.load(Ordering::Relaxed) })
}

fn enter(table: &'static Table, identity: &'static Identity, id: ProcessId) -> bool {
    let Some((index, record)) = table.claim_process(id) else { return false };
    // A child that no hook saw being forked inherited its parent's, and has no part in them.
    HOLDINGS.clear();
    become_known(identity, record, id, index);
    if table.unseen().was_ever_up() {
        identity.lower_unseen(table);
    }
    true
}

/// From here on the image answers to `id`; only then others are told where to look for it.
fn become_known(identity: &Identity, record: &Process, id: ProcessId, index: u32) {
    KEPT.forget_calls();
    KEPT.lower_floor();
    // Before any thread finds the record, and says there what it shares.
    record.sharing.describe(core::iter::empty());
    if LENDS.load(Ordering::Relaxed) {
        record.note_lending(id);
    }
    identity.index.store(index, Ordering::Relaxed);
    // Release: pairs with the Acquire in `attached`.
    identity.word.store(id.to_word(), Ordering::Release);
    record.describe_start(id, snapshim::sys::procfs::start_of(id.pid()));
    record.describe_cookie(id, ptr::from_ref(&identity.word) as u64);
}

/// Makes a forked child answer to the record that its parent prepared.
pub fn adopt(table: &'static Table, id: ProcessId, index: u32) -> Option<Own> {
    let identity = identity_page()?;
    identity.claiming.store(1, Ordering::Relaxed);
    become_known(identity, table.process(index)?, id, index);
    this(table, identity)
}

/// In a forked child that is in another pid namespace than the table's processes: it takes no part, nor does what it executes.
pub fn refuse_in_child(parent: &Own) {
    let refusal = Refusal::OtherNamespace;
    // The first process of a namespace outlives all others there.
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

/// The pid that a child in another namespace has in that of its `parent`, where /proc is the parent's.
fn pid_outside(parent: u32) -> Option<u32> {
    let mut buffer = [0u8; 900];
    let status = procfs::read_file(c"/proc/self/status", &mut buffer).ok()?;
    // The command's name, which may be any bytes, stands in the first line.
    let rest = status.splitn(2, |byte| *byte == b'\n').nth(1)?;
    let status = rest.utf8_chunks().next()?.valid();
    let numbers = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_ascii_whitespace().filter_map(|number| number.parse::<u32>().ok()))
    };
    // One number for each namespace, from that of /proc on.
    let mut own = numbers("NSpid:")?;
    let (outside, _inside) = (own.next()?, own.next()?);
    (own.next().is_none() && numbers("PPid:")?.next()? == parent).then_some(outside)
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
        Refusal::OtherNamespace | Refusal::UnknownTime => Errno::OPNOTSUPP,
    }
}

impl Own {
    /// Compares the table with what this process knows of itself; true if it cannot be trusted, and this process has left. Nobody
    /// makes, moves or unmaps a snapshot meanwhile.
    pub fn leaves_after_inspection(&self) -> bool {
        self.table.inspect(&self.knowledge());
        self.leaves_damaged()
    }

    /// The same, looking at others' records as well: some hundred microseconds.
    pub fn leaves_after_long_inspection(&self) -> bool {
        self.table.inspect_all(&self.knowledge());
        self.leaves_damaged()
    }

    fn knowledge(&self) -> Knowledge<'static> {
        let cookie = ptr::from_ref(&self.identity.word) as u64 / snapshim::PAGE * snapshim::PAGE;
        Knowledge { id: self.id, index: self.index, cookie, holdings: &HOLDINGS }
    }

    /// True if somebody found the table damaged, and this process has left.
    #[inline]
    pub fn leaves_damaged(&self) -> bool {
        self.table.is_damaged() && self.leave()
    }

    /// Stops taking part, for good. Like a child that was just forked, this image does not answer to its name any more, so the
    /// others take it for dead; its snapshots stay where they are, and nobody vouches for them.
    #[cold]
    fn leave(&self) -> bool {
        // Before the name goes: who finds none finds this.
        REFUSED.store(Errno::UCLEAN.raw_os_error() as u8, Ordering::Release);
        if self.identity.word.swap(0, Ordering::AcqRel) != 0 {
            say!(
                Level::Error,
                concat!(
                    "the table in {} is damaged: process {} takes no part any more. Its snapshots are doubtful from now on, and its ",
                    "changes are NOT held back from others' snapshots; end the programs that use the table and remove ",
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

impl Identity {
    fn end_unseen_call(&self) {
        let before = self.unseen_calls.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1));
        if before == Ok(1)
            && let Some(own) = attached()
        {
            self.lower_unseen(own.table);
        }
    }

    /// The process has joined. While a call that it has not announced is under way, or a mapping that it has not described is there,
    /// it stays unseen.
    fn lower_unseen(&self, table: &Table) {
        snapshim::sys::sync::full_fence();
        if self.unseen_calls.load(Ordering::SeqCst) == 0 && !HAS_UNSEEN_MAPPING.load(Ordering::Relaxed) {
            table.lower_unseen(self.pid());
        }
    }
}

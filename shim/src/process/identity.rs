//! This image in the table, once it is attached. Nothing here joins the table or writes the log.
//!
//! What names the image lies in a page that fork wipes, so a child never takes itself for its parent.

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use once_cell::race::OnceRef;
use snapshim::cooperate::locate::target_of_stat;
use snapshim::preserve::headroom::Headroom;
use snapshim::preserve::proc_fd_cache::ProcFdCache;
use snapshim::protocol::aio_queues::{QUEUES_AT, Queues};
use snapshim::protocol::origin::Target;
use snapshim::protocol::own_ranges::OwnRanges;
use snapshim::protocol::process::Process;
use snapshim::protocol::process_id::{Caller, ProcessId};
use snapshim::sys::rare::Rare;
use snapshim::sys::{raw, time_space};
use snapshim::table::Table;
use snapshim::table::attach::{self, Attached};

use super::agent_state::AgentState;
use crate::base::config::config;
use crate::base::wiped_page;

/// What names this image. Its page is wiped when the process forks, so a child never takes itself for its parent.
#[repr(C)]
pub struct ImagePage {
    /// [`ProcessId`], 0 before the process has joined. Other processes read the word to tell this image from one that follows exec.
    pub(super) word: AtomicU64,
    /// Index of the process record.
    pub(super) index: AtomicU32,
    /// The pid of the process that this memory belongs to; a vfork child has another. 0 in a forked child until it is filled in.
    pub(super) pid: AtomicU32,
    /// 1 while a thread claims the record, and from then on if it has got one.
    pub(super) claiming: AtomicU32,
    /// Counts snapshots as they are made; 0 when there are none.
    pub(super) snapshots: AtomicU32,
    /// Whether there is an agent.
    pub(super) agent: AgentState,
    /// 1 while a thread looks for foreign changes.
    pub(super) looking: AtomicU32,
    /// The errno with which the last attempt to join failed; 0 if none has failed.
    pub(super) refused: AtomicU32,
    /// 1 once the log has said so.
    pub(super) said: AtomicU32,
    /// Calls under way that change files without being announced.
    pub(super) unseen_calls: AtomicU32,
    /// When to try to join again: CLOCK_MONOTONIC, nanoseconds.
    pub(super) next_try: AtomicU64,
}

static IMAGE_PAGE: AtomicPtr<ImagePage> = AtomicPtr::new(ptr::null_mut());
pub static ATTACHED: OnceRef<'static, Attached> = OnceRef::new();
pub static PROC_FDS: ProcFdCache = ProcFdCache::new();
#[unsafe(link_section = ".bss.rare")]
pub static OWN_RANGES: Rare<OwnRanges> = Rare(OwnRanges::new());
static HEADROOM: Headroom = Headroom::new();

/// This process, attached.
#[derive(Clone, Copy)]
pub struct ThisProcess {
    pub table: &'static Table,
    pub image: &'static ImagePage,
    pub id: ProcessId,
    pub index: u32,
}

impl ThisProcess {
    /// How records refer to this process.
    pub fn owner(&self) -> u64 {
        self.id.owner_word(self.index)
    }

    /// The same for a call that may go on in a child.
    pub fn caller(&self) -> Caller<'static> {
        Caller {
            owner: self.owner(),
            image: &self.image.word,
            is_vfork_child: SHARES_MM.load(Ordering::Relaxed) && is_vfork_child(),
        }
    }

    /// Whether this is still the image that was attached, and not its forked child.
    #[inline]
    pub fn is_this_image(&self) -> bool {
        self.image.word.load(Ordering::Relaxed) == self.id.to_word()
    }

    /// The counts of this process's asynchronous writes. They lie behind the identity, in the page that fork wipes.
    pub fn queues(&self) -> &'static Queues {
        const {
            assert!(
                size_of::<ImagePage>() <= QUEUES_AT as usize
                    && (QUEUES_AT as usize).is_multiple_of(align_of::<Queues>())
            )
        };
        // SAFETY: `image_page` is a whole page that is never unmapped; all-zero is valid, and everything in it is atomic.
        unsafe { &*ptr::from_ref(self.image).cast::<u8>().add(QUEUES_AT as usize).cast::<Queues>() }
    }

    /// This process's record.
    pub fn record(&self) -> Option<&'static Process> {
        self.table.process(self.index)
    }
}

/// The files in /proc of other processes that this one has open.
pub fn proc_fds() -> &'static ProcFdCache {
    &PROC_FDS
}

/// How much more memory mappers may hold, as far as this process has asked.
pub fn headroom() -> &'static Headroom {
    &HEADROOM
}

/// Where this process's snapshots lie, as it knows without the table.
pub fn own_ranges() -> &'static OwnRanges {
    &OWN_RANGES
}

/// This process if it is attached already: for calls that concern only what it has put into the table before.
pub fn attached() -> Option<ThisProcess> {
    // Acquire: pairs with the AcqRel in `image_page`: the page is wiped at a fork.
    let image = IMAGE_PAGE.load(Ordering::Acquire);
    if image.is_null() {
        return None;
    }
    // SAFETY: once set, the page is never unmapped.
    let image = unsafe { &*image };
    // Acquire: pairs with the Release in `membership::become_known`: the index is visible.
    let id = ProcessId::from_word(image.word.load(Ordering::Acquire))?;
    Some(ThisProcess { table: table()?, image, id, index: image.index.load(Ordering::Relaxed) })
}

/// The address of the table in a child that was forked inside a hook and maps it anew; null in other processes.
static TABLE: AtomicPtr<Table> = AtomicPtr::new(ptr::null_mut());

/// Uses the table at this address from now on. Called in a child that has one thread.
pub fn use_table(table: &'static Table) {
    // Release: pairs with the Acquire in `table`.
    TABLE.store(ptr::from_ref(table).cast_mut(), Ordering::Release);
}

/// The table, if this process is attached.
pub fn table() -> Option<&'static Table> {
    // Acquire: pairs with the Release in `use_table`.
    let elsewhere = TABLE.load(Ordering::Acquire);
    if elsewhere.is_null() {
        return Some(ATTACHED.get()?.table);
    }
    // SAFETY: set to a table that is never unmapped.
    Some(unsafe { &*elsewhere })
}

/// Where the file of the table is.
pub fn table_location() -> attach::TableLocation<'static> {
    attach::TableLocation { directory: config().directory, is_chosen: config().is_directory_chosen }
}

/// Whether a child may share this memory, or may have.
pub static SHARES_MM: AtomicBool = AtomicBool::new(false);
/// Whether a child that was once made may act in this memory for good.
pub static LENDS_FOR_GOOD: AtomicBool = AtomicBool::new(false);
/// Calls of posix_spawn(3) under way.
pub static SPAWNS: AtomicU32 = AtomicU32::new(0);

/// Whether a child may share this memory at this moment. Of a child that was being made when the process joined, the end is not
/// seen.
pub fn lends_memory() -> bool {
    // Acquire: pairs with the Release in `shared_mm::while_spawning`.
    LENDS_FOR_GOOD.load(Ordering::Relaxed) || SPAWNS.load(Ordering::Acquire) > 0
}

/// Looks which time namespace the process is in now: a forked child, or the caller of setns(2), may have come to another one.
pub fn note_time_space() {
    // No error is possible here. A child comes to a namespace that its own children share, and so does the caller of setns(2)
    // (timens_on_fork, timens_install; kernel/time/namespace.c): the kernel says how far the clocks of such a namespace are ahead.
    let _ = time_space::read_offsets();
}

/// Whether the calling process is a child that shares this memory (vfork(2), posix_spawn(3)): it acts as the process that the
/// memory belongs to.
pub fn is_vfork_child() -> bool {
    image_page().is_some_and(|image| image.pid() != raw::own_pid())
}

/// The page that names this image, made at the first call; `None`: there is no memory, or the kernel cannot wipe it at a fork.
pub fn image_page() -> Option<&'static ImagePage> {
    // Acquire: pairs with the Release below.
    let known = IMAGE_PAGE.load(Ordering::Acquire);
    if !known.is_null() {
        // SAFETY: once set, the page is never unmapped.
        return Some(unsafe { &*known });
    }
    const { assert!(size_of::<ImagePage>() <= wiped_page::FOR_IMAGE) };
    let page = wiped_page::page()?.cast::<ImagePage>();
    // Release: pairs with the Acquire above and in `attached`. Each thread finds the same page.
    IMAGE_PAGE.store(page, Ordering::Release);
    // SAFETY: the page is mapped for the life of the process, this part of it is for the image, and all-zero is a valid ImagePage.
    Some(unsafe { &*page })
}

impl ImagePage {
    /// The pid of the process that this memory belongs to.
    pub fn pid(&self) -> u32 {
        match self.pid.load(Ordering::Relaxed) {
            0 => raw::own_pid(),
            pid => pid,
        }
    }

    /// Whether this process may have snapshots; if not, the hooks of calls on mappings go on at once.
    #[inline]
    pub fn is_mapper(&self) -> bool {
        self.snapshots.load(Ordering::Relaxed) != 0
    }

    /// Counts a snapshot that has been published. True for the first: the agent has to make its rounds from now on.
    pub fn note_snapshot(&self) -> bool {
        self.snapshots.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// The process is no mapper any more if `none` finds no snapshot, and none is made while it looks.
    pub fn forget_if_none(&self, none: impl FnOnce() -> bool) {
        let noted = self.snapshots.load(Ordering::Relaxed);
        if none() {
            let _ = self.snapshots.compare_exchange(noted, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Begins a search for foreign changes. False: another thread is at it.
    pub fn begin_search(&self) -> bool {
        // Acquire: pairs with the Release in `end_search`: this search compares with what the last one noted.
        self.looking.swap(1, Ordering::Acquire) == 0
    }

    /// Ends the search. Release: pairs with the Acquire in `begin_search`.
    pub fn end_search(&self) {
        self.looking.store(0, Ordering::Release);
    }

    /// Whether there is an agent.
    pub fn agent_state(&self) -> &AgentState {
        &self.agent
    }
}

/// Whether a snapshot of the file exists, in any process.
pub fn is_origin_in_use(stat: &rustix::fs::Stat) -> bool {
    match (attached(), target_of_stat(stat)) {
        (Some(own), Target::Origin(origin)) => own.table.is_origin_in_use(origin),
        _ => false,
    }
}

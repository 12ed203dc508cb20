//! Robust mutexes in armed pages: the kernel marks them when their owner dies, by a store that does not trap. In an armed page it
//! would be lost, and who waits for the mutex would wait for ever.
//!
//! Whoever takes such a mutex stores into it, which opens its page. So the ones that count were held already when their page was
//! armed: the agent finds them in the lists that threads keep for the kernel (get_robust_list(2)), preserves their pages and opens
//! them.

use core::ffi::CStr;
use core::ops::{ControlFlow, Range};
use core::sync::atomic::Ordering;

use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags, statx};
use snapshim::PAGE;
use snapshim::protocol::origin::Origin;
use snapshim::sys::{procfs, raw};
use syscalls::{Sysno, syscall};

use super::list;
use super::protection::WANTED;
use crate::base::user_memory::read_own;

/// Has `open` open what the kernel would mark if a thread of this process died now. By the agent.
pub fn open_words(mut open: impl FnMut(&Range<u64>, Origin) -> Progress) -> Progress {
    // Acquire: pairs with the Release in `want`.
    if !WANTED.swap(false, Ordering::Acquire) {
        return Progress::Over;
    }
    let opened = each_thread(|tid| each_word(tid, |word| open_page_of(word, &mut open)));
    if opened.is_break() {
        WANTED.store(true, Ordering::Relaxed);
        return Progress::Later;
    }
    Progress::Over
}

/// Broken off because a creation is under way.
type Tried = ControlFlow<()>;

fn each_thread(mut see: impl FnMut(u32) -> Tried) -> Tried {
    if has_one_thread() {
        return see(raw::own_pid());
    }
    let directory = OFlags::DIRECTORY | OFlags::RDONLY;
    let Ok(tasks) = raw::open(TASKS, directory).and_then(raw::move_up) else { return Tried::Continue(()) };
    let is_broken_off = procfs::any_entry(tasks, |name| name.parse().is_ok_and(|tid| see(tid).is_break()));
    if is_broken_off { Tried::Break(()) } else { Tried::Continue(()) }
}

const TASKS: &CStr = c"/proc/self/task";

/// Whether the application has one thread: such a program may count on getting the lowest free descriptor, so after a snapshot none
/// is opened behind its back. The directory has a link for each thread (fs/proc/base.c, proc_task_getattr).
fn has_one_thread() -> bool {
    const PLAIN_DIRECTORY: u32 = 2;
    const IT_AND_THE_AGENT: u32 = 2;
    let found = statx(CWD, TASKS, AtFlags::empty(), StatxFlags::NLINK);
    found.is_ok_and(|found| found.stx_nlink == PLAIN_DIRECTORY + IT_AND_THE_AGENT)
}

/// `struct robust_list_head` (linux/futex.h).
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Head {
    first: u64,
    /// From an entry to the word.
    offset: u64,
    /// Being taken or released.
    pending: u64,
}

/// The kernel goes no further either (ROBUST_LIST_LIMIT).
const LONGEST: usize = 2048;
/// How often a list is read that changes meanwhile.
const TRIES: usize = 8;
/// Set in an entry of a mutex with priority inheritance.
const INHERITS: u64 = 1;

fn each_word(tid: u32, mut see: impl FnMut(u64) -> Tried) -> Tried {
    let (mut head, mut length) = (0u64, 0usize);
    // SAFETY: the call stores into both.
    let found = unsafe { syscall!(Sysno::get_robust_list, tid, &raw mut head, &raw mut length) };
    if found.is_err() || length != size_of::<Head>() {
        return Tried::Continue(());
    }
    for _ in 0..TRIES {
        let Some(Head { first, offset, pending }) = read::<Head>(head) else { break };
        if pending != 0 {
            see((pending & !INHERITS).wrapping_add(offset))?;
        }
        let mut at = first & !INHERITS;
        for _ in 0..LONGEST {
            if at == head {
                return Tried::Continue(());
            }
            // An entry that was just taken out leads nowhere.
            let Some(next) = read::<u64>(at) else { break };
            see(at.wrapping_add(offset))?;
            at = next & !INHERITS;
        }
    }
    Tried::Continue(())
}

fn open_page_of(word: u64, open: &mut impl FnMut(&Range<u64>, Origin) -> Progress) -> Tried {
    let start = word / PAGE * PAGE;
    let origin = list::read().at(start).filter(|entry| entry.is_writable()).map(|entry| entry.origin);
    match origin.map(|origin| open(&(start..start.saturating_add(PAGE)), origin)) {
        Some(Progress::Later) => Tried::Break(()),
        _ => Tried::Continue(()),
    }
}

/// What stands at an address of the application's, which may be nothing.
fn read<T: Default + Copy>(from: u64) -> Option<T> {
    let mut value = T::default();
    let length = size_of::<T>() as u64;
    (read_own(from, (&raw mut value) as u64, length) == length).then_some(value)
}

/// What opening a piece has come to.
pub enum Progress {
    /// Everything below this address is open.
    Until(u64),
    /// A creation is under way.
    Later,
    /// There is no more, or it cannot be preserved: then its stores trap.
    Over,
}

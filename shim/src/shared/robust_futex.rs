//! Robust mutexes in armed pages. The kernel marks such a mutex when its owner dies, by a store that does not trap. In an armed
//! page that store would be lost, and a thread that waits for the mutex would wait for ever.
//!
//! A thread that takes such a mutex stores into it, which opens its page. So only mutexes count that were taken before their page
//! was armed. The agent finds them in the lists that threads keep for the kernel (get_robust_list(2)), preserves their pages and
//! opens them.

use core::ffi::CStr;
use core::ops::{ControlFlow, Range};
use core::sync::atomic::Ordering;

use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags, statx};
use snapshim::PAGE;
use snapshim::protocol::origin::Origin;
use snapshim::sys::{procfs, raw};

use super::list;
use super::protection::IS_SCAN_REQUESTED;
use crate::base::robust_list::RobustListHead;
use crate::base::user_memory::read_value;

/// Has `open` open the words that the kernel would mark if a thread of this process died now. The agent calls this.
pub fn open_lock_words(mut open: impl FnMut(&Range<u64>, Origin) -> Progress) -> Progress {
    // Acquire: pairs with the Release in `request_scan`.
    if !IS_SCAN_REQUESTED.swap(false, Ordering::Acquire) {
        return Progress::Over;
    }
    let opened = each_thread(|tid| each_word(tid, |word| open_page_of(word, &mut open)));
    if opened.is_break() {
        IS_SCAN_REQUESTED.store(true, Ordering::Relaxed);
        return Progress::Later;
    }
    Progress::Over
}

/// Whether to go on; it breaks where a creation is under way.
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

/// Whether the application has one thread. Such a program may count on getting the lowest free descriptor, so no file is opened in
/// its table then. The directory has a link for each thread (fs/proc/base.c, proc_task_getattr).
fn has_one_thread() -> bool {
    const PLAIN_DIRECTORY: u32 = 2;
    const IT_AND_THE_AGENT: u32 = 2;
    let found = statx(CWD, TASKS, AtFlags::empty(), StatxFlags::NLINK);
    found.is_ok_and(|found| found.stx_nlink == PLAIN_DIRECTORY + IT_AND_THE_AGENT)
}

/// The kernel reads no more entries of a list either (ROBUST_LIST_LIMIT).
const LONGEST: usize = 2048;
/// How often a list that changes meanwhile is read again.
const TRIES: usize = 8;
/// This bit is set in an entry of a mutex with priority inheritance.
const INHERITS: u64 = 1;

/// Calls `see` with the address of each word that the kernel would mark for the thread.
fn each_word(tid: u32, mut see: impl FnMut(u64) -> Tried) -> Tried {
    let Some(head) = RobustListHead::of_thread(tid) else { return Tried::Continue(()) };
    for _ in 0..TRIES {
        let Some(RobustListHead { first, offset, pending }) = read_value(head) else { break };
        if pending != 0 {
            see((pending & !INHERITS).wrapping_add(offset))?;
        }
        let mut at = first & !INHERITS;
        for _ in 0..LONGEST {
            if at == head {
                return Tried::Continue(());
            }
            // An entry that was just taken out of the list leads nowhere.
            let Some(next) = read_value::<u64>(at) else { break };
            see(at.wrapping_add(offset))?;
            at = next & !INHERITS;
        }
    }
    Tried::Continue(())
}

/// Opens the page of a word, if it lies in a writable shared mapping.
fn open_page_of(word: u64, open: &mut impl FnMut(&Range<u64>, Origin) -> Progress) -> Tried {
    let start = word / PAGE * PAGE;
    let origin = list::read().at(start).filter(|entry| entry.is_writable()).map(|entry| entry.origin);
    match origin.map(|origin| open(&(start..start.saturating_add(PAGE)), origin)) {
        Some(Progress::Later) => Tried::Break(()),
        _ => Tried::Continue(()),
    }
}

/// What came of the opening of one part.
pub enum Progress {
    /// Everything below this address is open.
    Until(u64),
    /// A creation is under way.
    Later,
    /// There is no more to open, or the part cannot be preserved: then its stores trap.
    Over,
}

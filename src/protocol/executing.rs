//! Whether an image has been replaced by exec: the kernel itself says so, in the process's record.
//!
//! Before exec, the hook makes a word of the record the pending entry of the calling thread's robust list (get_robust_list(2),
//! Documentation/locking/robust-futexes.rst). When the kernel leaves the old address space, with all other threads ended
//! (fs/exec.c, begin_new_exec), it puts `FUTEX_OWNER_DIED` in the place of the pid there. No process needs a right to look at the
//! new image.
//!
//! The kernel does the same for a thread that ends, so the mark alone says nothing of a process whose first thread is exiting. Nor
//! does it say anything of a process with direct writes in its queues: they land when the old address space goes, a moment later
//! (exit_aio, fs/aio.c).

use super::process_id::ProcessId;
#[cfg(not(loom))]
use crate::sys::sync::AtomicU32;
use crate::sys::sync::{AtomicU64, Ordering, full_fence};

/// epoch:32 | futex:32. Zero, or another epoch: this image calls no exec.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(transparent)]
pub struct Executing(AtomicU64);

const OWNER_DIED: u32 = 0x4000_0000;

impl Executing {
    /// The image `id` calls exec. A writer that begins to push into it afterwards finds that out by [`Executing::is_under_way`].
    pub fn begin(&self, id: ProcessId) {
        self.0.store(u64::from(id.epoch()) << 32 | u64::from(id.pid()), Ordering::Relaxed);
        // SeqCst: pairs with the fences in `CallFrame::start_pushing` and `Process::begin_summons`: the word before the look at the
        // pushers and the summoner.
        full_fence();
    }

    /// exec has failed.
    pub fn end(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// Whether the image `id` may be replaced at any moment. Ask after [`CallFrame::start_pushing`].
    ///
    /// [`CallFrame::start_pushing`]: crate::protocol::gate::CallFrame::start_pushing
    pub fn is_under_way(&self, id: ProcessId) -> bool {
        (self.0.load(Ordering::Relaxed) >> 32) as u32 == id.epoch()
    }

    /// Whether the kernel has marked the word. Acquire: a process that sees the mark then sees the state of the thread that the
    /// mark came from.
    pub fn is_marked(&self, id: ProcessId) -> bool {
        let word = self.0.load(Ordering::Acquire);
        (word >> 32) as u32 == id.epoch() && word as u32 & OWNER_DIED != 0
    }

    /// The word that the kernel marks.
    #[cfg(not(loom))]
    #[must_use]
    pub fn futex(&self) -> &AtomicU32 {
        crate::sys::futex::low_half(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_counts_for_the_image_that_called_exec() {
        let word = Executing(AtomicU64::new(0));
        let (old, new) = (ProcessId::new(4711, 7), ProcessId::new(4711, 8));
        word.begin(old);
        assert!(word.is_under_way(old) && !word.is_marked(old));
        word.futex().store(OWNER_DIED, Ordering::Relaxed);
        assert!(word.is_marked(old) && !word.is_marked(new) && !word.is_under_way(new));
        word.begin(new);
        assert!(!word.is_marked(old) && !word.is_marked(new));
    }
}

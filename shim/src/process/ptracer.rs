//! The permission for processes of the same user to reach this one's memory where Yama would refuse it (PR_SET_PTRACER, prctl(2)).
//!
//! Writers need it while this process has snapshots. It is asked for with the first snapshot, and taken back with the last: then
//! holds what the program itself has set. A forked child inherits neither.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use snapshim::sys::raw;
use syscalls::{Sysno, syscall};

use super::identity::{self, ThisProcess};

/// PR_SET_PTRACER of linux/prctl.h.
pub const SET: u64 = 0x5961_6d61;
/// PR_SET_PTRACER_ANY.
const ANY: u64 = u64::MAX;

/// The image that has asked for the permission; 0: none.
static HOLDER: AtomicU64 = AtomicU64::new(0);
/// What the program has set, and in which process. 0: nothing.
static PROGRAMS: AtomicU64 = AtomicU64::new(0);
static PROGRAM: AtomicU32 = AtomicU32::new(0);

/// Asks for the permission, once. The lock over the mappings is held, or there is no other thread: else `take_back` of another
/// thread may come between the two steps, and take back what this asks for.
pub fn allow(own: &ThisProcess) {
    let word = own.id.to_word();
    // Relaxed: the word guards nothing else.
    if HOLDER.swap(word, Ordering::Relaxed) != word {
        set(ANY);
    }
}

/// Whether this image has asked for it.
pub fn is_asked(own: &ThisProcess) -> bool {
    HOLDER.load(Ordering::Relaxed) == own.id.to_word()
}

/// Takes it back: the process has no snapshot any more. The lock is held, as for [`allow`].
pub fn take_back(own: &ThisProcess) {
    let word = own.id.to_word();
    if HOLDER.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        let is_programs = PROGRAM.load(Ordering::Relaxed) == own.id.pid();
        let programs = if is_programs { PROGRAMS.load(Ordering::Relaxed) } else { 0 };
        // A process that the program has named may be gone.
        if !set(programs) && programs != 0 {
            set(0);
        }
    }
}

/// Notes what the program has set. While there are snapshots, writers keep the permission.
pub fn note_programs(value: u64) {
    if identity::is_vfork_child() {
        return;
    }
    PROGRAMS.store(value, Ordering::Relaxed);
    PROGRAM.store(raw::own_pid(), Ordering::Relaxed);
    if identity::attached().is_some_and(|own| is_asked(&own)) {
        set(ANY);
    }
}

/// Without Yama the kernel answers EINVAL.
fn set(value: u64) -> bool {
    // SAFETY: the arguments are values.
    unsafe { syscall!(Sysno::prctl, SET, value, 0, 0, 0) }.is_ok()
}

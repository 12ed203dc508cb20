//! Which system calls the library must not make, because a filter of the program's (seccomp(2)) would end the process for them.
//!
//! The library learns of a filter before the program installs it, and judges it call by call. What needs a forbidden call is done
//! otherwise, or is given up. If the filter forbids a call without which no process can take part as others do, the process is
//! *confined* from then on. A call that a filter answers with an error is not forbidden.
//!
//! One set serves all threads of the process, although a filter may be one thread's alone: what a thread may not do, its process
//! does not rely on.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use syscalls::Sysno;

/// Numbers of system calls that the set has room for; a number beyond counts as forbidden.
const NUMBERS: usize = 512;

static IS_CONFINED: AtomicBool = AtomicBool::new(false);
/// Whether the set has any call.
static IS_ANY: AtomicBool = AtomicBool::new(false);
static FORBIDDEN: [AtomicU64; NUMBERS / 64] = [const { AtomicU64::new(0) }; NUMBERS / 64];
/// The process's pid when it was confined.
static PID: AtomicU32 = AtomicU32::new(0);

/// Whether the process is confined.
#[inline]
pub fn is_confined() -> bool {
    // Relaxed: a filter binds the thread that installs it, and those that it makes later; other threads only if the installation
    // is made for them, which happens after the store.
    IS_CONFINED.load(Ordering::Relaxed)
}

/// Whether any call is forbidden.
pub fn is_any() -> bool {
    IS_ANY.load(Ordering::Relaxed)
}

/// Whether `call` is forbidden.
#[inline]
pub fn forbids(call: Sysno) -> bool {
    IS_ANY.load(Ordering::Relaxed) && is_in_set(call as usize)
}

/// Whether one of `calls` is forbidden.
#[inline]
pub fn forbids_any(calls: &[Sysno]) -> bool {
    IS_ANY.load(Ordering::Relaxed) && calls.iter().any(|call| is_in_set(*call as usize))
}

#[cold]
fn is_in_set(number: usize) -> bool {
    // Relaxed: see `is_confined`.
    FORBIDDEN.get(number / 64).is_none_or(|word| word.load(Ordering::Relaxed) >> (number % 64) & 1 == 1)
}

/// Calls that are about to be forbidden.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls {
    words: [u64; NUMBERS / 64],
}

impl Calls {
    /// These calls.
    #[must_use]
    pub fn of(calls: impl Iterator<Item = Sysno>) -> Self {
        let mut set = Self::default();
        for number in calls.map(|call| call as usize) {
            if let Some(word) = set.words.get_mut(number / 64) {
                *word |= 1 << (number % 64);
            }
        }
        set
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }
}

/// Forbids `calls`, beside what is forbidden already; `confines`: the process is confined from now on. The caller may still make
/// every call.
pub fn forbid(calls: &Calls, confines: bool) {
    if calls.is_empty() {
        return;
    }
    PID.store(rustix::process::getpid().as_raw_nonzero().get() as u32, Ordering::Relaxed);
    for (word, more) in FORBIDDEN.iter().zip(calls.words) {
        word.fetch_or(more, Ordering::Relaxed);
    }
    IS_ANY.store(true, Ordering::Relaxed);
    if confines {
        IS_CONFINED.store(true, Ordering::Relaxed);
    }
}

/// What is forbidden, to be restored where the program's installation of a filter fails.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    is_confined: bool,
    forbidden: [u64; NUMBERS / 64],
}

/// What is forbidden now.
#[must_use]
pub fn so_far() -> Before {
    let forbidden = core::array::from_fn(|index| FORBIDDEN[index].load(Ordering::Relaxed));
    Before { is_confined: is_confined(), forbidden }
}

/// Makes what was forbidden before what is forbidden now.
pub fn restore(before: &Before) {
    IS_CONFINED.store(before.is_confined, Ordering::Relaxed);
    for (word, value) in FORBIDDEN.iter().zip(before.forbidden) {
        word.store(value, Ordering::Relaxed);
    }
}

/// The pid of this process, for a process that may not ask. A forked child that may not ask cannot tell itself from its parent.
pub(super) fn known_pid() -> Option<u32> {
    forbids(Sysno::getpid).then(|| PID.load(Ordering::Relaxed))
}

//! Which file standard error was when the process started.
//!
//! A program may close number 2 and get it again for a file, a pipe or a connection of its own. A line of the log there would be a
//! line in the program's data.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use rustix::fs::Stat;
use snapshim::sys::raw;

static DEVICE: AtomicU64 = AtomicU64::new(0);
static INODE: AtomicU64 = AtomicU64::new(0);
static STATE: AtomicU8 = AtomicU8::new(NOT_LOOKED);

const NOT_LOOKED: u8 = 0;
const CLOSED: u8 = 1;
const KNOWN: u8 = 2;

/// Looks what number 2 is, the first time. Called by the constructor, and by what needs the answer before that.
pub fn note() {
    if STATE.load(Ordering::Relaxed) != NOT_LOOKED {
        return;
    }
    let state = match rustix::fs::fstat(raw::borrow(2)) {
        Ok(stat) => {
            DEVICE.store(stat.st_dev, Ordering::Relaxed);
            INODE.store(stat.st_ino, Ordering::Relaxed);
            KNOWN
        }
        Err(_) => CLOSED,
    };
    // Release: pairs with the Acquire in `is_it`: device and inode are visible.
    STATE.store(state, Ordering::Release);
}

/// Whether a file is the one that standard error was. A forked child's is its parent's: it has the numbers as the parent left them.
pub fn is_it(stat: &Stat) -> bool {
    // Acquire: pairs with the Release in `note`.
    STATE.load(Ordering::Acquire) == KNOWN
        && (stat.st_dev, stat.st_ino) == (DEVICE.load(Ordering::Relaxed), INODE.load(Ordering::Relaxed))
}

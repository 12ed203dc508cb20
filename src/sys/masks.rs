//! Signal masks where the shim handles SIGSEGV.
//!
//! The kernel ends a process whose thread faults with SIGSEGV blocked, and a store that the shim has to see first is a fault. So
//! the kernel is never told to block SIGSEGV once [`reserve_sigsegv`] was called. In its masks a substitute stands for SIGSEGV:
//! SIGSTKFLT, which nothing raises. Whatever saves, inherits or restores a mask (sigreturn, siglongjmp, swapcontext, clone) thereby
//! keeps SIGSEGV's bit without knowing.

use core::sync::atomic::{AtomicBool, Ordering};

/// SIGSEGV's bit.
pub const FAULT: u64 = 1 << (11 - 1);
/// SIGSTKFLT's bit.
pub const SUBSTITUTE: u64 = 1 << (16 - 1);
/// The last real-time signal's bit. A program that names all signals, or a few, names or leaves out both this signal and SIGSTKFLT:
/// so this bit tells what the program said of SIGSTKFLT.
const FULL_SET_WITNESS: u64 = 1 << (64 - 1);

static SIGSEGV_RESERVED: AtomicBool = AtomicBool::new(false);

/// From now on masks differ from what the application asked for.
pub fn reserve_sigsegv() {
    // Release: pairs with the Acquire in `is_sigsegv_reserved`; a thread that sees the flag sees the handlers of faults in place.
    SIGSEGV_RESERVED.store(true, Ordering::Release);
}

/// Whether masks differ from what the application asked for.
#[inline]
#[must_use]
pub fn is_sigsegv_reserved() -> bool {
    SIGSEGV_RESERVED.load(Ordering::Acquire)
}

/// The kernel's mask where the application says `mask`.
#[must_use]
pub const fn to_kernel(mask: u64) -> u64 {
    let others = mask & !(FAULT | SUBSTITUTE);
    if mask & FAULT == 0 { others } else { others | SUBSTITUTE }
}

/// The application's mask where the kernel says `mask`.
#[must_use]
pub const fn to_application(mask: u64) -> u64 {
    let mut told = mask & !SUBSTITUTE;
    if mask & SUBSTITUTE != 0 {
        told |= FAULT;
    }
    if mask & FULL_SET_WITNESS != 0 {
        told |= SUBSTITUTE;
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_come_back_as_they_were_asked_for() {
        // sigfillset(3) leaves 32 and 33 out, the kernel SIGKILL and SIGSTOP.
        let full = !(3 << 31 | 1 << 8 | 1 << 18);
        for mask in [0, FAULT, 1, FAULT | 1 << 9, full, full & !FAULT] {
            assert_eq!(to_kernel(mask) & FAULT, 0);
            assert_eq!(to_application(to_kernel(mask)), mask, "{mask:#x}");
        }
    }
}

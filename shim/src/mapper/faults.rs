//! userfaultfd(2): memory whose faults the program answers itself, whenever it likes.
//!
//! Who makes a page of such memory private from outside waits in the kernel for that answer, and only a deadly signal ends the wait
//! (handle_userfault, fs/userfaultfd.c). A writer must not wait for ever, so no snapshot becomes such memory: to register one is
//! refused with EINVAL, as the kernel refuses private mappings of files that are not on tmpfs. Nor are pages moved out of one.
//!
//! A descriptor that another process got, or a request past the hooks, can still register memory of the process that made the
//! descriptor. So a process that makes one says so at its snapshots first ([`SERVED`]): other processes leave these to its agent, for
//! which they wait as long as for any.

use core::ffi::{c_int, c_long};

use rustix::io::Errno;
use snapshim::protocol::snapshot::{SERVED, Snapshot};
use snapshim::sys::raw;
use snapshim::sys::sync::{AtomicU32, Ordering, full_fence};

use crate::address_space::lock::{self, EVERYWHERE};
use crate::base::errno::set_errno;
use crate::process::identity;

/// 1 once this process, or one that it was forked from, has made a userfaultfd.
static IS_SERVED: AtomicU32 = AtomicU32::new(0);

/// linux/userfaultfd.h.
const USERFAULTFD_IOC_NEW: u32 = 0xAA00;
const UFFDIO_REGISTER: u32 = 0xC020_AA00;
const UFFDIO_MOVE: u32 = 0xC028_AA05;
/// The requests that [`on_request`] tells from others.
pub const REQUESTS: &[u32] = &[USERFAULTFD_IOC_NEW, UFFDIO_REGISTER, UFFDIO_MOVE];

/// Makes `call`, which makes a userfaultfd, once all snapshots of this process say so. ENOMEM if that cannot be brought about.
pub fn making(call: impl FnOnce() -> c_long) -> c_long {
    IS_SERVED.store(1, Ordering::Relaxed);
    // SeqCst: pairs with the fence in `mark`: the word before the look at the snapshots.
    full_fence();
    let own = identity::attached().filter(|own| own.identity.is_mapper());
    if own.is_some_and(|own| lock::hold(own).note(&EVERYWHERE, SERVED, true, || Ok(())).is_err()) {
        set_errno(libc::ENOMEM);
        return -1;
    }
    call()
}

/// Marks a snapshot that was just published, if this process may have such memory.
pub fn mark(snapshot: &Snapshot) {
    // SeqCst: pairs with the fence in `making`: the publication before the look at the word.
    full_fence();
    if IS_SERVED.load(Ordering::Relaxed) != 0 {
        snapshot.add_flags(SERVED);
    }
}

/// ioctl(2) with a request that changes no file.
pub fn on_request(request: u32, argument: u64, call: impl FnOnce() -> c_int) -> c_int {
    // The offsets of start and length of the memory that the request concerns.
    let (start, length) = match request {
        USERFAULTFD_IOC_NEW => return making(|| call().into()) as c_int,
        UFFDIO_REGISTER => (0, 8),
        UFFDIO_MOVE => (8, 16),
        _ => return call(),
    };
    let word = |offset: u64| raw::read_remote_word(raw::own_tid(), argument.wrapping_add(offset));
    // What cannot be read is the kernel's to refuse.
    let (Ok(start), Ok(length)) = (word(start), word(length)) else { return call() };
    let Some(own) = identity::attached().filter(|own| own.identity.is_mapper()) else { return call() };
    let _still = lock::hold(own);
    if identity::holdings().touches(&(start..start.saturating_add(length))) {
        set_errno(Errno::INVAL.raw_os_error());
        return -1;
    }
    call()
}

//! userfaultfd(2): memory whose faults the program answers itself, at a time of its choice.
//!
//! A writer that makes a page of such memory private from outside waits in the kernel for that answer, and only a deadly signal
//! ends the wait (handle_userfault, fs/userfaultfd.c). A writer must not wait for ever, so no snapshot becomes such memory: its
//! registration is refused with EINVAL, as the kernel refuses private mappings of files that are not on tmpfs. Nor are pages
//! moved out of a snapshot.
//!
//! Another process that got the descriptor, or a request past the hooks, can still register memory of the process that made the
//! descriptor. So a process that makes one marks its snapshots first ([`SERVED`]). Other processes leave marked snapshots to that
//! process's agent, and wait for the agent as long as for any other.

use core::ffi::{c_int, c_long};

use snapshim::protocol::snapshot::{SERVED, Snapshot};
use snapshim::sys::sync::{AtomicU32, Ordering, full_fence};

use crate::address_space::lock::{self, EVERYWHERE};
use crate::base::user_memory::read_value;
use crate::interpose::answer::fail;
use crate::process::identity;

/// 1 once this process, or one that it was forked from, has made a userfaultfd.
static IS_SERVED: AtomicU32 = AtomicU32::new(0);

/// linux/userfaultfd.h.
const USERFAULTFD_IOC_NEW: u32 = 0xAA00;
const UFFDIO_REGISTER: u32 = 0xC020_AA00;
const UFFDIO_MOVE: u32 = 0xC028_AA05;
/// The requests that [`on_request`] knows.
pub const REQUESTS: &[u32] = &[USERFAULTFD_IOC_NEW, UFFDIO_REGISTER, UFFDIO_MOVE];

/// Makes `call`, which makes a userfaultfd, once all snapshots of this process are marked. ENOMEM if one cannot be.
pub fn making(call: impl FnOnce() -> c_long) -> c_long {
    IS_SERVED.store(1, Ordering::Relaxed);
    // SeqCst: pairs with the fence in `mark`. The store of the word comes before the walk over the snapshots.
    full_fence();
    let own = identity::attached().filter(|own| own.image.is_mapper());
    if own.is_some_and(|own| lock::hold(own).note(&EVERYWHERE, SERVED, true, || Ok(())).is_err()) {
        return fail(libc::ENOMEM);
    }
    call()
}

/// Marks a snapshot that was just published, if this process has made a userfaultfd.
pub fn mark(snapshot: &Snapshot) {
    // SeqCst: pairs with the fence in `making`. The publication comes before the load of the word.
    full_fence();
    if IS_SERVED.load(Ordering::Relaxed) != 0 {
        snapshot.add_flags(SERVED);
    }
}

/// ioctl(2) with a request that is not in the list of those that change files.
pub fn on_request(request: u32, argument: u64, call: impl FnOnce() -> c_int) -> c_int {
    // The offsets in the argument at which start and length of the memory stand.
    let (start, length) = match request {
        USERFAULTFD_IOC_NEW => return making(|| call().into()) as c_int,
        UFFDIO_REGISTER => (0, 8),
        UFFDIO_MOVE => (8, 16),
        _ => return call(),
    };
    let word = |offset: u64| read_value::<u64>(argument.wrapping_add(offset));
    // The kernel refuses an argument that cannot be read.
    let (Some(start), Some(length)) = (word(start), word(length)) else { return call() };
    let Some(own) = identity::attached().filter(|own| own.image.is_mapper()) else { return call() };
    let _still = lock::hold(own);
    if identity::own_ranges().touches(&(start..start.saturating_add(length))) {
        return fail(libc::EINVAL);
    }
    call()
}

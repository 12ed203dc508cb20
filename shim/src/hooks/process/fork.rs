//! fork(2) by its names in libc. What a fork means for snapshots is in [`lifecycle::fork`](crate::lifecycle::fork).

use libc::pid_t;
use syscalls::{Sysno, syscall};

use crate::base::errno::as_libc;
use crate::interpose::interpose;
use crate::lifecycle::fork::forked;

interpose! {
    /// _Fork(3), which fork(3) calls after the handlers of pthread_atfork(3) have run
    only_fork, c"_Fork": _Fork => fn() -> pid_t {
        // SAFETY: used only before the constructor has run, when libc has no state that the child must repair.
        raw || as_libc(unsafe { syscall!(Sysno::fork) }) as pid_t,
        hook on_fork,
    }
    /// fork(2), for a libc whose code cannot be patched, or that has no _Fork
    fork, c"fork": fork __fork => fn() -> pid_t {
        // SAFETY: as for _Fork.
        raw || as_libc(unsafe { syscall!(Sysno::fork) }) as pid_t,
        hook on_outer_fork,
    }
}

fn on_outer_fork(real: unsafe extern "C-unwind" fn() -> pid_t) -> pid_t {
    if only_fork::ENTRY_POINT.is_detoured() {
        // SAFETY: the application's own call, whose fork reaches `on_fork`.
        return unsafe { real() };
    }
    on_fork(real)
}

fn on_fork(real: unsafe extern "C-unwind" fn() -> pid_t) -> pid_t {
    // SAFETY: the application's own call.
    forked(0, &|| unsafe { real() })
}

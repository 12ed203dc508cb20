//! fork(2): a child inherits its parent's snapshots, exactly.
//!
//! For a mapper, a fork is a creation: the gate of every origin is closed, the writers under way are waited for, the child's
//! records are published with the parent's preserved bits, and only then the address space is copied.

use libc::pid_t;
use syscalls::{Sysno, syscall};

use crate::base::errno::as_libc;
use crate::interpose::interpose;
use crate::lifecycle::fork::forked;

interpose! {
    /// _Fork(3), which fork(3) comes to after the handlers of pthread_atfork(3) have run
    only_fork, c"_Fork": _Fork => fn() -> pid_t {
        // SAFETY: only before the constructor has run, when nothing is to be put in order around it.
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
    if only_fork::DOOR.is_detoured() {
        // SAFETY: the application's own call, which comes to `on_fork` inside.
        return unsafe { real() };
    }
    on_fork(real)
}

fn on_fork(real: unsafe extern "C-unwind" fn() -> pid_t) -> pid_t {
    // SAFETY: the application's own call.
    forked(0, &|| unsafe { real() })
}

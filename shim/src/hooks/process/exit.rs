//! _exit(2), to which exit(3), quick_exit(3) and the return from `main` come in libc.

use core::ffi::{c_int, c_long};

use syscalls::{Sysno, syscall};

use crate::interpose::interpose;
use crate::lifecycle::exit;

interpose! {
    /// _exit(2)
    _exit, c"_exit": _exit _Exit => fn(status: c_int) -> ! {
        raw end,
        hook on_exit,
    }
}

/// exit_group(2)
fn end(status: c_int) -> ! {
    loop {
        // SAFETY: exit_group(2) does not return.
        let _ = unsafe { syscall!(Sysno::exit_group, status) };
    }
}

fn on_exit(real: _exit::Function, status: c_int) -> ! {
    exit::give_back();
    // SAFETY: the application's own call.
    unsafe { real(status) }
}

/// exit_group(2) by number.
pub fn by_number(status: c_int) -> c_long {
    exit::give_back();
    end(status)
}

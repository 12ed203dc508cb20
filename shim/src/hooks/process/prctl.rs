//! prctl(2): the process joins before it shuts itself in ([`confine`](super::confine)), and notes whether other processes may look
//! at it, and which may reach its memory. It may install a filter of system calls.

use core::ffi::{c_int, c_ulong};

use syscalls::{Sysno, syscall};

use super::confine::{filter_of_prctl, join_before, shuts_in};
use crate::base::errno::as_libc;
use crate::interpose::interpose;
use crate::lifecycle::confinement::confined;
use crate::process::{descriptors, ptracer};

interpose! {
    /// prctl(2); variadic in C, five arguments are passed on as they come
    prctl, c"prctl": prctl => fn(option: c_int, a: c_ulong, b: c_ulong, c: c_ulong, d: c_ulong) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |option, a, b, c, d| as_libc(unsafe { syscall!(Sysno::prctl, option, a, b, c, d) }) as c_int,
        hook on_prctl,
    }
}

fn on_prctl(real: prctl::Function, option: c_int, a: c_ulong, b: c_ulong, c: c_ulong, d: c_ulong) -> c_int {
    // SAFETY: the application's arguments, as they are.
    let call = || unsafe { real(option, a, b, c, d) };
    if let Some(filter) = filter_of_prctl(option, a, b) {
        return confined(filter, || call().into()) as c_int;
    }
    if shuts_in(option) {
        join_before();
    }
    noting(option, a, call)
}

/// Makes a call of prctl(2), and notes whether other processes may look at this one's descriptors, and which the program lets reach
/// its memory. That they may not look is noted as long as that is so for a part of the call's time.
pub fn noting<T: PartialEq + From<i8>>(option: c_int, value: c_ulong, call: impl FnOnce() -> T) -> T {
    const DUMPABLE: c_ulong = 1;
    let is_about_it = option == libc::PR_SET_DUMPABLE;
    if is_about_it && value != DUMPABLE {
        descriptors::note_hidden(true);
    }
    let result = call();
    if is_about_it && value == DUMPABLE && result == T::from(0) {
        descriptors::note_hidden(false);
    }
    if option == ptracer::SET as c_int && result == T::from(0) {
        ptracer::note_programs(value);
    }
    result
}

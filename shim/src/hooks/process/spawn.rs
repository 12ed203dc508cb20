//! posix_spawn(3) with file actions that open with O_TRUNC.
//!
//! Where libc's code cannot be patched, the child's open(2) does not reach its hook. So the whole call counts as the truncation of
//! each such file. It returns when the child has executed its program, or has failed to.

use core::ffi::{c_char, c_int, c_void};

use rustix::fs::OFlags;
use snapshim::sys::raw;
use syscalls::{Sysno, syscall};

use crate::base::errno::errno;
use crate::hooks::file::open::truncates;
use crate::hooks::file::truncate::truncate_by_name;
use crate::interpose::{self, interpose};
use crate::process::shared_mm;
use crate::shared::kernel_store::may_touch;

interpose! {
    /// posix_spawn(3)
    posix_spawn, c"posix_spawn": posix_spawn => fn(
        pid: *mut libc::pid_t, path: *const c_char, actions: *const Actions, attributes: *const c_void,
        arguments: *const *const c_char, environment: *const *const c_char
    ) -> c_int {
        next_or libc::ENOSYS,
        hook on_spawn,
    }
    /// posix_spawnp(3)
    posix_spawnp, c"posix_spawnp": posix_spawnp => fn(
        pid: *mut libc::pid_t, file: *const c_char, actions: *const Actions, attributes: *const c_void,
        arguments: *const *const c_char, environment: *const *const c_char
    ) -> c_int {
        next_or libc::ENOSYS,
        hook on_spawn,
    }
    /// pidfd_spawn(3) of glibc 2.39, which stores a descriptor in place of the number
    pidfd_spawn, c"pidfd_spawn": pidfd_spawn => fn(
        pidfd: *mut libc::pid_t, path: *const c_char, actions: *const Actions, attributes: *const c_void,
        arguments: *const *const c_char, environment: *const *const c_char
    ) -> c_int {
        next_or libc::ENOSYS,
        hook on_spawn,
    }
    /// pidfd_spawnp(3)
    pidfd_spawnp, c"pidfd_spawnp": pidfd_spawnp => fn(
        pidfd: *mut libc::pid_t, file: *const c_char, actions: *const Actions, attributes: *const c_void,
        arguments: *const *const c_char, environment: *const *const c_char
    ) -> c_int {
        next_or libc::ENOSYS,
        hook on_spawn,
    }
}

/// The first fields of `posix_spawn_file_actions_t` (spawn.h).
#[repr(C)]
pub struct Actions {
    allocated: c_int,
    used: c_int,
    list: *const Action,
}

/// `struct __spawn_action` (glibc, posix/spawn_int.h): what is done, and with which arguments.
#[repr(C)]
struct Action {
    kind: c_int,
    with: With,
}

#[repr(C)]
union With {
    open: Open,
    directory: *const c_char,
    descriptor: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Open {
    descriptor: c_int,
    path: *const c_char,
    flags: c_int,
    mode: libc::mode_t,
}

const _: () = assert!(size_of::<Action>() == 32 && core::mem::offset_of!(Action, with) == 8);

/// An action that truncates a file, or says where the paths of later actions begin.
enum Step {
    Truncate(*const c_char),
    MoveTo(*const c_char),
    MoveToOpen(c_int),
}

impl Action {
    fn step(&self) -> Option<Step> {
        const OPEN: c_int = 2;
        const CHANGE_DIRECTORY: c_int = 3;
        const CHANGE_DIRECTORY_TO: c_int = 4;
        // SAFETY: the kind says which member of the union is in use.
        unsafe {
            match self.kind {
                OPEN => truncates(self.with.open.flags).then_some(Step::Truncate(self.with.open.path)),
                CHANGE_DIRECTORY => Some(Step::MoveTo(self.with.directory)),
                CHANGE_DIRECTORY_TO => Some(Step::MoveToOpen(self.with.descriptor)),
                _ => None,
            }
        }
    }
}

fn on_spawn(
    real: posix_spawn::Function,
    pid: *mut libc::pid_t,
    path: *const c_char,
    actions: *const Actions,
    attributes: *const c_void,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> c_int {
    // libc stores the child's number with all signals blocked, so a handler of SIGCHLD finds it stored. Where that store could trap
    // it cannot be resolved: there libc stores into other memory, and the number comes to its place a moment later.
    let mut child = 0;
    let may_trap = !pid.is_null() && may_touch(pid.expose_provenance() as u64, size_of::<libc::pid_t>());
    let place = if may_trap { &raw mut child } else { pid };
    // SAFETY: the application's arguments but for the place, which is null or writable.
    let call = || unsafe { real(place, path, actions, attributes, arguments, environment) };
    let result = call_announced(actions, &call);
    if result == 0 && may_trap {
        // SAFETY: the address that the application gave for the number.
        unsafe { pid.write(child) };
    }
    result
}

fn call_announced(actions: *const Actions, call: &dyn Fn() -> c_int) -> c_int {
    shared_mm::while_spawning(|| call_gated(actions, call))
}

fn call_gated(actions: *const Actions, call: &dyn Fn() -> c_int) -> c_int {
    if interpose::is_libc_seen() || actions.is_null() {
        return call();
    }
    // SAFETY: the actions were initialised and filled by libc, as posix_spawn(3) demands.
    let actions = unsafe {
        match &*actions {
            Actions { list, used, .. } if !list.is_null() => {
                core::slice::from_raw_parts(*list, usize::try_from(*used).unwrap_or(0))
            }
            _ => &[],
        }
    };
    match within(actions, libc::AT_FDCWD, call) {
        // The gate refused the call, and set errno.
        -1 => errno(),
        result => result as c_int,
    }
}

/// Makes `call` while the truncation of every file that `actions` truncate is announced. `directory` is where the child would be.
fn within(actions: &[Action], directory: c_int, call: &dyn Fn() -> c_int) -> isize {
    let Some((at, step)) = actions.iter().enumerate().find_map(|(at, action)| Some((at, action.step()?))) else {
        return call() as isize;
    };
    let rest = &actions[at + 1..];
    match step {
        Step::Truncate(path) => truncate_by_name(directory, path, || within(rest, directory, call)),
        Step::MoveToOpen(descriptor) => within(rest, descriptor, call),
        Step::MoveTo(path) => {
            let flags = (OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC).bits();
            // SAFETY: the kernel checks the application's pointer.
            let Ok(number) = (unsafe { syscall!(Sysno::openat, directory, path, flags) }) else {
                // The child fails at this action as well.
                return call() as isize;
            };
            let result = within(rest, number as c_int, call);
            // SAFETY: opened above.
            drop(unsafe { raw::adopt_fd(number as c_int) });
            result
        }
    }
}

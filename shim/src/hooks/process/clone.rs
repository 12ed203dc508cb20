//! clone(2) without CLONE_VM: a fork by another name.
//!
//! With CLONE_VM the child is a thread, or borrows this memory as after vfork(2); then that is only noted.

use core::ffi::{c_int, c_long, c_void};

use libc::pid_t;
use syscalls::{Sysno, syscall};

use crate::agent::alone;
use crate::base::errno::{as_libc, set_errno};
use crate::interpose::originals::Main;
use crate::interpose::{self, interpose};
use crate::lifecycle::fork::forked;
use crate::process::lending;

interpose! {
    /// clone(3); variadic in C, all that the kernel can be given is passed on as it comes
    clone, c"clone": clone => fn(
        main: Option<Main>, stack: *mut c_void, flags: c_int, argument: *mut c_void,
        parent_tid: *mut pid_t, storage: *mut c_void, child_tid: *mut pid_t
    ) -> c_int {
        raw |main, stack, flags, argument, parent_tid, storage, child_tid| match interpose::behind(c"clone") {
            // SAFETY: libc's function of that name; the application's arguments, as they are.
            Some(next) => unsafe {
                core::mem::transmute::<*const (), Function>(next)(
                    main, stack, flags, argument, parent_tid, storage, child_tid,
                )
            },
            None => {
                set_errno(libc::ENOSYS);
                -1
            }
        },
        hook on_clone,
    }
}

const SHARES_MEMORY: u64 = libc::CLONE_VM as u64;
const SETS_STORAGE: u64 = libc::CLONE_SETTLS as u64;

#[expect(clippy::too_many_arguments, reason = "as many as clone(2) has")]
fn on_clone(
    real: clone::Function,
    main: Option<Main>,
    stack: *mut c_void,
    flags: c_int,
    argument: *mut c_void,
    parent_tid: *mut pid_t,
    storage: *mut c_void,
    child_tid: *mut pid_t,
) -> c_int {
    let flags_wide = u64::from(flags as u32);
    let (Some(run), false, false) = (main, stack.is_null(), flags_wide & SHARES_MEMORY != 0) else {
        note_lending(flags_wide);
        // SAFETY: the application's own call.
        return unsafe { real(main, stack, flags, argument, parent_tid, storage, child_tid) };
    };
    // The child comes to itself on a copy of this stack, as after fork, and goes to its own when it has put its things in order.
    let pid = by_arguments([flags_wide, 0, parent_tid as u64, child_tid as u64, storage as u64]);
    if pid == 0 {
        // SAFETY: this is the child, whose stack the application has given.
        unsafe { run_on(stack, run, argument) }
    }
    pid
}

/// A child that shares this memory, and is no thread of the process, acts in it as after vfork(2).
pub fn note_lending(flags: u64) {
    if flags & (SHARES_MEMORY | libc::CLONE_THREAD as u64) == SHARES_MEMORY {
        lending::note_lending(flags & libc::CLONE_VFORK as u64 == 0);
    }
}

/// Runs `main` on `stack` and ends the thread with what it returns, as libc's clone does.
unsafe fn run_on(stack: *mut c_void, main: Main, argument: *mut c_void) -> ! {
    // SAFETY: the caller's promise; nothing of the old stack is needed any more.
    unsafe {
        core::arch::asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "call {main}",
            "mov edi, eax",
            "call {end}",
            "ud2",
            stack = in(reg) stack as usize & !15,
            main = in(reg) main,
            end = sym end,
            in("rdi") argument,
            options(noreturn),
        )
    }
}

/// exit(2) of the calling thread alone, by number.
pub fn end_by_number(code: c_int) -> ! {
    alone::note_end_of_thread(code);
    loop {
        // SAFETY: the argument is a value.
        let _ = unsafe { syscall!(Sysno::exit, code) };
    }
}

unsafe extern "C-unwind" fn end(code: c_int) -> ! {
    end_by_number(code)
}

/// Whether clone(2) by number is a fork: what returns on a stack of its own is for those who are not written in C.
pub fn is_fork(flags: usize, stack: usize) -> bool {
    flags as u64 & SHARES_MEMORY == 0 && stack == 0
}

/// clone(2) by number: flags, stack, where to put the number in the parent and in the child, and thread-local storage.
pub fn by_number([flags, _, parent_tid, child_tid, storage]: [usize; 5]) -> c_long {
    by_arguments([flags as u64, 0, parent_tid as u64, child_tid as u64, storage as u64]).into()
}

fn by_arguments([flags, stack, parent_tid, child_tid, storage]: [u64; 5]) -> pid_t {
    let pid = forked(flags, &|| {
        // SAFETY: the application's arguments; the child goes on here, on its copy of this stack.
        as_libc(unsafe { syscall!(Sysno::clone, flags & !SETS_STORAGE, stack, parent_tid, child_tid, 0) }) as pid_t
    });
    if pid == 0 && flags & SETS_STORAGE != 0 {
        take_storage(storage);
    }
    pid
}

/// Given by the kernel it would be in use before our own code has come to its end.
fn take_storage(storage: u64) {
    const ARCH_SET_FS: usize = 0x1002;
    // SAFETY: what the application asked for, in the child.
    let _ = unsafe { syscall!(Sysno::arch_prctl, ARCH_SET_FS, storage) };
}

/// `struct clone_args` of linux/sched.h.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Arguments([u64; 11]);

const FLAGS: usize = 0;
const STACK: usize = 5;
const STORAGE: usize = 7;
/// The first version of the structure ends behind the storage.
const LEAST: usize = 64;

impl Arguments {
    /// A copy of the `size` bytes at `address`, if it is a fork that they describe, in a form that is known here.
    pub fn of_fork(address: *const u8, size: usize) -> Option<Self> {
        if address.is_null() || !(LEAST..=size_of::<Self>()).contains(&size) {
            return None;
        }
        let mut copy = Self([0; 11]);
        // SAFETY: the kernel would answer EFAULT where this reads; a program that passes such a pointer has failed already.
        unsafe { core::ptr::copy_nonoverlapping(address, copy.0.as_mut_ptr().cast(), size) };
        (copy.0[FLAGS] & SHARES_MEMORY == 0 && copy.0[STACK] == 0).then_some(copy)
    }
}

/// clone3(2) by number.
pub fn by_structure(mut arguments: Arguments, size: usize) -> c_long {
    let [flags, storage] = [FLAGS, STORAGE].map(|at| arguments.0[at]);
    arguments.0[FLAGS] &= !SETS_STORAGE;
    let pid = forked(flags, &|| {
        // SAFETY: as in `by_arguments`; the structure is as large as the application's.
        as_libc(unsafe { syscall!(Sysno::clone3, arguments.0.as_ptr(), size) }) as pid_t
    });
    if pid == 0 && flags & SETS_STORAGE != 0 {
        take_storage(storage);
    }
    pid.into()
}

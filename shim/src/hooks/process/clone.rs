//! clone(2) without CLONE_VM: a fork by another name.
//!
//! With CLONE_VM the child is a thread, or shares this memory as after vfork(2). That is noted, and the call is made as it is.

use core::ffi::{c_int, c_long, c_void};

use libc::pid_t;
use syscalls::{Sysno, syscall};

use crate::agent::alone;
use crate::base::errno::as_libc;
use crate::base::user_memory::read_own;
use crate::interpose::answer::fail;
use crate::interpose::interpose;
use crate::interpose::originals::Main;
use crate::lifecycle::fork::forked;
use crate::process::{descriptors, shared_mm};

interpose! {
    /// clone(3); variadic in C, every argument that there can be is passed on as it comes
    clone, c"clone": clone => fn(
        main: Option<Main>, stack: *mut c_void, flags: c_int, argument: *mut c_void,
        parent_tid: *mut pid_t, storage: *mut c_void, child_tid: *mut pid_t
    ) -> c_int {
        next_or fail(libc::ENOSYS),
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
        note_shared_mm(flags_wide);
        // SAFETY: the application's own call.
        return unsafe { real(main, stack, flags, argument, parent_tid, storage, child_tid) };
    };
    // The child begins on a copy of this stack, as after fork. It goes to its own stack once it has put its state in order.
    let pid = by_arguments([flags_wide, 0, parent_tid as u64, child_tid as u64, storage as u64]);
    if pid == 0 {
        // SAFETY: this is the child, whose stack the application has given.
        unsafe { run_on(stack, run, argument) }
    }
    pid
}

/// Notes a child that shares this memory and is no thread of the process: it acts in this memory as after vfork(2).
pub fn note_shared_mm(flags: u64) {
    if flags & (SHARES_MEMORY | libc::CLONE_THREAD as u64) == SHARES_MEMORY {
        shared_mm::note_shared_mm(flags & libc::CLONE_VFORK as u64 == 0);
    }
}

/// Notes, before the call, a child with memory of its own that shares the descriptor table.
fn note_shared_descriptors(flags: u64) {
    if flags & libc::CLONE_FILES as u64 != 0 {
        descriptors::note_sharer();
    }
}

/// Runs `main` on `stack`, and ends the thread with its result, as libc's clone does.
unsafe fn run_on(stack: *mut c_void, main: Main, argument: *mut c_void) -> ! {
    // SAFETY: the caller's promise; nothing on the old stack is needed any more.
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

/// exit(2) by number, which ends the calling thread alone.
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

/// Whether clone(2) by number is a fork that returns on a copy of the caller's stack. A call with a stack of its own returns on
/// that stack, which only code that is not C can use: it is passed on as it is.
pub fn is_fork(flags: usize, stack: usize) -> bool {
    flags as u64 & SHARES_MEMORY == 0 && stack == 0
}

/// clone(2) by number. The arguments are flags, stack, where to put the number in the parent and in the child, and thread-local
/// storage.
pub fn by_number([flags, _, parent_tid, child_tid, storage]: [usize; 5]) -> c_long {
    by_arguments([flags as u64, 0, parent_tid as u64, child_tid as u64, storage as u64]).into()
}

fn by_arguments([flags, stack, parent_tid, child_tid, storage]: [u64; 5]) -> pid_t {
    note_shared_descriptors(flags);
    let pid = forked(flags, &|| {
        // SAFETY: the application's arguments; the child goes on here, on a copy of this stack.
        as_libc(unsafe { syscall!(Sysno::clone, flags & !SETS_STORAGE, stack, parent_tid, child_tid, 0) }) as pid_t
    });
    if pid == 0 && flags & SETS_STORAGE != 0 {
        take_storage(storage);
    }
    pid
}

/// Sets the child's thread-local storage. Set by the kernel, it would be in use before the shim's own code in the child has ended.
fn take_storage(storage: u64) {
    const ARCH_SET_FS: usize = 0x1002;
    // SAFETY: the child's storage, as the application asked for it.
    let _ = unsafe { syscall!(Sysno::arch_prctl, ARCH_SET_FS, storage) };
}

/// `struct clone_args` of linux/sched.h.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Arguments([u64; 11]);

const FLAGS: usize = 0;
const STACK: usize = 5;
const STORAGE: usize = 7;
/// The size of the structure's first version, which ends after the storage.
const LEAST: usize = 64;

impl Arguments {
    /// A copy of the `size` bytes at `address`, if they describe a fork in a form that is known here.
    pub fn of_fork(address: *const u8, size: usize) -> Option<Self> {
        if address.is_null() || !(LEAST..=size_of::<Self>()).contains(&size) {
            return None;
        }
        let mut copy = Self([0; 11]);
        // The kernel answers EFAULT where it cannot read them.
        let read = read_own(address as u64, copy.0.as_mut_ptr() as u64, size as u64);
        (read == size as u64 && copy.0[FLAGS] & SHARES_MEMORY == 0 && copy.0[STACK] == 0).then_some(copy)
    }
}

/// clone3(2) by number.
pub fn by_structure(mut arguments: Arguments, size: usize) -> c_long {
    let [flags, storage] = [FLAGS, STORAGE].map(|at| arguments.0[at]);
    arguments.0[FLAGS] &= !SETS_STORAGE;
    note_shared_descriptors(flags);
    let pid = forked(flags, &|| {
        // SAFETY: as in `by_arguments`; the structure is as large as the application's.
        as_libc(unsafe { syscall!(Sysno::clone3, arguments.0.as_ptr(), size) }) as pid_t
    });
    if pid == 0 && flags & SETS_STORAGE != 0 {
        take_storage(storage);
    }
    pid.into()
}

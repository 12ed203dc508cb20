//! The signal frame, which the kernel pushes for a handler (arch/x86/kernel/signal.c): the address to return to, the ucontext_t,
//! the siginfo_t, and above them the state of the floating point unit.

use core::ffi::c_int;
use core::ptr;

use snapshim::cooperate::summon;
use snapshim::sys::masks;
use syscalls::{Sysno, syscall};

use crate::base::user_memory::read_value;

/// The siginfo_t and the ucontext_t that a handler is called with.
#[derive(Clone, Copy)]
pub struct SignalFrame {
    information: *mut libc::siginfo_t,
    context: *mut libc::ucontext_t,
}

/// How memory was accessed: the page fault error code (Intel SDM vol. 3, 4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(pub u64);

impl Access {
    /// Whether a page was there, whose protection did not allow the access.
    pub fn found_page(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether it was a store.
    pub fn is_store(self) -> bool {
        self.0 & 1 << 1 != 0
    }

    /// Whether it was the fetch of an instruction.
    pub fn is_fetch(self) -> bool {
        self.0 & 1 << 4 != 0
    }
}

/// Bytes of the kernel's ucontext_t; libc's is larger.
const CONTEXT: usize = 304;
const INFORMATION: usize = 128;
const FRAME: usize = 8 + CONTEXT + INFORMATION;
/// Bytes below the stack pointer that leaf functions use (System V ABI).
const RED_ZONE: usize = 128;

/// Calls that return EINTR after each handler (signal(7)), or where a time limit was set for them.
const REPEATED: [Sysno; 22] = [
    Sysno::poll,
    Sysno::ppoll,
    Sysno::select,
    Sysno::pselect6,
    Sysno::epoll_wait,
    Sysno::epoll_pwait,
    Sysno::epoll_pwait2,
    Sysno::nanosleep,
    Sysno::clock_nanosleep,
    Sysno::pause,
    Sysno::rt_sigsuspend,
    Sysno::rt_sigtimedwait,
    Sysno::futex,
    Sysno::semop,
    Sysno::semtimedop,
    Sysno::msgrcv,
    Sysno::msgsnd,
    Sysno::io_getevents,
    Sysno::recvfrom,
    Sysno::recvmsg,
    Sysno::accept,
    Sysno::accept4,
];

/// The beginning of a siginfo_t.
#[repr(C)]
struct SigInfoHead {
    signal: c_int,
    errno: c_int,
    code: c_int,
}

impl SignalFrame {
    /// The frame of a handler.
    ///
    /// # Safety
    /// Both pointers are what the kernel passed to a handler that has not returned, and stay so while the frame is used.
    pub unsafe fn new(information: *mut libc::siginfo_t, context: *mut libc::ucontext_t) -> Self {
        Self { information, context }
    }

    fn head(&self) -> *mut SigInfoHead {
        self.information.cast()
    }

    /// si_code. It is above 0 if the signal comes from the kernel itself, for an instruction that faulted.
    pub fn code(&self) -> c_int {
        // SAFETY: the promise of `new`.
        unsafe { (*self.head()).code }
    }

    /// si_errno.
    pub fn errno(&self) -> c_int {
        // SAFETY: the promise of `new`.
        unsafe { (*self.head()).errno }
    }

    /// Makes it the frame of another signal, with another si_errno.
    pub fn rename(&self, signal: c_int, errno: c_int) {
        // SAFETY: the promise of `new`.
        unsafe {
            (*self.head()).signal = signal;
            (*self.head()).errno = errno;
        }
    }

    /// Makes it the frame of a signal that the kernel forces on a process without saying more.
    pub fn become_forced(&self, signal: c_int, code: c_int) {
        // SAFETY: the promise of `new`; all-zero is a valid siginfo_t.
        unsafe {
            ptr::write_bytes(self.information, 0, 1);
            *self.head() = SigInfoHead { signal, errno: 0, code };
        }
    }

    /// Makes it the frame of another signal for the fault at the same address.
    pub fn become_fault(&self, signal: c_int, code: c_int) {
        // SAFETY: the promise of `new`.
        unsafe { *self.head() = SigInfoHead { signal, errno: 0, code } };
    }

    /// si_addr.
    pub fn address(&self) -> u64 {
        // SAFETY: the promise of `new`; a siginfo_t has these bytes, whatever the signal.
        unsafe { (*self.information).si_addr() as u64 }
    }

    /// The siginfo_t.
    pub fn information(&self) -> *const libc::siginfo_t {
        self.information
    }

    fn register(&self, number: c_int) -> *mut i64 {
        // SAFETY: the promise of `new`; the numbers are libc's.
        unsafe { (&raw mut (*self.context).uc_mcontext.gregs).cast::<i64>().add(number as usize) }
    }

    /// The instruction that was interrupted.
    pub fn instruction(&self) -> u64 {
        // SAFETY: a place inside the context.
        unsafe { *self.register(libc::REG_RIP) as u64 }
    }

    /// Has sigreturn go on at another instruction.
    pub fn go_on_at(&self, instruction: u64) {
        // SAFETY: a place inside the context.
        unsafe { *self.register(libc::REG_RIP) = instruction as i64 };
    }

    /// The stack pointer that was interrupted.
    fn stack(&self) -> usize {
        // SAFETY: a place inside the context.
        unsafe { *self.register(libc::REG_RSP) as usize }
    }

    /// How the instruction of a page fault accessed memory.
    pub fn access(&self) -> Access {
        // SAFETY: a place inside the context.
        Access(unsafe { *self.register(libc::REG_ERR) as u64 })
    }

    fn mask_place(&self) -> *mut u64 {
        // SAFETY: a place inside the context. The kernel's mask is eight bytes, the first of libc's 128.
        unsafe { (&raw mut (*self.context).uc_sigmask).cast() }
    }

    /// The mask that sigreturn restores.
    pub fn mask(&self) -> u64 {
        // SAFETY: a place inside the context.
        unsafe { *self.mask_place() }
    }

    /// Whether the signal interrupted a system call that is going to return EINTR, and that was made at most a few frames below
    /// `stack`.
    pub fn has_interrupted_call_at(&self, stack: u64) -> bool {
        const FEW_FRAMES: u64 = 1024;
        // SAFETY: a place inside the context.
        let result = unsafe { *self.register(libc::REG_RAX) };
        result == -i64::from(libc::EINTR) && stack.wrapping_sub(self.stack() as u64) < FEW_FRAMES
    }

    /// The value that was sent along (sigqueue(3)).
    pub fn value(&self) -> u64 {
        // SAFETY: the promise of `new`; a siginfo_t has these bytes, whatever the signal.
        unsafe { (*self.information).si_value().sival_ptr as u64 }
    }

    /// The system call that a summons interrupted, where the kernel does not make it again: the program has not asked for the
    /// signal, and need not expect EINTR.
    pub fn interrupted_call(&self) -> Option<Sysno> {
        // SAFETY: a place inside the context.
        if unsafe { *self.register(libc::REG_RAX) } != -i64::from(libc::EINTR) {
            return None;
        }
        let number = self.call_of_instruction().or_else(|| self.call_seen_by_summoner())?;
        REPEATED.into_iter().find(|call| call.id() as u64 == number)
    }

    /// The call that the instruction before it names, as in libc's code.
    fn call_of_instruction(&self) -> Option<u64> {
        let code = read_value::<u64>(self.instruction().wrapping_sub(8))?.to_le_bytes();
        // mov eax, number; syscall
        let [_, 0xb8, a, b, c, d, 0x0f, 0x05] = code else { return None };
        Some(u32::from_le_bytes([a, b, c, d]).into())
    }

    /// The call in which the summoner saw the thread wait, if it still had the same arguments there. libc makes all calls that can
    /// be cancelled by one instruction, from version 2.41 on.
    fn call_seen_by_summoner(&self) -> Option<u64> {
        // SAFETY: the promise of `new`; a siginfo_t has 16 words.
        let [number, fingerprint] = unsafe { *self.information.cast::<u64>().add(summon::CALL).cast::<[u64; 2]>() };
        let of_call = [
            libc::REG_RDI,
            libc::REG_RSI,
            libc::REG_RDX,
            libc::REG_R10,
            libc::REG_R8,
            libc::REG_R9,
            libc::REG_RSP,
            libc::REG_RIP,
        ];
        // SAFETY: places inside the context.
        let registers = of_call.map(|number| unsafe { *self.register(number) as u64 });
        (summon::fingerprint(&registers) == fingerprint).then_some(number)
    }

    /// Has the program make an interrupted call again, whose arguments the kernel has kept. A sleep goes on with what is left of
    /// it, if the kernel has said how much that is; another wait begins anew.
    pub fn repeat(&self, call: Sysno) {
        // SAFETY: a place inside the context.
        let get = |number| unsafe { *self.register(number) };
        // SAFETY: as above.
        let set = |number, value| unsafe { *self.register(number) = value };
        match call {
            Sysno::nanosleep if get(libc::REG_RSI) != 0 => set(libc::REG_RDI, get(libc::REG_RSI)),
            Sysno::clock_nanosleep if get(libc::REG_R10) != 0 && get(libc::REG_RSI) & 1 == 0 => {
                set(libc::REG_RDX, get(libc::REG_R10));
            }
            _ => {}
        }
        set(libc::REG_RAX, i64::from(call.id()));
        set(libc::REG_RIP, get(libc::REG_RIP) - 2);
    }

    /// Has the kernel end the process, as it does without the shim, if the instruction faults again.
    pub fn let_fault_kill(&self) {
        // SAFETY: a place inside the context.
        unsafe { *self.mask_place() |= masks::FAULT };
    }

    /// Has sigreturn restore a mask in which SIGSEGV is open.
    pub fn open_faults(&self) {
        if self.mask() & masks::FAULT != 0 {
            // SAFETY: a place inside the context.
            unsafe { *self.mask_place() = masks::to_kernel(self.mask()) };
        }
    }

    /// Has sigreturn restore a mask in which `signal` is open; whether it was blocked.
    pub fn unblock(&self, signal: c_int) -> bool {
        let bit = 1 << (signal - 1);
        let was_blocked = self.mask() & bit != 0;
        // SAFETY: a place inside the context.
        unsafe { *self.mask_place() &= !bit };
        was_blocked
    }

    /// The lowest address of the frame, where the address to return to stands.
    fn start(&self) -> usize {
        self.context as usize - 8
    }

    /// Makes the handler return to the application's own restorer.
    pub fn return_to(&self, restorer: usize) {
        // SAFETY: the kernel put the address to return to below the context.
        unsafe { *(self.start() as *mut usize) = restorer };
    }

    /// Whether the frame is on the alternate stack, and only because of SA_ONSTACK.
    pub fn has_changed_stack(&self) -> bool {
        // SAFETY: a place inside the context: the alternate stack, as sigaltstack(2) says it.
        let stack = unsafe { (*self.context).uc_stack };
        let is_on = |address: usize| {
            address.wrapping_sub(stack.ss_sp as usize) <= stack.ss_size && address > stack.ss_sp as usize
        };
        stack.ss_size != 0 && is_on(self.start()) && !is_on(self.stack())
    }

    /// Copies the frame to where the kernel would have put it on the interrupted stack; by how many bytes that moves it. `None`:
    /// there is no room.
    pub fn move_to_interrupted_stack(&self) -> Option<usize> {
        // SAFETY: places inside the context, and the state of the floating point unit, whose length the state itself says. The
        // target is writable and free: it lies below what the interrupted code uses of its stack.
        unsafe {
            let state = &raw mut (*self.context).uc_mcontext.fpregs;
            let length = if (*state).is_null() { 0 } else { state_length((*state).cast()) };
            let new_state = self.stack().checked_sub(RED_ZONE + length)? & !63;
            let new_start = (new_state.checked_sub(FRAME)? & !15) - 8;
            if !is_writable(new_start, new_state + length) {
                return None;
            }
            if length != 0 {
                ptr::copy_nonoverlapping((*state).cast::<u8>(), new_state as *mut u8, length);
                *state = new_state as *mut libc::_libc_fpstate;
            }
            ptr::copy_nonoverlapping(self.start() as *const u8, new_start as *mut u8, FRAME);
            Some(new_start.wrapping_sub(self.start()))
        }
    }
}

/// Whether all of a free part of the stack can be written. The kernel is asked to store a word in each page.
fn is_writable(start: usize, end: usize) -> bool {
    const PAGE: usize = snapshim::PAGE as usize;
    let next_pages = (start / PAGE + 1..=(end - 1) / PAGE).map(|page| page * PAGE);
    core::iter::once(start).chain(next_pages).all(|place| {
        // SAFETY: a null new mask changes nothing; the kernel checks where it stores the old one.
        unsafe { syscall!(Sysno::rt_sigprocmask, 0, 0, place, 8) }.is_ok()
    })
}

/// Bytes of the floating point state: those of FXSAVE, or what the bytes reserved there say of XSAVE (struct _fpx_sw_bytes).
///
/// # Safety
/// `state` is what a context's `fpregs` points to.
unsafe fn state_length(state: *const u8) -> usize {
    const FXSAVE: usize = 512;
    const SOFTWARE_BYTES: usize = 464;
    const MAGIC: u32 = 0x4650_5853;
    // SAFETY: the caller's promise; FXSAVE's 512 bytes are always there.
    let [magic, length] = unsafe { *state.add(SOFTWARE_BYTES).cast::<[u32; 2]>() };
    if magic == MAGIC { length as usize } else { FXSAVE }
}

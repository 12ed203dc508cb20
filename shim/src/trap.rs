//! The trap: while a writable range of a snapshot is copied, stores of the process's other threads into it fault, wait, and go on.
//!
//! The handler for SIGSEGV is put in place when the first such range is held and stays; whatever handler it replaced gets every fault
//! that is not ours, with the mask and flags that it was installed with.

use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use rustix::mm::MprotectFlags;
use snapshim::drain::Patience;
use snapshim::preserve::relocate::Stores;
use snapshim::preserve::unshare;
use snapshim::raw::{self, ProcPath};
use snapshim::table::liveness::Stat;
use snapshim::table::process::Agent;
use syscalls::{Sysno, syscall};

use crate::config::{config, leak};
use crate::shared::open::{Opened, open_for_store};
use crate::{mapper, process};

/// The one range that is held.
static START: AtomicU64 = AtomicU64::new(0);
static END: AtomicU64 = AtomicU64::new(0);
/// 1 while a range is held; those who trap sleep on it.
static HELD: AtomicU32 = AtomicU32::new(0);
/// The action that ours replaced.
static REPLACED: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// Keeps the other threads of this process from storing.
#[derive(Debug)]
pub struct Trap;

impl Stores for Trap {
    fn hold(&self, address: u64, length: usize, protection: u32) -> bool {
        if is_alone() {
            return true;
        }
        let deadline = raw::now() + config().timeout;
        let mut patience = Patience::default();
        while HELD.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            if patience.is_tried() && raw::now() > deadline {
                return false;
            }
            patience.pause();
        }
        START.store(address, Ordering::Relaxed);
        // Release: pairs with the Acquire in `is_held`.
        END.store(address + length as u64, Ordering::Release);
        let readable = MprotectFlags::from_bits_retain(protection).difference(MprotectFlags::WRITE);
        // SAFETY: the range is part of a snapshot of this process that no other thread changes now; who stores into it waits in
        // `on_fault`.
        let held = install() && unsafe { rustix::mm::mprotect(address as *mut c_void, length, readable) }.is_ok();
        if !held {
            self.release();
        }
        held
    }

    fn release(&self) {
        if HELD.load(Ordering::Relaxed) == 0 {
            return;
        }
        END.store(0, Ordering::Release);
        START.store(0, Ordering::Relaxed);
        // Release: pairs with the Acquire in `hold`'s exchange and in `is_held`.
        HELD.store(0, Ordering::Release);
        raw::wake(&HELD);
    }
}

/// Whether the calling thread is the only one that could store.
fn is_alone() -> bool {
    let agent = process::attached().and_then(|own| match own.record()?.agent(own.id) {
        Agent::Thread(tid) => Some(tid),
        _ => None,
    });
    let threads = Stat::read(&ProcPath::own("stat")).map_or(u64::MAX, |stat| stat.threads);
    agent != Some(raw::own_tid()) && threads <= 1 + u64::from(agent.is_some())
}

fn is_held(address: u64) -> bool {
    (START.load(Ordering::Relaxed)..END.load(Ordering::Acquire)).contains(&address)
}

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

pub fn install() -> bool {
    // SAFETY: both actions are valid and alive for the calls.
    unsafe {
        let mut now: libc::sigaction = core::mem::zeroed();
        if libc::sigaction(libc::SIGSEGV, ptr::null(), &raw mut now) != 0 {
            return false;
        }
        if now.sa_sigaction == on_fault as *const () as usize {
            return true;
        }
        REPLACED.store(ptr::from_ref(leak(now)).cast_mut(), Ordering::Release);
        let mut ours = now;
        ours.sa_sigaction = on_fault as *const () as usize;
        ours.sa_flags = (now.sa_flags & !libc::SA_RESETHAND) | libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSEGV, &raw const ours, ptr::null_mut()) == 0
    }
}

const SEGV_ACCERR: c_int = 2;

extern "C" fn on_fault(signal: c_int, information: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo_t.
    let (code, address) = unsafe { ((*information).si_code, (*information).si_addr() as u64) };
    if code == SEGV_ACCERR && is_ours(address) {
        while is_held(address) {
            raw::wait(&HELD, 1, Duration::from_millis(10));
        }
        return;
    }
    if code == SEGV_ACCERR && is_store(context) {
        match open_for_store(address) {
            Opened::Yes => return,
            Opened::Refused => return raise_bus_error(address),
            Opened::Foreign => {}
        }
    }
    pass_on(signal, information, context);
}

/// Whether the access that faulted was a store (bit 1 of the page-fault error code).
fn is_store(context: *mut c_void) -> bool {
    // SAFETY: the kernel passes a valid ucontext_t.
    let error = unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_ERR as usize] };
    error & 2 != 0
}

/// A store that cannot happen ends as on a full disk (mm/memory.c, VM_FAULT_SIGBUS): SIGBUS at its address.
fn raise_bus_error(address: u64) {
    #[repr(C)]
    struct Information {
        signal: c_int,
        errno: c_int,
        code: c_int,
        padding: c_int,
        address: u64,
        rest: [u64; 13],
    }
    const BUS_ADRERR: c_int = 2;
    let information =
        Information { signal: libc::SIGBUS, errno: 0, code: BUS_ADRERR, padding: 0, address, rest: [0; 13] };
    // SAFETY: the structure is laid out as siginfo_t; the signal goes to the calling thread.
    let _ = unsafe {
        syscall!(Sysno::rt_tgsigqueueinfo, raw::own_pid(), raw::own_tid(), libc::SIGBUS, &raw const information)
    };
}

/// Whether the store faulted only because its range was held, perhaps no longer.
fn is_ours(address: u64) -> bool {
    is_held(address)
        || process::attached().is_some_and(|own| {
            mapper::pieces(&own, &(address..address + 1)).any(|(_, view)| unshare::is_writable(view.extent.protection))
        })
}

fn pass_on(signal: c_int, information: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: a leaked action, or null.
    let Some(action) = (unsafe { REPLACED.load(Ordering::Acquire).as_ref() }) else { return };
    let is_default = action.sa_sigaction == libc::SIG_DFL || action.sa_sigaction == libc::SIG_IGN;
    if is_default || action.sa_flags & libc::SA_RESETHAND != 0 {
        // SAFETY: all-zero is SIG_DFL with no flags. The faulting instruction runs again and ends the process as natively.
        unsafe {
            let default: libc::sigaction = core::mem::zeroed();
            libc::sigaction(signal, &raw const default, ptr::null_mut());
        }
    }
    if is_default {
        return;
    }
    // SAFETY: the application installed this function as its handler; one argument or three makes no difference in the calling
    // convention.
    let handler: Handler = unsafe { core::mem::transmute(action.sa_sigaction) };
    handler(signal, information, context);
}

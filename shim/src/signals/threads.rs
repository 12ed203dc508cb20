//! Threads that blocked SIGSEGV before the handler was installed: each has to give itself another mask.
//!
//! They are asked by the signal that setuid(2) reaches every thread with (SIGSETXID): libc keeps it out of every mask. Ours is told
//! from libc's by its siginfo; libc's goes on to libc's handler.

use core::arch::naked_asm;
use core::ffi::c_int;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use rustix::fs::OFlags;
use snapshim::protocol::process::Agent;
use snapshim::sys::procfs::{self, ProcPath};
use snapshim::sys::{masks, raw};
use syscalls::{Sysno, syscall};

use super::action::{Action, RESTORER};
use super::frame::Frame;
use crate::process::identity;

const REQUEST: c_int = 33;
/// si_errno of our request.
const OPEN_FAULTS: c_int = 0x736e_6173;
const SI_QUEUE: c_int = -1;

/// libc's handler for the signal; 0 if it has none.
static LIBC_HANDLER: AtomicUsize = AtomicUsize::new(0);

/// How long the threads have to answer. Who is kept from running longer answers before it runs on.
const PATIENCE: Duration = Duration::from_millis(50);
const SLICE: Duration = Duration::from_micros(100);

/// Opens SIGSEGV in the masks of all other threads.
pub fn open_faults() {
    if !blockers().any() || !put_handler_in() {
        return;
    }
    blockers().each(ask);
    let until = raw::now() + PATIENCE.as_nanos() as u64;
    while blockers().any() && raw::now() < until {
        raw::nap(SLICE);
    }
}

/// Ours stays: a thread may answer late. Where libc puts its own in afterwards, that one ignores what libc did not send.
fn put_handler_in() -> bool {
    let ours = on_request as *const () as usize;
    let Some(found) = Action::of_kernel(REQUEST) else { return false };
    if found.handler == ours {
        return true;
    }
    if found.is_function() {
        // Release: pairs with the Acquire in `answer`.
        LIBC_HANDLER.store(found.handler, Ordering::Release);
    }
    let flags = found.flags | (libc::SA_SIGINFO | libc::SA_RESTART) as u64 | RESTORER;
    // SAFETY: the handler takes what SA_SIGINFO gives; the way back is libc's.
    unsafe {
        Action { handler: ours, flags, restorer: super::action::libc_restorer(), ..found }.give_to_kernel(REQUEST)
    }
}

#[unsafe(naked)]
unsafe extern "C" fn on_request(signal: c_int, information: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    naked_asm!(
        "push rdi",
        "push rsi",
        "push rdx",
        "call {answer}",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "test rax, rax",
        "jz 2f",
        "jmp rax",
        "2:",
        "ret",
        answer = sym answer,
    )
}

/// The handler to go on to, 0 to return.
extern "C" fn answer(_signal: c_int, information: *mut libc::siginfo_t, context: *mut libc::ucontext_t) -> usize {
    // SAFETY: called with what the kernel passed to the handler.
    let frame = unsafe { Frame::new(information, context) };
    if frame.errno() == OPEN_FAULTS && frame.code() == SI_QUEUE {
        frame.open_faults();
        return 0;
    }
    // Acquire: pairs with the Release in `put_handler_in`.
    LIBC_HANDLER.load(Ordering::Acquire)
}

fn ask(thread: u32) {
    let mut information = [0i32; 32];
    [information[0], information[1], information[2]] = [REQUEST, OPEN_FAULTS, SI_QUEUE];
    // SAFETY: a siginfo_t of 128 bytes.
    let _ = unsafe { syscall!(Sysno::rt_tgsigqueueinfo, raw::own_pid(), thread, REQUEST, information.as_ptr()) };
}

/// The threads of this process, but for the calling one and the agent, in whose masks the kernel has SIGSEGV.
struct Blockers {
    own: u32,
    agent: Option<u32>,
}

fn blockers() -> Blockers {
    let agent = identity::attached().and_then(|own| match own.record()?.agent(own.id) {
        Agent::Thread(tid) => Some(tid),
        _ => None,
    });
    Blockers { own: raw::own_tid(), agent }
}

impl Blockers {
    fn any(&self) -> bool {
        let mut any = false;
        self.each(|_| any = true);
        any
    }

    fn each(&self, mut see: impl FnMut(u32)) {
        let directory = OFlags::DIRECTORY | OFlags::RDONLY;
        let Ok(tasks) = raw::open(c"/proc/self/task", directory) else { return };
        procfs::any_entry(tasks, |name| {
            let is_other = |thread: &u32| *thread != self.own && Some(*thread) != self.agent;
            if let Some(thread) = name.parse().ok().filter(is_other).filter(|thread| blocks_faults(*thread)) {
                see(thread);
            }
            false
        });
    }
}

/// proc_pid_stat(5), field 32: the blocked signals up to 31, in decimal.
fn blocks_faults(thread: u32) -> bool {
    let mut buffer = [0u8; 512];
    let path = ProcPath::of(raw::own_pid(), "task").slash(thread).then("/stat");
    let Ok(text) = procfs::read_file(path.as_c_str(), &mut buffer) else { return false };
    let behind_name = text.iter().rposition(|byte| *byte == b')').map_or(0, |at| at + 2);
    let blocked = text[behind_name..].split(|byte| *byte == b' ').nth(32 - 3);
    let blocked = blocked.and_then(|word| core::str::from_utf8(word).ok()?.parse::<u64>().ok());
    blocked.is_some_and(|mask| mask & masks::FAULT != 0)
}

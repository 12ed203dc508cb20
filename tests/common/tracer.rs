//! Ends or stops a program at any point at which the table, or what the kernel has of the program, is about to change or has just
//! changed.
//!
//! The program runs under ptrace(2) with the table write-protected: each store to it traps, the tracer opens the table, steps over
//! the one instruction, and closes it again. All that the program and the library could see of this: SIGSEGV and SIGTRAP are
//! open in the mask of each thread that goes on. The kernel forces both on a thread that blocks them, and then takes the action
//! away from all threads, of which another may need it at that moment.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::mem::{self, MaybeUninit};
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::ptr;

use libc::{c_int, c_long, c_void, pid_t, user_regs_struct};
use snapshim::protocol::preserved::Block;

/// Which process of a program that forks is taken to the point, with all its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Itself,
    ForkedChild,
}

/// How a traced run ended.
#[derive(Debug)]
pub enum Ended {
    /// The target was killed, or stopped, at this point.
    Reached(Point),
    /// The target was killed at the end of its operation, which has no point of that number.
    Whole,
    /// The target has become another image, which goes on.
    Replaced,
}

/// Where a program can be killed or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// In front of a store at this offset of the table.
    BeforeStore(u64),
    /// Behind it.
    AfterStore(u64),
    /// Behind a system call of this number.
    AfterCall(u64),
}

/// System calls (x86-64) after which the kernel has something else of a process than before: memory, files, children.
const CHANGING: [u64; 20] = [1, 9, 10, 11, 16, 18, 25, 28, 56, 57, 59, 77, 83, 149, 257, 265, 285, 310, 319, 435];
/// The part of the table that counts changes of origins: any value is as good as another.
const COUNTERS: Range<u64> = 192..4096;
const MMAP: u64 = 9;
/// The bits of SIGSEGV and SIGTRAP.
const FAULT: u64 = 1 << (libc::SIGSEGV - 1);
const TRAP: u64 = 1 << (libc::SIGTRAP - 1);

struct Tracer {
    target: Target,
    /// The process that is taken to the point, once it exists.
    victim: Option<pid_t>,
    leader: pid_t,
    threads: BTreeSet<pid_t>,
    /// Those whose first stop has been seen, and what became of them.
    met: BTreeSet<pid_t>,
    /// The thread that was looked at last, which is stopped.
    current: pid_t,
    /// Of the table in the victim.
    table: Option<(u64, u64)>,
    /// Of a system call instruction in the victim.
    instruction: u64,
    /// Whether the operation has begun.
    is_begun: bool,
    left: usize,
    /// Whether anything changed since the last store trapped.
    is_news: bool,
    /// Threads that were handed a SIGSEGV, until they stop at the first instruction of its handler.
    entering: BTreeSet<pid_t>,
}

/// Starts `command` and kills it at point `number` of its operation. `is_marked`: the operation lies between two traps; else it is
/// everything.
pub fn run_to(command: &mut Command, target: Target, is_marked: bool, number: usize) -> (Child, Ended) {
    let (child, mut tracer, ended) = trace(command, target, is_marked, number);
    if !matches!(ended, Ended::Replaced) {
        tracer.kill_victim();
    }
    (child, ended)
}

/// A process that is stopped as by SIGSTOP, and traced by none.
pub struct Stopped {
    pub pid: u32,
    is_going_on: bool,
}

impl Stopped {
    /// SIGCONT.
    pub fn go_on(mut self) {
        self.is_going_on = true;
        // SAFETY: kill(2) of a stopped process, which can only be killed, and is not waited for before.
        unsafe { libc::kill(self.pid as pid_t, libc::SIGCONT) };
    }
}

/// A test that fails leaves no process behind stopped.
impl Drop for Stopped {
    fn drop(&mut self) {
        if !self.is_going_on {
            // SAFETY: as above.
            unsafe { libc::kill(self.pid as pid_t, libc::SIGKILL) };
        }
    }
}

/// Starts `command` and stops it at point `number` of its operation. At the operation's end it is killed.
pub fn stop_at(
    command: &mut Command,
    target: Target,
    is_marked: bool,
    number: usize,
) -> (Child, Result<(Stopped, Point), Ended>) {
    let (child, mut tracer, ended) = trace(command, target, is_marked, number);
    let stopped = match ended {
        Ended::Reached(point) => Ok((tracer.stop_victim(), point)),
        Ended::Whole => {
            tracer.kill_victim();
            Err(ended)
        }
        Ended::Replaced => Err(ended),
    };
    (child, stopped)
}

fn trace(command: &mut Command, target: Target, is_marked: bool, number: usize) -> (Child, Tracer, Ended) {
    // SAFETY: ptrace(2) is all that happens between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            Ok(())
        });
    }
    let child = command.spawn().unwrap();
    let leader = child.id() as pid_t;
    assert_eq!(wait_for(leader), (leader, stopped_by(libc::SIGTRAP)), "exec");
    let options = libc::PTRACE_O_EXITKILL
        | libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACEEXEC;
    request(libc::PTRACE_SETOPTIONS, leader, 0, options as u64).unwrap();
    let mut tracer = Tracer {
        target,
        victim: (target == Target::Itself).then_some(leader),
        leader,
        threads: BTreeSet::from([leader]),
        met: BTreeSet::from([leader]),
        current: leader,
        table: None,
        instruction: 0,
        is_begun: !is_marked,
        left: number,
        is_news: true,
        entering: BTreeSet::new(),
    };
    tracer.go_on(leader, 0);
    let ended = tracer.run();
    (child, tracer, ended)
}

impl Tracer {
    fn run(&mut self) -> Ended {
        loop {
            let (thread, status) = wait_for(-1);
            if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
                assert!(libc::WIFEXITED(status), "{thread} was ended by signal {}", libc::WTERMSIG(status));
                self.threads.remove(&thread);
                if Some(thread) == self.victim || self.threads.is_empty() {
                    return Ended::Whole;
                }
                continue;
            }
            self.current = thread;
            match self.look_at(thread, status) {
                None => {}
                Some(ended) => return ended,
            }
        }
    }

    /// One stop of one thread, which goes on, unless this is the end.
    fn look_at(&mut self, thread: pid_t, status: c_int) -> Option<Ended> {
        if self.met.insert(thread) {
            self.meet(thread);
            return None;
        }
        let signal = libc::WSTOPSIG(status);
        open_mask(thread, if has_left_handler(thread, signal) { TRAP } else { FAULT | TRAP });
        match (signal, status >> 16) {
            (libc::SIGTRAP, libc::PTRACE_EVENT_EXEC) if self.is_begun && self.table.is_some() => {
                request(libc::PTRACE_DETACH, thread, 0, 0).unwrap();
                return Some(Ended::Replaced);
            }
            (libc::SIGTRAP, 0) => {
                if !self.entering.remove(&thread) && self.end_of_operation(thread) {
                    return Some(Ended::Whole);
                }
            }
            (libc::SIGTRAP, libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE) => {
                let made = made_by(thread);
                // Before anything else happens, so that it is never left behind.
                if self.met.insert(made) {
                    wait_for(made);
                    self.meet(made);
                }
            }
            (libc::SIGTRAP, _) => {}
            (signal, _) if signal == libc::SIGTRAP | 0x80 => {
                let reached = self.after_call(thread);
                if reached.is_some() {
                    return reached;
                }
            }
            (signal, _) => match self.stored_at(thread).filter(|_| signal == libc::SIGSEGV) {
                Some(offset) => {
                    let reached = self.store(thread, offset);
                    if reached.is_some() {
                        return reached;
                    }
                }
                None if signal == libc::SIGSEGV => {
                    // The handler's mask is not the one that was opened above.
                    self.entering.insert(thread);
                    let _ = request(libc::PTRACE_SINGLESTEP, thread, 0, signal as u64);
                    return None;
                }
                None => {
                    self.go_on(thread, signal);
                    return None;
                }
            },
        }
        self.go_on(thread, 0);
        None
    }

    /// A thread or process that was just made, at its first stop.
    fn meet(&mut self, thread: pid_t) {
        open_mask(thread, FAULT | TRAP);
        let is_process = group_of(thread) == thread;
        if is_process && self.target == Target::ForkedChild && self.is_begun {
            self.victim = Some(thread);
            self.find_table();
            self.close_table(thread);
        } else if is_process {
            self.protect(thread, false);
            request(libc::PTRACE_DETACH, thread, 0, 0).unwrap();
            return;
        }
        self.threads.insert(thread);
        self.go_on(thread, 0);
    }

    /// The first trap of the target begins, the second one ends the operation.
    fn end_of_operation(&mut self, thread: pid_t) -> bool {
        if self.is_begun {
            return self.is_of_victim(thread);
        }
        self.is_begun = true;
        if self.target == Target::Itself {
            self.find_table();
            self.close_table(thread);
        }
        false
    }

    fn is_of_victim(&self, thread: pid_t) -> bool {
        self.victim.is_some_and(|victim| fs::metadata(format!("/proc/{victim}/task/{thread}")).is_ok())
    }

    fn find_table(&mut self) {
        let Some(victim) = self.victim else { return };
        let maps = fs::read_to_string(format!("/proc/{victim}/maps")).unwrap_or_default();
        // One that the victim made itself is still shown without its name.
        let numbers = maps.lines().filter(|line| line.contains("-table/")).flat_map(|line| {
            let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            [start, end].map(|number| u64::from_str_radix(number, 16).unwrap())
        });
        let numbers: Vec<u64> = numbers.collect();
        // The blocks at its end are made present by a call that wants them writable.
        let end =
            numbers.iter().max().map(|end| end - (snapshim::protocol::limits::BLOCKS * size_of::<Block>()) as u64);
        self.table = numbers.iter().min().copied().zip(end);
    }

    fn close_table(&mut self, thread: pid_t) {
        if self.table.is_some() {
            self.protect(thread, true);
        }
    }

    fn stored_at(&self, thread: pid_t) -> Option<u64> {
        let (start, end) = self.table?;
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        request(libc::PTRACE_GETSIGINFO, thread, 0, info.as_mut_ptr() as u64).ok()?;
        // SAFETY: filled by the kernel for a SIGSEGV.
        let address = unsafe { info.assume_init().si_addr() } as u64;
        (self.is_begun && (start..end).contains(&address)).then(|| address - start)
    }

    /// A store to the table that has trapped.
    fn store(&mut self, thread: pid_t, offset: u64) -> Option<Ended> {
        if !COUNTERS.contains(&offset) && mem::take(&mut self.is_news) && self.is_due() {
            return Some(Ended::Reached(Point::BeforeStore(offset)));
        }
        let address = self.table.unwrap().0 + offset / 8 * 8;
        let before = self.peek(thread, address);
        self.protect(thread, false);
        without_signals(thread, || step(thread));
        self.protect(thread, true);
        let is_changed = self.peek(thread, address) != before && !COUNTERS.contains(&offset);
        self.is_news |= is_changed;
        (is_changed && self.is_due()).then_some(Ended::Reached(Point::AfterStore(offset)))
    }

    fn after_call(&mut self, thread: pid_t) -> Option<Ended> {
        let registers = registers_of(thread);
        // Where rt_sigreturn(2) leaves to, there need not be such an instruction.
        let is_entry = registers.rax as i64 == -i64::from(libc::ENOSYS);
        if is_entry {
            self.instruction = registers.rip - 2;
        }
        if is_entry || !self.is_begun || !self.is_of_victim(thread) {
            return None;
        }
        if registers.orig_rax == MMAP && self.table.is_none() {
            self.find_table();
            self.close_table(thread);
        }
        let is_changing = CHANGING.contains(&registers.orig_rax);
        self.is_news |= is_changing;
        (is_changing && self.is_due()).then_some(Ended::Reached(Point::AfterCall(registers.orig_rax)))
    }

    fn is_due(&mut self) -> bool {
        let is_due = self.left == 0;
        self.left = self.left.saturating_sub(1);
        is_due
    }

    fn peek(&self, thread: pid_t, address: u64) -> c_long {
        // SAFETY: PTRACE_PEEKDATA only reads the tracee.
        unsafe { libc::ptrace(libc::PTRACE_PEEKDATA, thread, address, 0) }
    }

    /// Has a stopped thread of the victim call mprotect(2) on the table.
    fn protect(&self, thread: pid_t, is_closed: bool) {
        let Some((start, end)) = self.table else { return };
        let protection = if is_closed { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE };
        self.have_call(thread, libc::SYS_mprotect, [start, end - start, protection as u64, 0]);
    }

    /// Has a stopped thread of the victim make a system call.
    fn have_call(&self, thread: pid_t, number: c_long, [rdi, rsi, rdx, r10]: [u64; 4]) {
        let registers = registers_of(thread);
        let rax = number as u64;
        let call = user_regs_struct { rip: self.instruction, rax, orig_rax: u64::MAX, rdi, rsi, rdx, r10, ..registers };
        set_registers(thread, &call);
        without_signals(thread, || step(thread));
        assert_eq!(registers_of(thread).rax, 0, "system call {number} in the tracee");
        set_registers(thread, &registers);
    }

    fn go_on(&self, thread: pid_t, signal: c_int) {
        // It may have been killed meanwhile.
        let _ = request(libc::PTRACE_SYSCALL, thread, 0, signal as u64);
    }

    /// The victim's threads, and the others.
    fn threads_of(&self, victim: pid_t) -> (Vec<pid_t>, Vec<pid_t>) {
        self.threads.iter().partition(|thread| **thread == victim || self.is_of_victim(**thread))
    }

    /// Stops the victim as a whole, and lets the others go.
    fn stop_victim(&mut self) -> Stopped {
        let victim = self.victim.unwrap_or(self.leader);
        let (own, others) = self.threads_of(victim);
        self.protect(self.current, false);
        request(libc::PTRACE_DETACH, self.current, 0, libc::SIGSTOP as u64).unwrap();
        for thread in own.into_iter().filter(|thread| *thread != self.current) {
            self.release(thread, libc::SIGSTOP);
        }
        for thread in others {
            self.release(thread, 0);
        }
        while !is_stopped(victim) {
            std::thread::yield_now();
        }
        Stopped { pid: victim as u32, is_going_on: false }
    }

    /// Detaches from a thread that may be running, and hands it a signal.
    fn release(&self, thread: pid_t, last: c_int) {
        // SAFETY: tkill(2) of a tracee.
        let ask_to_stop = || unsafe { libc::syscall(libc::SYS_tkill, thread, libc::SIGSTOP) };
        ask_to_stop();
        loop {
            let (_, status) = wait_for(thread);
            if !libc::WIFSTOPPED(status) {
                return;
            }
            let signal = libc::WSTOPSIG(status);
            if signal == libc::SIGSTOP {
                let _ = request(libc::PTRACE_DETACH, thread, 0, last as u64);
                return;
            }
            let is_store = signal == libc::SIGSEGV && self.stored_at(thread).is_some();
            if is_store {
                // It runs again, now that the table is open.
                ask_to_stop();
            }
            let is_signal = status >> 16 == 0 && signal & 0x80 == 0 && signal != libc::SIGTRAP && !is_store;
            let _ = request(libc::PTRACE_CONT, thread, 0, if is_signal { signal as u64 } else { 0 });
        }
    }

    /// Kills the victim as a whole, and lets the others go.
    fn kill_victim(&mut self) {
        let victim = self.victim.unwrap_or(self.leader);
        let (own, others) = self.threads_of(victim);
        // SAFETY: kill(2) and tgkill(2) of processes that were started here and have not been waited for.
        unsafe { libc::kill(victim, libc::SIGKILL) };
        // A leader is reported last. Its zombie stays with whose child it is.
        for thread in own.into_iter().filter(|thread| *thread != victim) {
            let mut status = 0;
            // SAFETY: as above.
            unsafe {
                while libc::waitpid(thread, &raw mut status, libc::__WALL) == thread && libc::WIFSTOPPED(status) {}
            }
        }
        if victim != self.leader {
            // The tracer's report comes before the parent's.
            wait_for(victim);
        } else {
            let mut information = MaybeUninit::<libc::siginfo_t>::uninit();
            let until_dead = libc::WEXITED | libc::WNOWAIT;
            // Its zombie is left to its parent.
            // SAFETY: waitid(2) of a child that has just been killed, with room for the answer.
            unsafe { libc::waitid(libc::P_PID, victim as u32, information.as_mut_ptr(), until_dead) };
        }
        for thread in others {
            self.release(thread, 0);
        }
    }
}

/// The thread or process whose making has just stopped `thread`.
fn made_by(thread: pid_t) -> pid_t {
    let mut made: libc::c_ulong = 0;
    request(libc::PTRACE_GETEVENTMSG, thread, 0, &raw mut made as u64).unwrap();
    made as pid_t
}

fn group_of(thread: pid_t) -> pid_t {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok()).unwrap_or(0)
}

/// Whether every thread of a process is stopped (proc_pid_stat(5), field 3).
fn is_stopped(process: pid_t) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { panic!("{process} has ended") };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    })
}

/// Signals that other threads send to a stopped thread wait while `does` has it go on. A step ends by SIGTRAP, which the kernel
/// would let a thread that blocks it die of (force_sig_info_to_task in kernel/signal.c). SIGSTOP cannot be blocked.
fn without_signals(thread: pid_t, does: impl FnOnce()) {
    let mut mask = 0u64;
    let blocked = !(1u64 << (libc::SIGTRAP - 1));
    request(libc::PTRACE_GETSIGMASK, thread, 8, &raw mut mask as u64).unwrap();
    request(libc::PTRACE_SETSIGMASK, thread, 8, &raw const blocked as u64).unwrap();
    does();
    request(libc::PTRACE_SETSIGMASK, thread, 8, &raw const mask as u64).unwrap();
}

/// Has a stopped thread do one instruction. A stop that is asked for meanwhile is put off.
fn step(thread: pid_t) {
    loop {
        request(libc::PTRACE_SINGLESTEP, thread, 0, 0).unwrap();
        let (_, status) = wait_for(thread);
        if status & 0xffff != stopped_by(libc::SIGSTOP) {
            return assert_eq!(status & 0xffff, stopped_by(libc::SIGTRAP), "a step");
        }
    }
}

/// Whether a thread has just left a handler. It has the mask that the handler gave it, by which the library lets a fault kill.
fn has_left_handler(thread: pid_t, signal: c_int) -> bool {
    // The kernel forgets the number of rt_sigreturn(2).
    signal == libc::SIGTRAP | 0x80 && registers_of(thread).orig_rax == u64::MAX
}

/// Opens signals in the mask of a stopped thread.
fn open_mask(thread: pid_t, signals: u64) {
    let mut mask = 0u64;
    // It may have been killed meanwhile.
    let is_read = request(libc::PTRACE_GETSIGMASK, thread, 8, &raw mut mask as u64).is_ok();
    if is_read && mask & signals != 0 {
        mask &= !signals;
        let _ = request(libc::PTRACE_SETSIGMASK, thread, 8, &raw const mask as u64);
    }
}

const fn stopped_by(signal: c_int) -> c_int {
    signal << 8 | 0x7f
}

fn wait_for(thread: pid_t) -> (pid_t, c_int) {
    let mut status = 0;
    // SAFETY: `status` is writable. Only the calling thread's own children and tracees are waited for.
    let found = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
    assert!(found > 0, "waitpid({thread}): {}", io::Error::last_os_error());
    (found, status)
}

fn registers_of(thread: pid_t) -> user_regs_struct {
    let mut registers = MaybeUninit::<user_regs_struct>::zeroed();
    request(libc::PTRACE_GETREGS, thread, 0, registers.as_mut_ptr() as u64).unwrap();
    // SAFETY: filled by the kernel.
    unsafe { registers.assume_init() }
}

fn set_registers(thread: pid_t, registers: &user_regs_struct) {
    request(libc::PTRACE_SETREGS, thread, 0, ptr::from_ref(registers) as u64).unwrap();
}

fn request(what: libc::c_uint, thread: pid_t, address: u64, data: u64) -> io::Result<c_long> {
    // SAFETY: what `data` points to is as ptrace(2) wants it for `what`.
    let result = unsafe { libc::ptrace(what, thread, address as *mut c_void, data as *mut c_void) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

//! What a filter of system calls does to the calls that the library makes: seccomp(2), in the language of linux/filter.h.
//!
//! The filter is run for each such call with what is known of the call: its number, and arguments that are always the same. Where
//! the filter looks at anything else it may go either way, and both ways are followed. So a call counts as harmless only if no
//! arguments make the filter end the thread or the process, or send SIGSYS.

use core::mem::offset_of;

use libc::{seccomp_data, sock_filter};
use syscalls::Sysno;

/// A call that the library makes, and the arguments that are known of it: their places and values.
pub struct Call(pub Sysno, pub &'static [(usize, u64)]);

/// Instructions of the longest filter (BPF_MAXINSNS).
pub const LONGEST: usize = 4096;

/// AUDIT_ARCH_X86_64 (linux/audit.h).
const ARCHITECTURE: u32 = 0xc000_003e;
/// Steps that are followed for one call. A filter that takes more is taken to forbid it.
const STEPS: u32 = 20_000;
/// Ways that are left to follow. A filter that has more is taken to forbid the call.
const WAYS: usize = 40;

/// Whether `filter` lets a call pass, or answers it with an error, whatever the arguments are that are not known.
pub fn is_harmless(filter: &[sock_filter], call: &Call) -> bool {
    let mut ways = Ways { left: [Way::default(); WAYS], count: 1 };
    let mut steps = 0;
    while let Some(mut way) = ways.take() {
        loop {
            steps += 1;
            let Some(instruction) = filter.get(way.at as usize).filter(|_| steps < STEPS) else { return false };
            way.at += 1;
            match way.step(instruction, call) {
                Step::Over(count) => way.at = way.at.saturating_add(count),
                Step::Either(yes, no) => {
                    if !ways.add(Way { at: way.at.saturating_add(no), ..way }) {
                        return false;
                    }
                    way.at = way.at.saturating_add(yes);
                }
                Step::End(Some(answer)) if is_harmless_answer(answer) => break,
                Step::End(_) => return false,
            }
        }
    }
    true
}

/// Whether an answer of a filter lets the program live on as if the call had failed, or been made. SECCOMP_RET_TRAP is none of
/// these: a handler for SIGSYS expects the program's own calls alone.
const fn is_harmless_answer(answer: u32) -> bool {
    const HARMLESS: [u32; 5] = [
        libc::SECCOMP_RET_ALLOW,
        libc::SECCOMP_RET_LOG,
        libc::SECCOMP_RET_ERRNO,
        libc::SECCOMP_RET_TRACE,
        libc::SECCOMP_RET_USER_NOTIF,
    ];
    let action = answer & libc::SECCOMP_RET_ACTION_FULL;
    let mut index = 0;
    while index < HARMLESS.len() {
        if HARMLESS[index] == action {
            return true;
        }
        index += 1;
    }
    false
}

/// The ways that are left to follow.
struct Ways {
    left: [Way; WAYS],
    count: usize,
}

impl Ways {
    fn take(&mut self) -> Option<Way> {
        self.count = self.count.checked_sub(1)?;
        self.left.get(self.count).copied()
    }

    /// False: there is no room.
    fn add(&mut self, way: Way) -> bool {
        let room = self.left.get_mut(self.count);
        self.count += usize::from(room.is_some());
        room.map(|room| *room = way).is_some()
    }
}

/// A run of the filter: where it stands, and its two registers, as far as they are known. What it stores is not known when it is
/// loaded again.
#[derive(Clone, Copy)]
struct Way {
    at: u32,
    accumulator: Option<u32>,
    index: Option<u32>,
}

impl Default for Way {
    fn default() -> Self {
        Self { at: 0, accumulator: Some(0), index: Some(0) }
    }
}

enum Step {
    /// Over so many instructions.
    Over(u32),
    /// Over so many, or over so many others.
    Either(u32, u32),
    /// The filter's answer.
    End(Option<u32>),
}

// Parts of an instruction's code (linux/bpf_common.h).
const CLASS: u16 = 0x07;
const MODE: u16 = 0xe0;
const OPERATION: u16 = 0xf0;
const FROM_INDEX: u16 = 0x08;
const RETURNS_ACCUMULATOR: u16 = 0x10;

impl Way {
    fn step(&mut self, instruction: &sock_filter, call: &Call) -> Step {
        let sock_filter { code, jt, jf, k } = *instruction;
        let operand = if code & FROM_INDEX == 0 { Some(k) } else { self.index };
        match code & CLASS {
            0 => self.accumulator = loaded(code, k, call),
            1 => self.index = loaded(code, k, call),
            2 | 3 => {}
            4 => self.accumulator = calculated(code & OPERATION, self.accumulator, operand),
            5 => return jumped(code & OPERATION, self.accumulator, operand, k, u32::from(jt), u32::from(jf)),
            6 if code & RETURNS_ACCUMULATOR != 0 => return Step::End(self.accumulator),
            6 => return Step::End(Some(k)),
            _ if code & 0xf8 == 0 => self.index = self.accumulator,
            _ => self.accumulator = self.index,
        }
        Step::Over(0)
    }
}

/// What a load has from `struct seccomp_data`, or from the instruction.
fn loaded(code: u16, k: u32, call: &Call) -> Option<u32> {
    const ARGUMENTS: usize = offset_of!(seccomp_data, args);
    const WORD: usize = size_of::<u32>();
    match (code & MODE, k as usize) {
        (0x00, _) => Some(k),
        (0x80, _) => Some(size_of::<seccomp_data>() as u32),
        (0x20, at) if at == offset_of!(seccomp_data, nr) => Some(call.0 as u32),
        (0x20, at) if at == offset_of!(seccomp_data, arch) => Some(ARCHITECTURE),
        (0x20, at) => {
            let half = at.checked_sub(ARGUMENTS)? / WORD;
            let (_, value) = call.1.iter().find(|(place, _)| *place == half / 2)?;
            Some((value >> (32 * (half % 2))) as u32)
        }
        _ => None,
    }
}

fn calculated(operation: u16, accumulator: Option<u32>, operand: Option<u32>) -> Option<u32> {
    let (a, b) = (accumulator?, operand.unwrap_or(0));
    if operation == 0x80 {
        return Some(a.wrapping_neg());
    }
    operand?;
    match operation {
        0x00 => Some(a.wrapping_add(b)),
        0x10 => Some(a.wrapping_sub(b)),
        0x20 => Some(a.wrapping_mul(b)),
        0x30 => a.checked_div(b),
        0x40 => Some(a | b),
        0x50 => Some(a & b),
        0x60 => a.checked_shl(b),
        0x70 => a.checked_shr(b),
        0xa0 => Some(a ^ b),
        _ => None,
    }
}

fn jumped(operation: u16, accumulator: Option<u32>, operand: Option<u32>, k: u32, yes: u32, no: u32) -> Step {
    if operation == 0 {
        return Step::Over(k);
    }
    let (Some(a), Some(b)) = (accumulator, operand) else { return Step::Either(yes, no) };
    let holds = match operation {
        0x10 => a == b,
        0x20 => a > b,
        0x30 => a >= b,
        0x40 => a & b != 0,
        _ => return Step::End(None),
    };
    Step::Over(if holds { yes } else { no })
}

/// The calls that a process makes to take part, but for those that the library makes in the place of the program's own. A process
/// that may not make all of them is confined.
pub const NEEDED: &[Call] = &{
    use Sysno as S;
    const FUTEX_WAIT: &[(usize, u64)] = &[(1, 0)];
    const FUTEX_WAKE: &[(usize, u64)] = &[(1, 1)];
    [
        // Files.
        Call(S::openat, &[]),
        Call(S::newfstatat, &[]),
        Call(S::fstat, &[]),
        Call(S::statx, &[]),
        Call(S::fstatfs, &[]),
        Call(S::read, &[]),
        Call(S::pread64, &[]),
        Call(S::write, &[]),
        Call(S::pwrite64, &[]),
        Call(S::lseek, &[]),
        Call(S::fcntl, &[]),
        Call(S::getdents64, &[]),
        Call(S::readlinkat, &[]),
        Call(S::fadvise64, &[]),
        Call(S::ftruncate, &[]),
        Call(S::fallocate, &[]),
        Call(S::truncate, &[]),
        Call(S::close, &[]),
        // Memory.
        Call(S::mmap, &[]),
        Call(S::munmap, &[]),
        Call(S::mprotect, &[]),
        Call(S::mremap, &[]),
        Call(S::madvise, &[]),
        Call(S::mincore, &[]),
        Call(S::mlock, &[]),
        Call(S::mlock2, &[]),
        Call(S::memfd_create, &[]),
        // Threads, processes, signals.
        Call(S::futex, FUTEX_WAIT),
        Call(S::futex, FUTEX_WAKE),
        Call(S::clock_gettime, &[]),
        Call(S::getpid, &[]),
        Call(S::gettid, &[]),
        Call(S::geteuid, &[]),
        Call(S::getegid, &[]),
        Call(S::getgroups, &[]),
        Call(S::prlimit64, &[]),
        Call(S::get_robust_list, &[]),
        Call(S::prctl, &[]),
        Call(S::capget, &[]),
        Call(S::clone, &[]),
        Call(S::wait4, &[]),
        Call(S::exit, &[]),
        Call(S::tgkill, &[]),
        Call(S::rt_sigaction, &[]),
        Call(S::rt_sigprocmask, &[]),
        Call(S::rt_sigqueueinfo, &[]),
        Call(S::rt_tgsigqueueinfo, &[]),
        Call(S::rt_sigreturn, &[]),
    ]
};

/// The calls that the library does without where a filter forbids them.
pub const OPTIONAL: &[Call] = &{
    use Sysno as S;
    const PAGEMAP_SCAN: &[(usize, u64)] = &[(1, 0xc060_6610)];
    [
        Call(S::pidfd_open, &[]),
        Call(S::pidfd_getfd, &[]),
        Call(S::close_range, &[]),
        Call(S::dup3, &[]),
        Call(S::process_vm_readv, &[]),
        Call(S::process_vm_writev, &[]),
        Call(S::sched_yield, &[]),
        Call(S::nanosleep, &[]),
        Call(S::ppoll, &[]),
        Call(S::clock_nanosleep, &[]),
        Call(S::getrandom, &[]),
        Call(S::kill, &[]),
        Call(S::futex_waitv, &[]),
        Call(S::pwritev2, &[]),
        Call(S::sendto, &[]),
        Call(S::rt_sigpending, &[]),
        Call(S::rt_sigtimedwait, &[]),
        Call(S::getsid, &[]),
        Call(S::getppid, &[]),
        Call(S::mkdirat, &[]),
        Call(S::linkat, &[]),
        Call(S::fchmod, &[]),
        Call(S::getuid, &[]),
        Call(S::fgetxattr, &[]),
        Call(S::fanotify_init, &[]),
        Call(S::fanotify_mark, &[]),
        Call(S::ioctl, PAGEMAP_SCAN),
    ]
};

/// The calls that SECCOMP_MODE_STRICT lets pass.
pub const STRICT: [Sysno; 4] = [Sysno::read, Sysno::write, Sysno::exit, Sysno::rt_sigreturn];

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBER: u32 = 0;
    const ARGUMENT: fn(u32) -> u32 = |place| 16 + 8 * place;

    fn load(at: u32) -> sock_filter {
        sock_filter { code: 0x20, jt: 0, jf: 0, k: at }
    }

    fn skip_unless(value: u32, count: u8) -> sock_filter {
        sock_filter { code: 0x15, jt: 0, jf: count, k: value }
    }

    fn answer(answer: u32) -> sock_filter {
        sock_filter { code: 0x06, jt: 0, jf: 0, k: answer }
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

    #[test]
    fn a_list_of_numbers_is_judged_number_by_number() {
        let listed = Sysno::write as u32;
        let only = |yes, no| [load(NUMBER), skip_unless(listed, 1), answer(yes), answer(no)];
        let is_harmless = |filter: &[sock_filter], number| is_harmless(filter, &Call(number, &[]));
        assert!(is_harmless(&only(ALLOW, KILL), Sysno::write) && !is_harmless(&only(ALLOW, KILL), Sysno::read));
        assert!(!is_harmless(&only(KILL, ALLOW), Sysno::write) && is_harmless(&only(KILL, ALLOW), Sysno::read));
        for bad in [0, libc::SECCOMP_RET_TRAP, 0x1234_0000] {
            assert!(!is_harmless(&only(bad, ALLOW), Sysno::write), "{bad:x}");
        }
        let errno = libc::SECCOMP_RET_ERRNO | 38;
        for good in [errno, libc::SECCOMP_RET_LOG, libc::SECCOMP_RET_TRACE, libc::SECCOMP_RET_USER_NOTIF] {
            assert!(is_harmless(&only(good, KILL), Sysno::write), "{good:x}");
        }
    }

    #[test]
    fn an_argument_that_is_not_known_may_be_any() {
        let by_argument = [load(ARGUMENT(1)), skip_unless(1, 1), answer(ALLOW), answer(KILL)];
        assert!(!is_harmless(&by_argument, &Call(Sysno::futex, &[])));
        assert!(is_harmless(&by_argument, &Call(Sysno::futex, &[(1, 1)])));
        assert!(!is_harmless(&by_argument, &Call(Sysno::futex, &[(1, 0)])));
        let either_way = [load(ARGUMENT(1)), skip_unless(1, 1), answer(ALLOW), answer(libc::SECCOMP_RET_ERRNO)];
        assert!(is_harmless(&either_way, &Call(Sysno::futex, &[])));
        let high_half = [load(ARGUMENT(1) + 4), skip_unless(0, 1), answer(ALLOW), answer(KILL)];
        assert!(is_harmless(&high_half, &Call(Sysno::futex, &[(1, 1)])));
    }

    #[test]
    fn the_numbers_of_another_architecture_are_no_concern() {
        let other = [load(4), skip_unless(0x4000_0003, 1), answer(KILL), answer(ALLOW)];
        assert!(is_harmless(&other, &Call(Sysno::write, &[])));
        let own = [load(4), skip_unless(ARCHITECTURE, 1), answer(ALLOW), answer(KILL)];
        assert!(is_harmless(&own, &Call(Sysno::write, &[])));
    }

    #[test]
    fn registers_are_followed() {
        let code = |code, k| sock_filter { code, jt: 0, jf: 0, k };
        // (number & 0xff) + 1, by way of the index register and a jump.
        let filter = [
            load(NUMBER),
            code(0x54, 0xff),
            code(0x07, 0),
            code(0x00, 1),
            code(0x0c, 0),
            code(0x05, 1),
            answer(KILL),
            skip_unless(Sysno::pwrite64 as u32 + 1, 1),
            answer(ALLOW),
            answer(KILL),
        ];
        assert!(is_harmless(&filter, &Call(Sysno::pwrite64, &[])) && !is_harmless(&filter, &Call(Sysno::pread64, &[])));
        // What was stored is not known again.
        let stored = [load(NUMBER), code(0x02, 3), code(0x60, 3), skip_unless(1, 1), answer(ALLOW), answer(KILL)];
        assert!(!is_harmless(&stored, &Call(Sysno::write, &[])));
    }

    #[test]
    fn a_filter_that_does_not_end_or_forks_too_often_forbids() {
        assert!(!is_harmless(&[load(NUMBER)], &Call(Sysno::write, &[])));
        assert!(!is_harmless(&[], &Call(Sysno::write, &[])));
        let mut maze: Vec<sock_filter> = vec![load(ARGUMENT(0))];
        maze.extend((0..100).map(|value| sock_filter { code: 0x15, jt: 0, jf: 0, k: value }));
        maze.push(answer(ALLOW));
        assert!(!is_harmless(&maze, &Call(Sysno::write, &[])));
    }

    #[test]
    fn no_call_is_listed_as_needed_and_as_optional() {
        assert!(NEEDED.iter().all(|needed| OPTIONAL.iter().all(|optional| optional.0 != needed.0)));
    }
}

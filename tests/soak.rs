//! Thirty processes do everything that the shim knows of, at random, while they are killed, stopped, forked and executed at random:
//! no snapshot shows a wrong byte, no process hangs, and nothing is left in the table.
//!
//! What the processes do, and how they know which bytes are right, is in tests/programs/storm/soak. Here they are started, killed,
//! stopped, and watched. A run cannot be repeated, but the seed makes one like it: SNAPSHIM_SOAK_SEED, SNAPSHIM_SOAK_SECONDS.
//!
//! What it finds is shown by tests/planted_soak.sh. What it cannot be counted on to find in a minute has a test of its own: the
//! wait for pushers before an exec (tests/life.rs), and before a segment is split (tests/mapper.rs).

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::panic::{catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::aftermath::assert_recovered;
use crate::common::{Scratch, library, program, root, run_ok, run_within, text};
use snapshim::sys::procfs::{ProcPath, ProcStat};

const PROCESSES: usize = 30;
const SEATS: usize = 96;
/// An operation that takes longer hangs: a stopped process goes on long before, and a disk that others load, which can take more
/// than fifteen seconds for a page, does so too.
const LONGEST: Duration = Duration::from_secs(90);
const LONGEST_STOP_MS: usize = 400;
/// No process is to give another one up.
const TIMEOUT_MS: &str = "60000";
/// The watch, which lets stopped processes go on, is not kept from it for so long but by a kernel that stands still: where few
/// processors have many processes come and go, for a minute.
const STANDSTILL: Duration = Duration::from_secs(20);
/// The longest so far, milliseconds.
static STOOD_STILL: AtomicU64 = AtomicU64::new(0);

/// See soak_shared.h.
#[repr(C)]
struct Lane {
    since_us: AtomicU64,
    tid: AtomicU32,
    steps: AtomicU32,
    trace: [u8; 64 * 48],
}

#[repr(C)]
struct Seat {
    holder: AtomicU64,
    lanes: [Lane; 3],
}

#[repr(C)]
struct Shared {
    stop: AtomicU64,
    failed: AtomicU64,
    seats: [Seat; SEATS],
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ word >> 31) % bound as u64) as usize
    }
}

struct Soak {
    random: Random,
    scratch: Scratch,
    _disk: Scratch,
    program: PathBuf,
    log: PathBuf,
    id: i32,
    shared: &'static Shared,
    /// The process that was stopped, and when it goes on.
    stopped: Vec<(i32, Instant)>,
    /// The process that was started and has perhaps not sat down yet.
    started: Vec<i32>,
    watched: Instant,
    kills: u64,
    stops: u64,
}

impl Soak {
    fn new(seed: u64) -> Self {
        let (scratch, disk) = (Scratch::on_tmpfs(), Scratch::new(&root().join("target/scratch")));
        let program = program("storm/soak");
        let made = run_ok(Command::new(&program).arg("make").arg(seed.to_string()).args([&scratch.path, &disk.path]));
        let mut words = made.split_whitespace().map(|word| word.parse::<usize>().unwrap());
        let id = words.next().unwrap() as i32;
        assert_eq!(words.next(), Some(size_of::<Seat>()), "soak_shared.h");
        // SAFETY: a new attachment of the segment, which `soak make` filled and which starts with this record; all of it is atomics
        // but the traces, which are not looked at.
        let shared = unsafe {
            // Orphans come here, so that all are waited for.
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
            let at = libc::shmat(id, std::ptr::null(), 0);
            assert_ne!(at.addr(), usize::MAX, "shmat");
            // Gone with the last process; until then others can attach it.
            libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut());
            &*at.cast::<Shared>()
        };
        let log = disk.file("log");
        File::create(&log).unwrap();
        let (stopped, started) = (Vec::new(), Vec::new());
        Self {
            random: Random(seed),
            scratch,
            _disk: disk,
            program,
            log,
            id,
            shared,
            stopped,
            started,
            watched: Instant::now(),
            kills: 0,
            stops: 0,
        }
    }

    fn run(&mut self, seconds: u64) {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            self.fill_up();
            self.disturb();
            self.watch();
            sleep(Duration::from_millis(10));
        }
        self.shared.stop.store(1, Ordering::SeqCst);
        // Some go by themselves, some are killed while they go.
        let end = Instant::now() + LONGEST;
        while self.is_anybody_there() {
            self.disturb();
            self.watch();
            assert!(Instant::now() < end, "somebody does not end: {}", self.describe_all());
            sleep(Duration::from_millis(10));
        }
    }

    fn holders(&self) -> Vec<(usize, i32)> {
        let pid = |seat: &Seat| seat.holder.load(Ordering::SeqCst) as u32 as i32;
        self.shared.seats.iter().map(pid).enumerate().filter(|(_, pid)| *pid != 0).collect()
    }

    fn fill_up(&mut self) {
        let holders = self.holders();
        self.started.retain(|pid| is_there(*pid) && !holders.iter().any(|(_, holder)| holder == pid));
        while self.holders().len() + self.started.len() < PROCESSES {
            self.start();
        }
    }

    fn start(&mut self) {
        let mut command = self.scratch.shimmed(&self.program, ["direct", "agent", "auto"][self.random.below(3)]);
        let log = || fs::OpenOptions::new().append(true).open(&self.log).unwrap();
        command.args(["run", &self.id.to_string()]).stdout(log()).stderr(log()).stdin(Stdio::null());
        command.env("SNAPSHIM_TIMEOUT_MS", TIMEOUT_MS).env("SOAK_LIBRARY", library());
        if self.random.below(4) == 0 {
            command.env("SNAPSHIM_SHARED", "eager");
        }
        // Half of them without, so that what an image had at an address its successor has at the same.
        let personality = [0, libc::ADDR_NO_RANDOMIZE][self.random.below(2)];
        // SAFETY: personality(2) and setrlimit(2) are plain system calls.
        unsafe {
            command.pre_exec(move || {
                libc::personality(personality as u64);
                let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
                libc::setrlimit(libc::RLIMIT_CORE, &raw const unlimited);
                Ok(())
            });
        }
        self.started.push(command.spawn().unwrap().id() as i32);
    }

    /// Kills or stops a process now and then, and lets those go on whose time has come.
    fn disturb(&mut self) {
        let holders = self.holders();
        if holders.is_empty() {
            return;
        }
        let (_, pid) = holders[self.random.below(holders.len())];
        match self.random.below(24) {
            0..2 => {
                signal(pid, libc::SIGKILL);
                self.kills += 1;
            }
            2..4 if !self.stopped.iter().any(|(stopped, _)| *stopped == pid) => {
                signal(pid, libc::SIGSTOP);
                self.stops += 1;
                // Mostly short: a snapshot of a file that it has mapped shared has to wait for it.
                let longest = if self.random.below(12) == 0 { LONGEST_STOP_MS } else { LONGEST_STOP_MS / 20 };
                let time = Duration::from_millis(1 + self.random.below(longest) as u64);
                self.stopped.push((pid, Instant::now() + time));
            }
            _ => {}
        }
        let now = Instant::now();
        self.stopped.retain(|(pid, until)| *until > now || !signal(*pid, libc::SIGCONT));
    }

    /// Buries the processes that ended, and looks for failures and for those that hang.
    fn watch(&mut self) {
        STOOD_STILL.fetch_max(self.watched.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.watched = Instant::now();
        loop {
            let mut status = 0;
            // SAFETY: waitpid(2) of children; no other test of this program has any.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid <= 0 {
                break;
            }
            self.stopped.retain(|(stopped, _)| *stopped != pid);
            let is_fine = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
                || libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
            if !is_fine {
                let seat = self.holders().iter().find(|(_, holder)| *holder == pid).map(|(seat, _)| *seat);
                let traced = seat.map_or_else(String::new, |seat| self.trace(seat));
                panic!(
                    "pid {pid} ended with status {status:#x}: {traced}{}{}{}",
                    self.describe_named(),
                    self.said(),
                    self.core()
                );
            }
        }
        for (seat, pid) in self.holders() {
            let holder = &self.shared.seats[seat].holder;
            let seen = holder.load(Ordering::SeqCst);
            if seen as u32 as i32 == pid && !is_there(pid) {
                let _ = holder.compare_exchange(seen, 0, Ordering::SeqCst, Ordering::SeqCst);
            }
        }
        let failed = self.shared.failed.load(Ordering::SeqCst);
        assert!(failed == 0, "{}{}{}{}", self.describe_named(), self.describe_all(), self.said(), self.core());
        self.find_who_hangs();
    }

    fn find_who_hangs(&self) {
        let now = now_us();
        for (seat, pid) in self.holders() {
            for lane in &self.shared.seats[seat].lanes {
                let since = lane.since_us.load(Ordering::SeqCst);
                let is_late = since != 0 && now.saturating_sub(since) > LONGEST.as_micros() as u64;
                if is_late && is_there(pid) && !self.stopped.iter().any(|(stopped, _)| *stopped == pid) {
                    let tid = lane.tid.load(Ordering::SeqCst);
                    let all = self.describe_all();
                    panic!(
                        "pid {pid} hangs in thread {tid}: {}{}{all}{}",
                        self.trace(seat),
                        describe(pid),
                        self.said()
                    );
                }
            }
        }
    }

    fn is_anybody_there(&self) -> bool {
        let mut information = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: waitid(2) of children, which it leaves as they are, with room for the answer.
        unsafe {
            libc::waitid(libc::P_ALL, 0, information.as_mut_ptr(), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) == 0
        }
    }

    fn trace(&self, seat: usize) -> String {
        let mut command = Command::new(&self.program);
        command.args(["trace", &self.id.to_string(), &seat.to_string()]);
        command.output().map_or_else(|error| error.to_string(), |output| text(&output))
    }

    fn describe_all(&self) -> String {
        let mut children = descendants();
        children.truncate(60);
        children.into_iter().map(brief).collect()
    }

    /// Of those that the shim named.
    fn describe_named(&self) -> String {
        let said = self.said();
        let named = said.split("process ").skip(1).filter_map(|rest| rest.split(' ').next()?.parse::<i32>().ok());
        let pids: std::collections::BTreeSet<i32> = named.filter(|pid| is_there(*pid)).collect();
        let seat_of = |pid: i32| self.holders().iter().find(|(_, holder)| *holder == pid).map(|(seat, _)| *seat);
        let of = |pid: i32| [seat_of(pid).map_or_else(String::new, |seat| self.trace(seat)), describe(pid)];
        pids.into_iter().flat_map(of).collect()
    }

    /// Where one that crashed was.
    fn core(&self) -> String {
        let core = self.scratch.file("core");
        if !core.exists() {
            return String::new();
        }
        let mut debugger = Command::new("gdb");
        debugger.args(["-batch", "-ex", "info registers", "-ex", "x/5i $pc", "-ex", "thread apply all bt"]);
        let found = debugger.arg(&self.program).arg(core).output();
        found.map_or_else(|error| error.to_string(), |output| text(&output))
    }

    /// What the processes and the shim in them said, other than that they execute a program that the shim does not reach, or that a
    /// parent ended in the middle of a fork, or had left a write by a jump; the child looks at what came of that.
    fn said(&self) -> String {
        let said = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let expected = [
            "which the shim does not reach",
            "it inherited by fork fault",
            "cannot keep the snapshots it inherited (errno 35)",
        ];
        said.lines()
            .filter(|line| !expected.iter().any(|part| line.contains(part)))
            .flat_map(|line| [line, "\n"])
            .collect()
    }
}

/// Whatever happened: no process is left behind.
impl Drop for Soak {
    fn drop(&mut self) {
        self.shared.stop.store(1, Ordering::SeqCst);
        let end = Instant::now() + LONGEST;
        loop {
            for pid in descendants() {
                signal(pid, libc::SIGKILL);
            }
            // SAFETY: waitpid(2) of children; no other test of this program has any.
            let left = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
            if left < 0 || Instant::now() > end {
                break;
            }
            sleep(Duration::from_millis(if left == 0 { 10 } else { 0 }));
        }
        // SAFETY: attached by `new`, and not used any more.
        unsafe { libc::shmdt(std::ptr::from_ref(self.shared).cast()) };
    }
}

fn signal(pid: i32, number: i32) -> bool {
    // SAFETY: kill(2) of a process that was started here, or a descendant of one.
    unsafe { libc::kill(pid, number) };
    true
}

/// Whether any thread of it can still do anything.
fn is_there(pid: i32) -> bool {
    let is_over = |stat: ProcStat| stat.state == b'Z' && stat.threads <= 1;
    ProcStat::read(&ProcPath::of(pid as u32, "stat")).is_ok_and(|stat| !is_over(stat))
}

fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// Children, and theirs.
fn descendants() -> Vec<i32> {
    let parent = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat[stat.rfind(')')? + 2..].split(' ').nth(1)?.parse::<i32>().ok()
    };
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let parents: Vec<(i32, i32)> = pids.filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![std::process::id() as i32];
    let mut at = 0;
    while let Some(own) = found.get(at).copied() {
        found.extend(parents.iter().filter(|(_, parent)| *parent == own).map(|(pid, _)| *pid));
        at += 1;
    }
    found.split_off(1)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| format!("({error})")).trim_end().replace('\n', " | ")
}

/// A line for each thread.
fn brief(pid: i32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let line = |task: fs::DirEntry| {
        let path = task.path().display().to_string();
        let file = |name: &str| read(&format!("{path}/{name}"));
        let stat = file("stat");
        let state = stat.rfind(')').map_or("", |at| &stat[at + 1..]);
        let state = state.split(' ').take(3).collect::<Vec<_>>().join(" ");
        format!("{path} {}{state} in {}: {}\n", file("comm"), file("wchan"), file("syscall"))
    };
    tasks.map(line).collect()
}

fn describe(pid: i32) -> String {
    let mut said = String::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let path = task.path().display().to_string();
        said += &format!(
            "{path}: stack {}\n  status {}\n",
            read(&format!("{path}/stack")),
            read(&format!("{path}/status"))
        );
    }
    let mut debugger = Command::new("gdb");
    debugger.args(["-batch", "-p", &pid.to_string(), "-ex", "thread apply all bt"]).stdin(Stdio::null());
    if let Ok(output) = debugger.output() {
        said += &text(&output);
    }
    said
}

fn seed() -> u64 {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    std::env::var("SNAPSHIM_SOAK_SEED").map_or_else(|_| clock(), |seed| seed.parse().unwrap())
}

fn nothing_goes_wrong(seconds: u64) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let seconds = std::env::var("SNAPSHIM_SOAK_SECONDS").map_or(seconds, |value| value.parse().unwrap());
    for attempt in 1.. {
        STOOD_STILL.store(0, Ordering::Relaxed);
        let Err(failure) = catch_unwind(|| soak(seconds, seed())) else { return };
        let still = Duration::from_millis(STOOD_STILL.load(Ordering::Relaxed));
        if attempt == 3 || still < STANDSTILL || !is_late(failure.downcast_ref::<String>().map_or("", String::as_str)) {
            resume_unwind(failure);
        }
        println!("soak: the kernel stood still for {still:?}, so somebody was late; once more");
    }
}

/// Whether a failure is only that a process was given up, or did not come to an end.
fn is_late(failure: &str) -> bool {
    let mut failures = failure.lines().filter(|line| line.starts_with("FAILED")).peekable();
    let is_refused = failures.peek().is_some() && failures.all(|line| line.contains("(errno 110: "));
    is_refused || !failure.contains("FAILED") && failure.contains(" hangs in thread ")
}

fn soak(seconds: u64, seed: u64) {
    println!("soak: {seconds} s, seed {seed} (SNAPSHIM_SOAK_SEED)");
    let mut soak = Soak::new(seed);
    soak.run(seconds);
    let mut report = Command::new(&soak.program);
    let done = run_ok(report.args(["report", &soak.id.to_string()]));
    println!("soak: {} kills, {} stops; {}", soak.kills, soak.stops, done.trim_end());
    assert!(!done.contains("no write by"));
    assert_eq!(soak.said(), "");
    assert_recovered(&soak.scratch, &format!("after a soak of {seconds} s with seed {seed}"));
    // The table goes on serving.
    let file = soak.scratch.file("0");
    let output =
        run_within(soak.scratch.shimmed(program("lifecycle/after_kill"), "direct").arg(file).arg("0"), LONGEST);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output));
    assert_recovered(&soak.scratch, "after one more process");
}

#[test]
fn nothing_goes_wrong_for_a_minute() {
    nothing_goes_wrong(20);
}

#[test]
#[ignore = "ten minutes: make soak"]
fn nothing_goes_wrong_for_ten_minutes() {
    nothing_goes_wrong(600);
}

//! A watch over the machine: a test whose time was short is believed when it fails, unless others had the processors meanwhile.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(20);

/// What the watch saw: how often it looked, the threads that ran or wanted to, and the longest that it was kept from looking.
static LOOKS: AtomicU64 = AtomicU64::new(0);
static RUNNABLE: AtomicU64 = AtomicU64::new(0);
static LONGEST_MS: AtomicU64 = AtomicU64::new(0);

fn watch() -> ! {
    loop {
        let began = Instant::now();
        std::thread::sleep(TICK);
        LONGEST_MS.fetch_max((began.elapsed() - TICK).as_millis() as u64, Relaxed);
        RUNNABLE.fetch_add(runnable(), Relaxed);
        LOOKS.fetch_add(1, Relaxed);
    }
}

/// The threads of the whole machine that run or want to (proc_stat(5), `procs_running`).
fn runnable() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines().find_map(|line| line.strip_prefix("procs_running ")?.parse().ok()).unwrap_or(0)
}

/// Runs a check with a time in milliseconds that is long enough on an idle machine: mostly a SNAPSHIM_TIMEOUT_MS that the check has
/// to wait for. Where it fails, and the machine was so busy that the time may have been too short, it runs once more, aloud, with
/// ten times the time.
pub fn in_good_time(test: &str, timeout_ms: u64, check: impl Fn(&str)) {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| drop(std::thread::spawn(|| watch())));
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let (looks, wanted) = (LOOKS.load(Relaxed), RUNNABLE.load(Relaxed));
    LONGEST_MS.store(0, Relaxed);
    let Err(failure) = catch_unwind(AssertUnwindSafe(|| check(&timeout_ms.to_string()))) else { return };
    let looks = (LOOKS.load(Relaxed) - looks).max(1);
    let runnable = (RUNNABLE.load(Relaxed) - wanted) / looks;
    let longest = LONGEST_MS.load(Relaxed);
    if runnable < 2 * processors && longest < timeout_ms / 2 {
        resume_unwind(failure);
    }
    eprintln!(
        "AGAIN {test}: {runnable} threads wanted {processors} processors, and the watch stood still for {longest} ms"
    );
    check(&(10 * timeout_ms).to_string());
}

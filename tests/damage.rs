//! A damaged table: whatever stands in it, no process crashes, hangs, or touches memory that is not a snapshot's; the one that
//! finds out says so and leaves.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::{Scratch, program, run, text, wait_until};
use snapshim::protocol::limits::{BLOCKS, PROCESSES, SNAPSHOTS, WRITERS};
use snapshim::protocol::origin_name::OriginName;
use snapshim::protocol::place::{BUCKETS, Bucket};
use snapshim::protocol::preserved::Block;
use snapshim::protocol::process::Process;
use snapshim::protocol::snapshot::Snapshot;
use snapshim::protocol::writer_slot::WriterSlot;
use snapshim::table::Table;
use snapshim::table::header::Header;
use snapshim::table_file_name;

/// The table's words, mapped as an intruder would.
struct Words(&'static [AtomicU64]);

impl Words {
    fn of(table: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(table.join(table_file_name!())).unwrap();
        let length = size_of::<Table>();
        // SAFETY: a new shared mapping of the whole file; every bit pattern is a word, and all access is atomic.
        let words = unsafe {
            let at = libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            );
            assert_ne!(at, libc::MAP_FAILED);
            std::slice::from_raw_parts(at.cast::<AtomicU64>(), length / 8)
        };
        Self(words)
    }
}

/// Where words stand in the header.
const ACTIVE: usize = 8;
const DAMAGED: usize = 9;

impl Words {
    /// Whether a writer waits for the agent of a mapper.
    fn has_request(&self) -> bool {
        let slots = records().into_iter().find(|records| records.name == "writers").unwrap();
        // The word behind the lease; 1 is "asked".
        (0..64).any(|slot| self.0[slots.start + slot * slots.words + 1].load(Ordering::Relaxed) & 3 == 1)
    }

    /// Lets walks over the snapshots find none.
    fn hide_snapshots(&self) {
        let marks = records().into_iter().find(|records| records.name == "marks").unwrap();
        // The first of a bucket's two words; its low half says which records are in use.
        for bucket in 0..marks.count {
            self.0[marks.start + bucket * marks.words].fetch_and(!u64::from(u32::MAX), Ordering::Relaxed);
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, and not used any more.
        unsafe { libc::munmap(self.0.as_ptr().cast_mut().cast(), self.0.len() * 8) };
    }
}

/// An array of records: where it starts, words of one, how many.
#[derive(Clone, Copy, Debug)]
struct Records {
    name: &'static str,
    start: usize,
    words: usize,
    count: usize,
}

fn records() -> [Records; 11] {
    let mut start = 0;
    let sizes = [
        ("header", size_of::<Header>(), 1),
        ("snapshots", size_of::<Snapshot>(), SNAPSHOTS),
        ("fingerprints", 8, SNAPSHOTS),
        ("marks", size_of::<Bucket>(), BUCKETS),
        ("block owners", 8, BLOCKS),
        // Four in a word.
        ("pid hints", 8, PROCESSES.div_ceil(64) * 16),
        ("processes", size_of::<Process>(), PROCESSES),
        ("nothing", size_of::<Process>(), 1),
        ("names", size_of::<OriginName>(), BUCKETS),
        ("writers", size_of::<WriterSlot>(), WRITERS),
        ("blocks", size_of::<Block>(), 64),
    ];
    let records = sizes.map(|(name, size, count)| {
        let here = Records { name, start, words: size / 8, count };
        start += here.words * count;
        here
    });
    let start_of_blocks = (size_of::<Table>() - size_of::<Block>() * BLOCKS) / 8;
    assert_eq!(records.last().map(|blocks| blocks.start), Some(start_of_blocks), "the layout is another");
    records
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// What is damaged in a round.
#[derive(Clone, Copy, Debug)]
enum Target {
    Anything,
    Any(Records),
    Field(Records, usize),
}

impl Target {
    fn damage(self, words: &Words, random: &mut Random) {
        let at = match self {
            Self::Anything => random.below(words.0.len()),
            Self::Any(records) => Self::in_use(records, words, random) + random.below(records.words.min(64)),
            Self::Field(records, field) => Self::in_use(records, words, random) + field,
        };
        let old = words.0[at].load(Ordering::Relaxed);
        let other = words.0[random.below(words.0.len() / 8)].load(Ordering::Relaxed);
        let new = match random.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => old ^ 1 << random.below(64),
            3 => random.next() % 5000,
            4 => old.wrapping_add(random.next() % 64 * 4096),
            5 => other,
            _ => random.next(),
        };
        words.0[at].store(new, Ordering::Relaxed);
    }

    /// A record that is not empty, if one is found soon.
    fn in_use(records: Records, words: &Words, random: &mut Random) -> usize {
        let start = |index: usize| records.start + index * records.words;
        let is_used =
            |at: usize| words.0[at..at + records.words.min(16)].iter().any(|word| word.load(Ordering::Relaxed) != 0);
        let near = (0..16).map(|_| start(random.below(records.count.min(24)))).find(|at| is_used(*at));
        near.unwrap_or(start(0))
    }
}

const LONGEST: Duration = Duration::from_secs(120);

/// One round on a table of its own.
fn survives(target: Target, every: Duration, seconds: f64, seed: u64) {
    let scratch = Scratch::on_tmpfs();
    let about = format!("{target:?}, seed {seed}");
    let mut command = scratch.shimmed(program("storm/damage"), "auto");
    command.arg(scratch.file("victim")).arg(seconds.to_string()).env("SNAPSHIM_TIMEOUT_MS", "200");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut errors = child.stderr.take().unwrap();
    let said = std::thread::spawn(move || {
        let mut said = String::new();
        errors.read_to_string(&mut said).unwrap();
        said
    });
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "{about}");
    std::thread::sleep(Duration::from_millis(100));
    let (words, mut random) = (Words::of(scratch.table()), Random(seed));
    let started = Instant::now();
    while started.elapsed().as_secs_f64() < seconds - 0.1 {
        target.damage(&words, &mut random);
        std::thread::sleep(every);
    }
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > LONGEST {
            child.kill().unwrap();
            panic!("{about}: hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let status = child.wait().unwrap();
    let mut found = String::new();
    output.read_to_string(&mut found).unwrap();
    let said = said.join().unwrap();
    println!("damage: {about}: {}", found.trim_end());
    assert!(status.success(), "{about}: {status}: {found}{said}");
}

fn seed() -> u64 {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    std::env::var("SNAPSHIM_DAMAGE_SEED").map_or_else(|_| clock(), |seed| seed.parse().unwrap())
}

#[test]
fn snapshots_that_end_while_other_threads_look_at_them_damage_nothing() {
    let scratch = Scratch::on_tmpfs();
    let output = run(&mut scratch.shimmed(program("storm/damage_none"), "auto"));
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output));
}

/// Starts a program; it, the rest of what it prints, and its first line.
fn start(command: &mut Command) -> (Child, BufReader<ChildStdout>, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    (child, output, line)
}

/// The program ends, and has said that the table is damaged. Its own alarm ends a wait without end.
fn ends_saying_so(child: Child, about: &str) {
    let output = child.wait_with_output().unwrap();
    let said = text(&output);
    assert!(output.status.success() && said.contains("is damaged"), "{about}: {}: {said}", output.status);
}

#[test]
fn a_writer_waits_for_no_dead_mapper_whose_snapshot_no_walk_finds() {
    for (call, way) in [("truncate", "auto"), ("write", "agent")] {
        let scratch = Scratch::on_tmpfs();
        let (child, _output, line) = start(scratch.shimmed(program("storm/damage_walk"), way).arg(call));
        let mapper: i32 = line.trim().parse().unwrap();
        let words = Words::of(scratch.table());
        wait_until("a request", || words.has_request());
        words.hide_snapshots();
        // SAFETY: the mapper is a child of a child that lives.
        assert_eq!(unsafe { libc::kill(mapper, libc::SIGKILL) }, 0);
        ends_saying_so(child, call);
    }
}

#[test]
fn no_thread_waits_for_one_that_has_joined_and_left() {
    let scratch = Scratch::on_tmpfs();
    let (mut child, _output, line) = start(&mut scratch.shimmed(program("storm/damage_join"), "auto"));
    assert_eq!(line, "ready\n");
    let words = Words::of(scratch.table());
    words.0[ACTIVE].fetch_or(1, Ordering::Relaxed);
    words.0[DAMAGED].store(1, Ordering::Relaxed);
    drop(child.stdin.take());
    ends_saying_so(child, "join");
}

#[test]
fn random_damage_takes_nobody_down() {
    let seed = seed();
    println!("damage: seed {seed} (SNAPSHIM_DAMAGE_SEED)");
    survives(Target::Anything, Duration::from_micros(5), 1.0, seed);
    for (at, records) in records().into_iter().enumerate() {
        survives(Target::Any(records), Duration::from_millis(20), 1.0, seed + at as u64);
    }
}

#[test]
#[ignore = "minutes: make soak"]
fn damage_of_each_field_takes_nobody_down() {
    let seed = seed();
    for records in records() {
        for field in 0..records.words.min(if records.name == "header" { 40 } else { 64 }) {
            survives(Target::Field(records, field), Duration::from_millis(30), 1.5, seed + field as u64);
        }
    }
}

//! Histories: which files there are, which threads in which processes, and what each does over and over; as a script, and at
//! random.

use std::fmt::{self, Display, Formatter};

use proptest::collection::vec;
use proptest::prelude::*;

use super::model::Kind;

/// What several threads do to a few files, until the time is over.
#[derive(Clone, Debug)]
pub struct History {
    pub seed: u32,
    pub milliseconds: u32,
    /// Mean time between two stops of a process, microseconds; 0: none.
    pub stops: u32,
    /// The longest stop, or wait in the middle of a copy, microseconds.
    pub longest: u32,
    pub is_traced: bool,
    pub filling: u32,
    pub holes: u32,
    pub files: Vec<File>,
    pub threads: Vec<Thread>,
}

#[derive(Clone, Copy, Debug)]
pub struct File {
    pub layout: Layout,
    pub pages: u32,
    pub is_on_disk: bool,
    pub owner: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layout {
    Lanes,
    Whole,
    Serial,
}

#[derive(Clone, Debug)]
pub struct Thread {
    pub process: u32,
    pub signals: u32,
    pub is_held: bool,
    pub phrases: Vec<Vec<Operation>>,
}

/// The numbers are brought into range where the operation is made: any history can be lived through.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    Write { file: u32, way: u32, page: u32, from: u32, length: u32, is_held: bool },
    Store { file: u32, page: u32, from: u32, length: u32, how: u32 },
    Resize { file: u32, how: u32, page: u32, at: u32, length: u32 },
    Take { slot: u32, file: u32, is_writable: bool },
    Look { slot: u32 },
    Drop { slot: u32 },
    Poke { slot: u32, page: u32, word: u32 },
    Cut { slot: u32, first: u32, count: u32, how: u32, stopped: i32, delay: u32 },
    Fork { file: u32, writes: u32 },
    Pause { microseconds: u32 },
    Meet,
}

const MOST_OPERATIONS: usize = 48;
const SLOTS: u32 = 6;

impl History {
    fn file(&self, number: u32) -> usize {
        number as usize % self.files.len()
    }

    fn line(&self, operation: Operation) -> String {
        use Operation::*;
        match operation {
            Write { file, way, page, from, length, is_held } => {
                let (from, length) = match self.files[self.file(file)].layout {
                    Layout::Lanes => (from, 1 + length % 64),
                    _ => (from, 1 + length),
                };
                format!("write {} {way} {page} {from} {length} {}", self.file(file), u8::from(is_held))
            }
            Store { file, page, from, length, how } => {
                format!("store {} {page} {from} {} {how}", self.file(file), 1 + length)
            }
            Resize { file, how, page, at, length } => format!("resize {} {how} {page} {at} {length}", self.file(file)),
            Take { slot, file, is_writable } => format!("take {slot} {} {}", self.file(file), u8::from(is_writable)),
            Look { slot } => format!("look {slot}"),
            Drop { slot } => format!("drop {slot}"),
            Poke { slot, page, word } => format!("poke {slot} {page} {word}"),
            Cut { slot, first, count, how, stopped, delay } => {
                format!("cut {slot} {first} {count} {how} {stopped} {delay}")
            }
            Fork { file, writes } => format!("fork {} {writes}", self.file(file)),
            Pause { microseconds } => format!("pause {microseconds}"),
            Meet => "meet".to_owned(),
        }
    }
}

/// The script that tests/programs/storm/oracle/script.h reads.
impl Display for History {
    fn fmt(&self, to: &mut Formatter) -> fmt::Result {
        writeln!(to, "seed {}\nms {}", self.seed, self.milliseconds)?;
        writeln!(to, "traced {}", u8::from(self.is_traced))?;
        writeln!(to, "stops {} longest {}\nfill {} holes {}", self.stops, self.longest, self.filling, self.holes)?;
        for (index, file) in self.files.iter().enumerate() {
            let layout = format!("{:?}", file.layout).to_lowercase();
            let owner = 1 + file.owner as usize % self.threads.len() * 3;
            writeln!(to, "file {index} {layout} {} disk {} owner {owner}", file.pages, u8::from(file.is_on_disk))?;
        }
        let lanes = self.files.iter().position(|file| file.layout == Layout::Lanes).unwrap_or(0);
        for (index, thread) in self.threads.iter().enumerate() {
            let Thread { process, signals, is_held, .. } = thread;
            writeln!(
                to,
                "thread {index} process {process} signals {signals} file {lanes} held {}",
                u8::from(*is_held)
            )?;
        }
        for (index, thread) in self.threads.iter().enumerate() {
            for operation in thread.phrases.iter().flatten().take(MOST_OPERATIONS) {
                writeln!(to, "{index} {}", self.line(*operation))?;
            }
        }
        Ok(())
    }
}

/// What the files of a script are.
pub fn kinds(script: &str) -> Vec<Kind> {
    let of = |line: &str| if line.contains(" serial ") { Kind::Serial } else { Kind::Owned };
    script.lines().filter(|line| line.starts_with("file ")).map(of).collect()
}

fn file() -> impl Strategy<Value = File> {
    let lanes = prop_oneof![1 => Just(1u32), 4 => 2..=4u32, 1 => Just(16u32)].prop_map(|pages| (Layout::Lanes, pages));
    let whole =
        prop_oneof![2 => 2..=8u32, 1 => Just(64u32), 2 => Just(256u32)].prop_map(|pages| (Layout::Whole, pages));
    let serial = (1..=8u32).prop_map(|pages| (Layout::Serial, pages));
    let shape = prop_oneof![4 => lanes, 2 => whole, 2 => serial];
    (shape, prop::bool::weighted(0.25), 0..8u32).prop_map(|((layout, pages), is_on_disk, owner)| File {
        layout,
        pages,
        is_on_disk,
        owner,
    })
}

fn way() -> impl Strategy<Value = u32> {
    prop_oneof![3 => Just(0u32), 3 => 0..15u32]
}

fn write() -> impl Strategy<Value = Operation> {
    let length = prop_oneof![2 => 0..16u32, 1 => Just(512u32), 1 => 0..20000u32, 2 => Just(1u32 << 17)];
    let place = (prop_oneof![1 => Just(0u32), 3 => 0..16u32], prop_oneof![3 => Just(0u32), 1 => 0..512u32]);
    (0..4u32, way(), place, length, prop::bool::weighted(0.1)).prop_map(|(file, way, (page, from), length, is_held)| {
        Operation::Write { file, way, page, from, length, is_held }
    })
}

fn store() -> impl Strategy<Value = Operation> {
    let how = prop_oneof![4 => Just(0u32), 1 => 1..5u32];
    (0..4u32, 0..16u32, 0..16u32, 0..24u32, how).prop_map(|(file, page, from, length, how)| Operation::Store {
        file,
        page,
        from,
        length,
        how,
    })
}

fn resize() -> impl Strategy<Value = Operation> {
    let at = prop_oneof![1 => Just(0u32), 2 => 0..4096u32];
    (0..4u32, 0..10u32, 0..8u32, at, 0..12000u32).prop_map(|(file, how, page, at, length)| Operation::Resize {
        file,
        how,
        page,
        at,
        length,
    })
}

fn take() -> impl Strategy<Value = (u32, Operation)> {
    (0..SLOTS, 0..4u32, prop::bool::weighted(0.4))
        .prop_map(|(slot, file, is_writable)| (slot, Operation::Take { slot, file, is_writable }))
}

fn cut(slot: u32) -> impl Strategy<Value = Operation> {
    let stopped = prop_oneof![1 => Just(-1i32), 3 => 0..4i32];
    let how = prop_oneof![3 => Just(0u32), 3 => 1..5u32];
    (
        prop_oneof![2 => Just(0u32), 3 => 0..8u32],
        1..4u32,
        how,
        stopped,
        prop_oneof![1 => Just(0u32), 3 => Just(40u32), 1 => Just(300u32)],
    )
        .prop_map(move |(first, count, how, stopped, delay)| Operation::Cut {
            slot,
            first,
            count,
            how,
            stopped,
            delay,
        })
}

fn fork() -> impl Strategy<Value = Operation> {
    (0..4u32, 0..6u32).prop_map(|(file, writes)| Operation::Fork { file, writes })
}

fn poke() -> impl Strategy<Value = Operation> {
    (0..SLOTS, 0..8u32, 0..512u32).prop_map(|(slot, page, word)| Operation::Poke { slot, page, word })
}

fn pause() -> impl Strategy<Value = Operation> {
    prop_oneof![6 => 0..100u32, 2 => 0..6000u32, 1 => 10_000..40_000u32]
        .prop_map(|microseconds| Operation::Pause { microseconds })
}

/// What a mapper does in a row.
fn mapping() -> impl Strategy<Value = Vec<Operation>> {
    prop_oneof![
        1 => take().prop_map(|(slot, take)| vec![take, Operation::Look { slot }]),
        3 => (take(), pause()).prop_map(|((slot, take), pause)| vec![take, pause, Operation::Look { slot }]),
        4 => (take(), 0..SLOTS).prop_flat_map(|((slot, take), other)| {
            (vec(cut(slot), 1..3), any::<bool>()).prop_map(move |(cuts, drops)| {
                let first = if drops { vec![take, Operation::Drop { slot: other }] } else { vec![take] };
                [first, cuts, vec![Operation::Look { slot }]].concat()
            })
        }),
        // What was held before makes room for a record before the one that is cut.
        3 => (take(), take(), 1..SLOTS, pause()).prop_flat_map(|((early, before), (_, take), further, pause)| {
            let Operation::Take { file, is_writable, .. } = take else { unreachable!() };
            let slot = (early + further) % SLOTS;
            let take = Operation::Take { slot, file, is_writable };
            vec(cut(slot), 1..3).prop_map(move |cuts| {
                let start = vec![before, take, Operation::Drop { slot: early }];
                [start, cuts, vec![pause, Operation::Look { slot }, Operation::Drop { slot }]].concat()
            })
        }),
        1 => vec(poke(), 1..4),
        1 => fork().prop_map(|fork| vec![fork]),
        1 => (0..SLOTS).prop_map(|slot| vec![Operation::Drop { slot }]),
        2 => pause().prop_map(|pause| vec![pause]),
        1 => writing(),
    ]
}

fn writing() -> impl Strategy<Value = Vec<Operation>> {
    prop_oneof![
        8 => (any::<bool>(), vec(write(), 1..4)).prop_map(|(meets, writes)| {
            let meeting = if meets { vec![Operation::Meet] } else { Vec::new() };
            [meeting, writes].concat()
        }),
        2 => vec(store(), 1..3),
        1 => vec(resize(), 1..3),
        1 => fork().prop_map(|fork| vec![fork]),
    ]
}

fn thread() -> impl Strategy<Value = Thread> {
    let phrases = prop_oneof![
        2 => vec(mapping(), 1..4),
        3 => vec(writing(), 1..4),
        1 => vec(prop_oneof![mapping(), writing()], 1..8),
    ];
    // From 8 on the stack of the handlers lies above the thread's.
    let signals = prop_oneof![4 => Just(0u32), 1 => 1..5u32, 2 => 10..13u32];
    (0..4u32, signals, prop::bool::weighted(0.4), phrases).prop_map(|(process, signals, is_held, phrases)| Thread {
        process,
        signals,
        is_held,
        phrases,
    })
}

/// Anything, by any number of threads.
fn general() -> impl Strategy<Value = History> {
    let stops = prop_oneof![2 => Just(0u32), 1 => Just(2000u32), 1 => Just(10_000u32)];
    // More than a page of their records holds, and of their marks.
    let filling = prop_oneof![2 => Just(0u32), 4 => Just(40u32), 1 => Just(540u32)];
    // What happens to one file, happens at once.
    let files = prop_oneof![1 => vec(file(), 1..2), 1 => vec(file(), 2..4)];
    let time = (
        1..u32::MAX,
        prop_oneof![1 => Just(300u32), 1 => Just(900u32)],
        stops,
        prop_oneof![Just(300u32), Just(3000u32), Just(8000u32)],
        any::<bool>(),
    );
    (time, filling, 0..4u32, files, vec(thread(), 3..8)).prop_map(
        |((seed, milliseconds, stops, longest, is_traced), filling, holes, files, threads)| History {
            seed,
            milliseconds,
            stops,
            longest,
            is_traced,
            filling,
            holes,
            files,
            threads,
        },
    )
}

/// A file that its owner writes whole again and again, while pushers in processes of their own preserve for writes that change
/// nothing: one that the tracer holds in the middle of its copy has copied before the owner's change, and stores after it. The
/// mappers only look, and hold what they took for longer than a pusher is held.
fn pushing() -> impl Strategy<Value = History> {
    let everywhere = Operation::Write { file: 0, way: 0, page: 0, from: 0, length: 1 << 17, is_held: false };
    let writer = move |process| Thread { process, signals: 0, is_held: process > 1, phrases: vec![vec![everywhere]] };
    let mapper = |lasts: u32| {
        let announcement = move |slot| {
            let take = Operation::Take { slot, file: 0, is_writable: false };
            vec![Operation::Look { slot }, take, Operation::Pause { microseconds: lasts / SLOTS }]
        };
        Thread { process: 0, signals: 0, is_held: false, phrases: (0..SLOTS).map(announcement).collect() }
    };
    let lasts = prop_oneof![Just(60_000u32), Just(120_000u32)];
    let longest = prop_oneof![Just(300u32), Just(3000u32)];
    (1..u32::MAX, 3..=6u32, longest, 3..=4u32, 1..=2usize, lasts).prop_map(
        move |(seed, pages, longest, processes, mappers, lasts)| History {
            seed,
            milliseconds: 900,
            stops: 0,
            longest,
            is_traced: true,
            filling: 0,
            holes: 0,
            files: vec![File { layout: Layout::Whole, pages, is_on_disk: false, owner: 0 }],
            threads: (1..=processes).map(writer).chain((0..mappers).map(|_| mapper(lasts))).collect(),
        },
    )
}

pub fn history() -> impl Strategy<Value = History> {
    prop_oneof![2 => general(), 1 => pushing()]
}

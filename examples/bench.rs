//! `make bench`: what the shim costs. With the argument `shared` only what shared mappings cost; with `costs` only what grows with
//! what exists; with `against LIBRARY` how this build compares with another.
//!
//! Each figure is the median of the ratios of many rounds. In each round both sides run one after the other on the same processor,
//! by turns the one or the other first.

#[path = "bench/against.rs"]
mod against;
#[path = "bench/costs.rs"]
mod costs;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A long-lived worker.c.
struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(mut command: Command, processor: &str) -> Self {
        let mut child = command.arg(processor).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("worker");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { input: child.stdin.take(), child, output }
    }

    /// Has one command done; both numbers of the answer.
    fn ask_both(&mut self, command: &str) -> (f64, f64) {
        writeln!(self.input.as_ref().expect("open until dropped"), "{command}").expect("the worker lives");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the worker lives");
        let mut numbers = line.split_whitespace().filter_map(|number| number.parse().ok());
        numbers.next().zip(numbers.next()).unwrap_or_else(|| panic!("no answer to: {command}"))
    }

    fn ask(&mut self, command: &str) -> f64 {
        self.ask_both(command).0
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The processes and directories that all figures use.
struct Bench {
    native: Worker,
    shimmed: Worker,
    /// Opens what it stores into page by page.
    by_page: Worker,
    mapper: Worker,
    memory: PathBuf,
    disk: PathBuf,
    table: PathBuf,
    missed: u32,
}

impl Bench {
    fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let library = library();
        assert!(library.exists(), "{} is missing: run `make` first", library.display());
        let name = format!("snapshim-bench-{}", std::process::id());
        let (memory, disk) = (Path::new("/dev/shm").join(&name), root.join("target").join(&name));
        let table = Path::new("/dev/shm").join(format!("{name}-table"));
        for directory in [&memory, &disk] {
            fs::create_dir_all(directory).expect("a directory to work in");
        }
        fs::DirBuilder::new().mode(0o700).create(&table).expect("a directory for the table");
        let worker = root.join("target/bench-worker");
        let compiled = Command::new("gcc")
            .args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-I"])
            .arg(root.join("shim/include"))
            .arg("-o")
            .args([&worker, &root.join("examples/bench/worker.c")])
            .status();
        assert!(compiled.is_ok_and(|status| status.success()), "gcc could not build the worker");
        let plain = || Command::new(&worker);
        let under = || {
            let mut command = plain();
            command.env("LD_PRELOAD", &library).env("SNAPSHIM_DIR", &table);
            command
        };
        let mut by_page = under();
        by_page.env("SNAPSHIM_CHUNK_KB", "4");
        Self {
            native: Worker::start(plain(), "0"),
            shimmed: Worker::start(under(), "0"),
            by_page: Worker::start(by_page, "0"),
            mapper: Worker::start(under(), "1"),
            memory,
            disk,
            table,
            missed: 0,
        }
    }

    /// A worker under another build of the library.
    fn under(&self, library: &Path, table: &Path, processor: &str) -> Worker {
        let mut command = Command::new(self.disk.with_file_name("bench-worker"));
        command.env("LD_PRELOAD", library).env("SNAPSHIM_DIR", table);
        Worker::start(command, processor)
    }

    fn report(&mut self, figure: &str, ratio: f64, target: f64, note: &str) {
        let verdict = if ratio <= target { "ok" } else { "missed" };
        self.missed += u32::from(ratio > target);
        let (verdict, limit) = if target.is_finite() { (verdict, format!("{target:.2}")) } else { ("", "–".into()) };
        println!("| {figure:<72} | {ratio:6.3} | {limit:>5} | {verdict:<6} | {note}");
    }

    /// The ratio of two commands, in turns; the note is what one operation takes.
    fn compare(
        &mut self,
        rounds: u32,
        operations: f64,
        mut round: impl FnMut(&mut Self, bool) -> f64,
    ) -> (f64, String) {
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..rounds + 2 {
            let first = round(self, number % 2 == 0);
            let second = round(self, number % 2 != 0);
            let (our, their) = if number % 2 == 0 { (first, second) } else { (second, first) };
            // The first rounds warm up.
            if number >= 2 {
                ours.push(our / operations);
                theirs.push(their / operations);
                ratios.push(our / their);
            }
        }
        let note = format!("{:.2} us / {:.2} us", median(ours) / 1000.0, median(theirs) / 1000.0);
        (median(ratios), note)
    }

    fn writes_without_snapshots(&mut self) {
        let file = file_of(&self.memory, "plain", 4 * MIB);
        let command = format!("write {} 4096 1000", file.display());
        let (ratio, note) = self.compare(600, 1000.0, |bench, ours| {
            if ours { &mut bench.shimmed } else { &mut bench.native }.ask(&command)
        });
        self.report("4 KiB pwrite, tmpfs, no snapshot anywhere / without the shim", ratio, 1.03, &note);
    }

    fn writes_beside_another_snapshot(&mut self) {
        let file = file_of(&self.disk, "plain", 4 * MIB);
        let other = file_of(&self.disk, "other", 4 * MIB);
        self.mapper.ask(&format!("hold {} r {}", other.display(), 4 * MIB));
        let command = format!("write {} 4096 1000", file.display());
        let (ratio, note) = self.compare(300, 1000.0, |bench, ours| {
            if ours { &mut bench.shimmed } else { &mut bench.native }.ask(&command)
        });
        self.mapper.ask("drop");
        self.report("4 KiB pwrite, ext4, snapshot of another file / without the shim", ratio, 1.25, &note);
    }

    fn first_writes(&mut self, size: u64, target: f64) {
        for (system, directory) in [("tmpfs", self.memory.clone()), ("ext4", self.disk.clone())] {
            for (access, letter) in [("read-only", 'r'), ("writable", 'w')] {
                let length = 8 * MIB;
                let file = file_of(&directory, "first", length);
                let (path, count) = (file.display(), length / size);
                let (ratio, note) = self.compare(40, count as f64, |bench, ours| {
                    if !ours {
                        return bench.native.ask(&format!("fault {path} {size} {count}"));
                    }
                    bench.mapper.ask(&format!("hold {path} {letter} {length}"));
                    let took = bench.shimmed.ask(&format!("write {path} {size} {count}"));
                    bench.mapper.ask("drop");
                    took
                });
                let call = if size < MIB { "4 KiB" } else { "1 MiB" };
                let figure = format!("first {call} write, {system}, {access} snapshot / pwrite + copy-on-write faults");
                self.report(&figure, ratio, target, &note);
            }
        }
    }

    fn second_writes(&mut self) {
        let file = file_of(&self.disk, "second", 4 * MIB);
        let command = format!("write {} 4096 1000", file.display());
        self.mapper.ask(&format!("hold {} r {}", file.display(), 4 * MIB));
        self.shimmed.ask(&command);
        let (ratio, note) = self.compare(300, 1000.0, |bench, ours| {
            if ours { &mut bench.shimmed } else { &mut bench.native }.ask(&command)
        });
        self.mapper.ask("drop");
        self.report("second 4 KiB write to a page, ext4 / without the shim", ratio, 1.30, &note);
    }

    fn starts(&mut self) {
        let library = library();
        let settings = [
            ("run of `true`", format!("SNAPSHIM_DIR={}", self.table.display()), 0.4),
            ("run of `true` with SNAPSHIM_DISABLE=1", "SNAPSHIM_DISABLE=1".to_owned(), 0.2),
        ];
        for (what, setting, limit) in settings {
            let mut longer = Vec::new();
            let run = |bench: &mut Self, ours: bool| {
                let library = if ours { library.display().to_string() } else { "-".to_owned() };
                bench.native.ask(&format!("run 10 {setting} {library}"))
            };
            let (_, note) = self.compare(100, 10.0, |bench, ours| {
                let took = run(bench, ours);
                longer.push(if ours { took } else { -took });
                took
            });
            let beyond = median(longer.chunks(2).map(|round| round.iter().sum()).collect()) / 10.0 / 1e6;
            self.report(&format!("{what}, beyond one without the shim / {limit} ms"), beyond / limit, 1.0, &note);
        }
    }

    /// Memory that each program has for itself because the library is there.
    fn private_memory(&mut self) {
        let of = |setting: Option<(&str, &Path)>| {
            let mut command = Command::new("cat");
            command.arg("/proc/self/smaps").envs(setting).env("SNAPSHIM_DIR", &self.table);
            let smaps = command.output().expect("cat").stdout;
            let sizes = smaps.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"Anonymous:"));
            sizes
                .filter_map(|size| str::from_utf8(size).ok()?.split_whitespace().next()?.parse::<f64>().ok())
                .sum::<f64>()
        };
        let (natively, shimmed) = (of(None), of(Some(("LD_PRELOAD", &library()))));
        let note = format!("{shimmed} KiB, natively {natively}");
        self.report(
            "private memory of a program, beyond one without the shim / 200 KiB",
            (shimmed - natively) / 200.0,
            1.0,
            &note,
        );
    }

    fn creation(&mut self) {
        let sizes = [("4 KiB", PAGE), ("1 GiB", GIB), ("64 GiB", 64 * GIB)];
        let files = sizes.map(|(_, size)| {
            let file = self.disk.join(format!("sparse-{size}"));
            File::create(&file).and_then(|made| made.set_len(size)).expect("a sparse file");
            file
        });
        let mut times = [const { Vec::new() }; 3];
        for round in 0..600 {
            for turn in 0..3 {
                let which = (round + turn) % 3;
                let took = self.mapper.ask(&format!("make {} {}", files[which].display(), sizes[which].1));
                times[which].push(took);
            }
        }
        let ratios = times[2].iter().zip(&times[0]).map(|(largest, smallest)| largest / smallest).collect();
        let copies = (0..3).map(|_| self.mapper.ask(&format!("copy {} {GIB}", files[1].display()))).collect();
        let copy = median(copies);
        for ((name, _), times) in sizes.iter().zip(times.clone()) {
            let time = median(times);
            let note = format!("{:.1} us; eager copy of 1 GiB: {:.0} ms", time / 1e3, copy / 1e6);
            self.report(&format!("taking a snapshot of {name}, sparse / 1 ms"), time / 1e6, 1.0, &note);
        }
        self.report("taking a snapshot of 64 GiB / of 4 KiB", median(ratios), 2.0, "");
    }

    fn relocation(&mut self, access: &str, name: &str) {
        let length = 64 * MIB;
        let (mut ratios, mut cuts, mut copies) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..9 {
            let file = file_of(&self.memory, "cut", length);
            let path = file.display();
            let copy = self.mapper.ask(&format!("copy {path} {length}"));
            self.mapper.ask(&format!("hold {path} {access} {length}"));
            let ours = self.shimmed.ask(&format!("cut {path}"));
            self.mapper.ask("drop");
            let file = file_of(&self.memory, "cut", length);
            let plain = self.native.ask(&format!("cut {}", file.display()));
            ratios.push((ours - plain) / copy);
            cuts.push(ours - plain);
            copies.push(copy);
        }
        let note = format!("{:.1} ms / {:.1} ms for 64 MiB", median(cuts) / 1e6, median(copies) / 1e6);
        let figure = format!("truncating under a {name} snapshot, beyond the truncation / eager copy");
        self.report(&figure, median(ratios), 1.5, &note);
    }

    fn reading(&mut self) {
        let length = 64 * MIB;
        let file = file_of(&self.disk, "read", length);
        let path = file.display();
        let (ratio, note) = self.compare(40, (length / PAGE) as f64, |bench, ours| {
            bench.mapper.ask(&format!("read {path} {} {length}", if ours { "snapshot" } else { "plain" }))
        });
        self.report("sequential read of a fresh snapshot / of a plain mapping", ratio, 1.02, &note);
    }

    fn stores_into_open_pages(&mut self) {
        let length = 8 * MIB;
        let file = file_of(&self.disk, "open", length);
        let share = format!("share {} {length}", file.display());
        self.shimmed.ask(&share);
        self.native.ask(&share);
        self.mapper.ask(&format!("hold {} r {length}", file.display()));
        self.shimmed.ask("store 1");
        let (ratio, note) = self.compare(300, (length / PAGE) as f64, |bench, ours| {
            if ours { &mut bench.shimmed } else { &mut bench.native }.ask("store 1")
        });
        self.mapper.ask("drop");
        self.shimmed.ask("unshare");
        self.native.ask("unshare");
        self.report("store into an open page of a shared mapping / without the shim", ratio, 1.02, &note);
    }

    fn first_stores(&mut self) {
        const SPREAD: u64 = 733;
        for (system, directory) in [("tmpfs", self.memory.clone()), ("ext4", self.disk.clone())] {
            for (order, stride) in [("sequential", 1), ("random", SPREAD)] {
                for (how, pages) in [("in chunks", 16), ("page by page", 1)] {
                    let length = 8 * MIB;
                    let file = file_of(&directory, "stores", length);
                    let path = file.display();
                    let (ratio, note) = self.compare(24, (length / PAGE) as f64, |bench, ours| {
                        if !ours {
                            return bench.native.ask(&format!("trap {path} {length} {pages} {stride}"));
                        }
                        let worker = if pages == 1 { &mut bench.by_page } else { &mut bench.shimmed };
                        worker.ask(&format!("share {path} {length}"));
                        bench.mapper.ask(&format!("hold {path} w {length}"));
                        let took = worker.ask(&format!("store {stride}"));
                        bench.mapper.ask("drop");
                        worker.ask("unshare");
                        took
                    });
                    let figure =
                        format!("first store a page, {system}, {order}, {how} / trap + mprotect + copy-on-write");
                    self.report(&figure, ratio, 1.5, &note);
                }
            }
        }
    }

    fn arming(&mut self) {
        for (how, directory, share, target) in [
            ("ext4, large folios", self.disk.clone(), "sharehuge", 1.0),
            ("tmpfs, pages of 4 KiB", self.memory.clone(), "share", f64::INFINITY),
        ] {
            let file = file_of(&directory, "armed", GIB);
            let armed = |bench: &mut Self| {
                bench.shimmed.ask(&format!("{share} {} {GIB}", file.display()));
                let took = bench.mapper.ask(&format!("make {} {GIB}", file.display()));
                bench.shimmed.ask("unshare");
                took
            };
            let time = median((0..9).map(|_| armed(self)).collect());
            let _ = fs::remove_file(&file);
            let figure = format!("taking a snapshot of 1 GiB, mapped shared by another process, {how} / 1 ms");
            self.report(&figure, time / 1e6, target, &format!("{:.0} us", time / 1e3));
        }
    }

    fn memory_held(&mut self) {
        let length = 256 * MIB;
        let file = file_of(&self.disk, "held", length);
        let path = file.display();
        self.mapper.ask(&format!("hold {path} r {length}"));
        let (before, _) = self.mapper.ask_both("held");
        self.shimmed.ask(&format!("write {path} 4096 {}", 64 * MIB / PAGE));
        let (after, said) = self.mapper.ask_both("held");
        self.mapper.ask("drop");
        let held = (after - before).max(said);
        let note =
            format!("kernel: {:.1} MiB, snapshim_stat: {:.1} MiB", (after - before) / MIB as f64, said / MIB as f64);
        self.report("memory held / bytes overwritten, 64 of 256 MiB", held / (64 * MIB) as f64, 1.05, &note);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for directory in [&self.memory, &self.disk, &self.table] {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/libsnapshim.so")
}

/// A file of `length` bytes that are not holes.
fn file_of(directory: &Path, name: &str, length: u64) -> PathBuf {
    let path = directory.join(name);
    let mut file = File::create(&path).expect("a file");
    // Large enough for folios of a huge page's size.
    const PIECE: u64 = 4 * MIB;
    for _ in 0..length.div_ceil(PIECE) {
        file.write_all(&vec![7; PIECE.min(length) as usize]).expect("room for the file");
    }
    // Written back now, not while something is measured.
    file.sync_all().expect("room for the file");
    path
}

fn main() {
    let mut bench = Bench::new();
    if std::env::args().nth(1).as_deref() == Some("against") {
        let other = std::env::args().nth(2).map(PathBuf::from).and_then(|path| path.canonicalize().ok());
        return against::run(&mut bench, &other.expect("usage: bench against LIBRARY"));
    }
    println!(
        "| {:<72} | {:>6} | {:>5} | {:<6} | ours / theirs, median of one operation",
        "figure", "ratio", "limit", ""
    );
    println!("|{:-<74}|{:->8}|{:->7}|{:-<8}|", "", "", "", "");
    if std::env::args().nth(1).as_deref() == Some("shared") {
        bench.stores_into_open_pages();
        bench.first_stores();
        bench.arming();
        return;
    }
    if std::env::args().nth(1).as_deref() == Some("costs") {
        return costs::run(&mut bench);
    }
    bench.starts();
    bench.private_memory();
    bench.writes_without_snapshots();
    bench.writes_beside_another_snapshot();
    bench.first_writes(PAGE, 2.0);
    bench.first_writes(MIB, 1.3);
    bench.second_writes();
    bench.creation();
    bench.relocation("r", "read-only");
    bench.relocation("w", "writable");
    bench.reading();
    bench.memory_held();
    bench.stores_into_open_pages();
    bench.first_stores();
    bench.arming();
    costs::run(&mut bench);
    println!(
        "{}",
        if bench.missed == 0 { "all within their limits".to_owned() } else { format!("{} missed", bench.missed) }
    );
}

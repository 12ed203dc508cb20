//! What a copy costs: `snapshim cp` of files that are written at full speed, page by page, at random places.
//!
//! A copy is exact, and holds little more memory than it has to. An ideal copy gives back each page when it has read it: at any
//! time it holds the pages behind its position that were written since the instant. How many these are follows from how far the
//! writer and the copy have come, and both are seen from outside (proc_pid_io(5)).
//!
//! `make bench` runs the figures for 2 GiB; they are said, and compared with what is wanted.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::stamps::Writer;
use crate::common::{Scratch, command, program, root, run_ok, text};

const PAGE: f64 = 4096.0;
const MIB: f64 = (1 << 20) as f64;

/// So much longer than cp(1) of the same files, that nothing writes, a copy may take.
const LONGEST: f64 = 1.5;

/// So much of its rate the writer keeps meanwhile.
const LEAST_RATE: f64 = 0.6;

/// So much more memory than an ideal copy a copy may hold, in MiB.
const MOST_BEYOND: f64 = 64.0;

/// Bytes that a process has written, by any call.
fn written(pid: u32) -> Option<f64> {
    let said = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    said.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok())
}

/// Memory that is of a process alone: the pages that were preserved for it among it.
fn own_memory(pid: u32) -> Option<f64> {
    let said = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib: f64 =
        said.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse().ok())?;
    Some(kib * 1024.0)
}

/// The writer's blocks a second over a time.
fn rate(writer: u32, time: Duration) -> f64 {
    let (started, before) = (Instant::now(), written(writer).unwrap());
    std::thread::sleep(time);
    (written(writer).unwrap() - before) / PAGE / started.elapsed().as_secs_f64()
}

/// What was seen of one copy.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    seconds: f64,
    /// Blocks a second that the writer wrote meanwhile.
    rate: f64,
    /// Bytes.
    most_held: f64,
    most_of_ideal: f64,
}

/// How far both have come, in blocks, and what the copy holds, in bytes.
struct Sample {
    copied: f64,
    held: f64,
    written: f64,
}

/// Watches a copy until it ends; what was seen of it, and of the time in between.
fn watch(mut copy: Child, writer: u32) -> (Seen, Vec<Sample>) {
    let (pid, started, before) = (copy.id(), Instant::now(), written(writer).unwrap());
    let mut samples = Vec::new();
    while copy.try_wait().unwrap().is_none() {
        // In this order: what lies between the questions lets the ideal hold more, and not less.
        if let (Some(copied), Some(held)) = (written(pid), own_memory(pid)) {
            samples.push(Sample { copied: copied / PAGE, held, written: written(writer).unwrap() / PAGE });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let seconds = started.elapsed().as_secs_f64();
    let rate = (written(writer).unwrap() - before) / PAGE / seconds;
    let output = copy.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    (Seen { seconds, rate, ..Seen::default() }, samples)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The files of one measurement.
struct Files<'a> {
    scratch: &'a Scratch,
    names: Vec<String>,
    /// Of each file.
    blocks: u32,
}

impl<'a> Files<'a> {
    fn new(scratch: &'a Scratch, count: u32, mib: u32) -> Self {
        fs::create_dir(scratch.file("live")).unwrap();
        Self { scratch, names: (0..count).map(|number| format!("live/{number}")).collect(), blocks: mib * 256 / count }
    }

    fn write(&self) -> Writer {
        Writer::start(
            self.scratch,
            &self.blocks.to_string(),
            &self.names.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    }

    fn copy(&self, writer: u32) -> Seen {
        let mut copy = Command::new(command());
        copy.args(["cp", "-r", "live", "copy"])
            .current_dir(&self.scratch.path)
            .env("SNAPSHIM_DIR", self.scratch.table());
        copy.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (mut seen, samples) = watch(copy.spawn().unwrap(), writer);
        let copies: Vec<_> = self.names.iter().map(|name| name.replace("live", "copy")).collect();
        let mut check = self.scratch.native(program("command/stamps"));
        let last = run_ok(check.args(["check", &self.blocks.to_string()]).args(&copies));
        let blocks = f64::from(self.blocks) * self.names.len() as f64;
        // The first write of each block has the number 1.
        let instant = blocks + last.trim().parse::<f64>().unwrap() - 1.0;
        for Sample { copied, held, written } in samples {
            let since = (written - instant).max(0.0);
            let ideal = (blocks - copied).max(0.0) * (1.0 - (-since / blocks).exp()) * PAGE;
            seen.most_held = seen.most_held.max(held);
            seen.most_of_ideal = seen.most_of_ideal.max(ideal);
        }
        fs::remove_dir_all(self.scratch.file("copy")).unwrap();
        seen
    }

    /// Seconds that cp(1) takes; that the bytes are on the disk then is part of a copy.
    fn plain(&self) -> f64 {
        let started = Instant::now();
        run_ok(self.scratch.native("sh").args(["-c", "cp -r live plain && sync -f plain"]));
        let seconds = started.elapsed().as_secs_f64();
        fs::remove_dir_all(self.scratch.file("plain")).unwrap();
        seconds
    }
}

/// Beyond what is preserved, a copy holds the same however large its files are.
#[test]
fn a_copy_holds_little_more_than_what_was_written_behind_its_position() {
    for count in [1, 8] {
        let scratch = Scratch::on_tmpfs();
        let files = Files::new(&scratch, count, 256);
        let writer = files.write();
        for _ in 0..3 {
            let seen = files.copy(writer.id());
            let (held, ideal) = (seen.most_held / MIB, seen.most_of_ideal / MIB);
            println!("{count} files, 256 MiB: at most {held:.0} MiB held, an ideal copy {ideal:.0} MiB");
            // A copy that gives nothing back before its end holds four times as much as an ideal one.
            assert!(held <= ideal + MOST_BEYOND && held <= 2.0 * ideal + 4.0, "{seen:?}");
        }
        writer.end();
    }
}

#[test]
#[ignore = "figures of `make bench`"]
fn figures() {
    const ROUNDS: usize = 3;
    let mib = std::env::var("COPIED_MIB").map_or(2048, |said| said.parse().unwrap());
    println!(
        "| {:<28} | time / cp | rate kept | MiB held | of an ideal | cp       |",
        format!("{mib} MiB written at random")
    );
    for (system, base) in [("tmpfs", Path::new("/dev/shm").to_owned()), ("disk", root().join("target/scratch"))] {
        for count in [1, 8] {
            let scratch = Scratch::new(&base);
            let files = Files::new(&scratch, count, mib);
            let writer = files.write();
            let (mut ratios, mut rates, mut seens, mut plains) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let alone = rate(writer.id(), Duration::from_secs(1));
                let seen = files.copy(writer.id());
                writer.pause();
                let plain = files.plain();
                writer.go_on();
                ratios.push(seen.seconds / plain);
                rates.push(seen.rate / alone);
                plains.push(plain);
                seens.push(seen);
            }
            writer.end();
            let (ratio, rate) = (median(ratios), median(rates));
            let most =
                seens.iter().max_by(|a, b| (a.most_held - a.most_of_ideal).total_cmp(&(b.most_held - b.most_of_ideal)));
            let (held, ideal) = most.map(|seen| (seen.most_held / MIB, seen.most_of_ideal / MIB)).unwrap();
            let verdict = |is_met: bool| if is_met { "ok" } else { "missed" };
            println!(
                "| {:<28} | {ratio:.2} {:<6} | {rate:.2} {:<6} | {held:>5.0} {:<6} | {ideal:>5.0} | {:.2} s |",
                format!("{count} on {system}"),
                verdict(ratio <= LONGEST),
                verdict(rate >= LEAST_RATE),
                verdict(held <= ideal + MOST_BEYOND),
                median(plains),
            );
        }
    }
}

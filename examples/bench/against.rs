//! Two builds of the library in one run, each with a table, a writer and a mapper of its own: what a change costs.

use std::path::{Path, PathBuf};

use super::{Bench, MIB, PAGE, Worker, file_of, library, median};

/// One build at work.
struct Side {
    writer: Worker,
    mapper: Worker,
}

impl Side {
    fn start(bench: &Bench, library: &Path, table: PathBuf) -> Self {
        Self { writer: bench.under(library, &table, "0"), mapper: bench.under(library, &table, "1") }
    }

    fn write(&mut self, path: &Path, size: u64, count: u64) -> f64 {
        self.writer.ask(&format!("write {} {size} {count}", path.display())) / count as f64
    }

    fn scatter(&mut self, path: &Path, size: u64, count: u64) -> f64 {
        self.writer.ask(&format!("scatter {} {size} {count}", path.display())) / count as f64
    }

    fn hold(&mut self, path: &Path, access: char, length: u64) {
        self.mapper.ask(&format!("hold {} {access} {length}", path.display()));
    }

    fn drop_snapshot(&mut self) {
        self.mapper.ask("drop");
    }
}

/// Both builds: ours, then the other.
struct Comparison {
    sides: [Side; 2],
}

impl Comparison {
    /// Measures `rounds` times on each side, by turns, and prints how they compare.
    fn row(&mut self, figure: &str, rounds: u32, mut measure: impl FnMut(&mut Side) -> f64) {
        let mut times = [vec![], vec![]];
        let mut ratios = vec![];
        for round in 0..rounds + 2 {
            let first = usize::from(round % 2 == 1);
            let mut took = [0.0; 2];
            for side in [first, 1 - first] {
                took[side] = measure(&mut self.sides[side]);
            }
            // The first rounds warm up.
            if round >= 2 {
                ratios.push(took[0] / took[1]);
                (0..2).for_each(|side| times[side].push(took[side]));
            }
        }
        let [ours, theirs] = times.map(|times| median(times) / 1e3);
        println!("| {figure:<60} | {:6.3} | {ours:.2} us / {theirs:.2} us", median(ratios));
    }

    fn first_writes(&mut self, system: &str, directory: &Path) {
        const KINDS: [(&str, char); 2] = [("read-only", 'r'), ("writable", 'w')];
        for (access, letter) in KINDS {
            for (name, size) in [("4 KiB", PAGE), ("1 MiB", MIB)] {
                let file = file_of(directory, "first", 8 * MIB);
                self.row(&format!("first {name} write, {system}, {access} snapshot"), 60, |side| {
                    side.hold(&file, letter, 8 * MIB);
                    let took = side.write(&file, size, 8 * MIB / size);
                    side.drop_snapshot();
                    took
                });
            }
        }
        for (access, letter) in KINDS {
            let file = file_of(directory, "first", 8 * MIB);
            self.row(&format!("first 4 KiB write at random, {system}, {access} snapshot"), 60, |side| {
                side.hold(&file, letter, 8 * MIB);
                let took = side.scatter(&file, PAGE, 8 * MIB / PAGE);
                side.drop_snapshot();
                took
            });
        }
    }

    fn second_write(&mut self, system: &str, file: &Path) {
        self.row(&format!("second 4 KiB write, {system}"), 100, |side| {
            side.hold(file, 'r', 4 * MIB);
            side.write(file, PAGE, 1000);
            let took = side.write(file, PAGE, 1000);
            side.drop_snapshot();
            took
        });
    }

    fn truncation(&mut self, system: &str, directory: &Path) {
        self.row(&format!("truncating under a snapshot of 64 MiB, {system}"), 7, |side| {
            let file = file_of(directory, "cut", 64 * MIB);
            side.hold(&file, 'r', 64 * MIB);
            let took = side.writer.ask(&format!("cut {}", file.display()));
            side.drop_snapshot();
            took
        });
    }
}

/// Compares the library with the build at `other`, row by row.
pub fn run(bench: &mut Bench, other: &Path) {
    let tables = ["ours", "theirs"].map(|name| bench.table.with_extension(name));
    let sides = [Side::start(bench, &library(), tables[0].clone()), Side::start(bench, other, tables[1].clone())];
    let mut both = Comparison { sides };
    println!("| {:<60} | {:>6} | ours / theirs, median of one operation", "this build / the other", "ratio");
    println!("|{:-<62}|{:->8}|", "", "");
    for (system, directory) in [("tmpfs", bench.memory.clone()), ("ext4", bench.disk.clone())] {
        let file = file_of(&directory, "plain", 4 * MIB);
        both.row(&format!("4 KiB pwrite, {system}, no snapshot anywhere"), 400, |side| side.write(&file, PAGE, 1000));
        both.first_writes(system, &directory);
        both.second_write(system, &file);
        both.row(&format!("taking a snapshot of 4 MiB, {system}"), 300, |side| {
            side.mapper.ask(&format!("make {} {}", file.display(), 4 * MIB))
        });
        both.truncation(system, &directory);
    }
    for table in tables {
        let _ = std::fs::remove_dir_all(table);
    }
}

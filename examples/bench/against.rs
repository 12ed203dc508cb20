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

/// Compares the library with the build at `other`, row by row.
pub fn run(bench: &mut Bench, other: &Path) {
    let tables = ["ours", "theirs"].map(|name| bench.table.with_extension(name));
    let mut sides = [Side::start(bench, &library(), tables[0].clone()), Side::start(bench, other, tables[1].clone())];
    let mut row = |figure: &str, rounds: u32, measure: &mut dyn FnMut(&mut Side) -> f64| {
        let mut times = [vec![], vec![]];
        let mut ratios = vec![];
        for round in 0..rounds + 2 {
            let first = usize::from(round % 2 == 1);
            let mut took = [0.0; 2];
            for side in [first, 1 - first] {
                took[side] = measure(&mut sides[side]);
            }
            // The first rounds warm up.
            if round >= 2 {
                ratios.push(took[0] / took[1]);
                (0..2).for_each(|side| times[side].push(took[side]));
            }
        }
        let [ours, theirs] = times.map(|times| median(times) / 1e3);
        println!("| {figure:<60} | {:6.3} | {ours:.2} us / {theirs:.2} us", median(ratios));
    };
    println!("| {:<60} | {:>6} | ours / theirs, median of one operation", "this build / the other", "ratio");
    println!("|{:-<62}|{:->8}|", "", "");
    for (system, directory) in [("tmpfs", bench.memory.clone()), ("ext4", bench.disk.clone())] {
        let file = file_of(&directory, "plain", 4 * MIB);
        let figure = format!("4 KiB pwrite, {system}, no snapshot anywhere");
        row(&figure, 400, &mut |side| side.write(&file, PAGE, 1000));
        for (access, letter) in [("read-only", 'r'), ("writable", 'w')] {
            for (name, size) in [("4 KiB", PAGE), ("1 MiB", MIB)] {
                let file = file_of(&directory, "first", 8 * MIB);
                row(&format!("first {name} write, {system}, {access} snapshot"), 60, &mut |side| {
                    side.hold(&file, letter, 8 * MIB);
                    let took = side.write(&file, size, 8 * MIB / size);
                    side.drop_snapshot();
                    took
                });
            }
        }
        for (access, letter) in [("read-only", 'r'), ("writable", 'w')] {
            let file = file_of(&directory, "first", 8 * MIB);
            row(&format!("first 4 KiB write at random, {system}, {access} snapshot"), 60, &mut |side| {
                side.hold(&file, letter, 8 * MIB);
                let took = side.scatter(&file, PAGE, 8 * MIB / PAGE);
                side.drop_snapshot();
                took
            });
        }
        row(&format!("second 4 KiB write, {system}"), 100, &mut |side| {
            side.hold(&file, 'r', 4 * MIB);
            side.write(&file, PAGE, 1000);
            let took = side.write(&file, PAGE, 1000);
            side.drop_snapshot();
            took
        });
        row(&format!("taking a snapshot of 4 MiB, {system}"), 300, &mut |side| {
            side.mapper.ask(&format!("make {} {}", file.display(), 4 * MIB))
        });
        row(&format!("truncating under a snapshot of 64 MiB, {system}"), 7, &mut |side| {
            let file = file_of(&directory, "cut", 64 * MIB);
            side.hold(&file, 'r', 64 * MIB);
            let took = side.writer.ask(&format!("cut {}", file.display()));
            side.drop_snapshot();
            took
        });
    }
    for table in tables {
        let _ = std::fs::remove_dir_all(table);
    }
}

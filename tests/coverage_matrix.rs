//! Every call that changes a file, on every file system there is here, with snapshots held read-only and writable, by the same
//! process and by another: byte-exact. Writes docs/coverage.md from what it saw.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::holder::Holder;
use crate::common::{Scratch, program, root, run, skip, text};

/// A place for victims: a directory, or a block device that is the victim itself.
struct Ground {
    name: &'static str,
    scratch: Scratch,
    device: Option<PathBuf>,
    undo: Vec<Vec<String>>,
}

impl Drop for Ground {
    fn drop(&mut self) {
        for command in self.undo.iter().rev() {
            let _ = Command::new(&command[0]).args(&command[1..]).status();
        }
    }
}

fn sh(command: &[&str]) -> Result<String, String> {
    let output =
        Command::new(command[0]).args(&command[1..]).output().map_err(|error| format!("{}: {error}", command[0]))?;
    if output.status.success() { Ok(text(&output).trim().to_string()) } else { Err(text(&output)) }
}

fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(ToString::to_string).collect()
}

/// A loop device over a fresh sparse file.
fn loop_device(scratch: &Scratch, size: u64) -> Result<(String, Vec<Vec<String>>), String> {
    let image = scratch.path.with_extension("image");
    let file = fs::File::create(&image).map_err(|error| error.to_string())?;
    file.set_len(size).map_err(|error| error.to_string())?;
    let remove = words(&["rm", "-f", image.to_str().unwrap()]);
    match sh(&["losetup", "-f", "--show", image.to_str().unwrap()]) {
        Ok(device) => {
            let detach = words(&["losetup", "-d", &device]);
            Ok((device, vec![remove, detach]))
        }
        Err(why) => {
            fs::remove_file(&image).unwrap();
            Err(why)
        }
    }
}

fn mounted(name: &'static str, mkfs: &[&str]) -> Result<Ground, String> {
    let scratch = Scratch::new(&root().join("target/scratch"));
    let (device, mut undo) = loop_device(&scratch, 400 << 20)?;
    let made = sh(&[mkfs, &[&device]].concat()).and_then(|_| sh(&["mount", &device, scratch.path.to_str().unwrap()]));
    if made.is_ok() {
        undo.push(words(&["umount", scratch.path.to_str().unwrap()]));
    }
    let ground = Ground { name, scratch, device: None, undo };
    made.map(|_| ground)
}

fn overlay() -> Result<Ground, String> {
    let base = Scratch::on_tmpfs();
    let directory = |name: &str| {
        let path = base.path.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let (lower, upper, work, merged) = (directory("lower"), directory("upper"), directory("work"), directory("merged"));
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    sh(&["mount", "-t", "overlay", "overlay", "-o", &options, merged.to_str().unwrap()])?;
    let undo = vec![words(&["rm", "-rf", base.path.to_str().unwrap()]), words(&["umount", merged.to_str().unwrap()])];
    let scratch = Scratch::new(&merged);
    std::mem::forget(base);
    Ok(Ground { name: "overlayfs", scratch, device: None, undo })
}

fn block_device() -> Result<Ground, String> {
    let scratch = Scratch::new(&root().join("target/scratch"));
    let (device, undo) = loop_device(&scratch, SIZE as u64 / 4096 * 4096)?;
    Ok(Ground { name: "block device", scratch, device: Some(device.into()), undo })
}

fn grounds() -> Vec<Ground> {
    let plain = |name, base: &Path| Ok(Ground { name, scratch: Scratch::new(base), device: None, undo: vec![] });
    let all = [
        ("ext4", mounted("ext4", &["mkfs.ext4", "-q", "-F"])),
        ("xfs", mounted("xfs", &["mkfs.xfs", "-q", "-f"])),
        ("btrfs", mounted("btrfs", &["mkfs.btrfs", "-q", "-f"])),
        ("tmpfs", plain("tmpfs", Path::new("/dev/shm"))),
        ("overlayfs", overlay()),
        ("block device", block_device()),
    ];
    let mut found = vec![];
    for (name, ground) in all {
        match ground {
            Ok(ground) => found.push(ground),
            Err(why) => skip("every_way", &format!("no {name} here: {}", why.trim())),
        }
    }
    found
}

const SIZE: usize = 40 * 4096 + 777;

fn content() -> Vec<u8> {
    (0..SIZE).map(|at| (at / 4096 * 13 + at % 241) as u8 | 1).collect()
}

impl Ground {
    /// The victim, whole and fresh.
    fn victim(&self) -> PathBuf {
        match &self.device {
            Some(device) => {
                fs::write(device, &content()[..SIZE / 4096 * 4096]).unwrap();
                device.clone()
            }
            None => {
                let victim = self.scratch.file("victim");
                let _ = fs::remove_file(&victim);
                fs::write(&victim, content()).unwrap();
                victim
            }
        }
    }

    fn reads(&self, victim: &Path) -> Vec<u8> {
        fs::read(victim).unwrap_or_default()
    }

    /// What becomes of the victim natively; `None` if it cannot be done here.
    fn natively(&self, way: &str) -> Option<Vec<u8>> {
        let victim = self.victim();
        let output = run(self.scratch.native(program("writing/coverage_matrix")).arg(way).arg(&victim));
        match output.status.code() {
            Some(0) => Some(self.reads(&victim)),
            Some(3) => None,
            _ => panic!("{way} on {} fails natively: {}", self.name, text(&output)),
        }
    }

    fn holds(&self, way: &str, expected: &[u8]) {
        for protection in ["r", "rw"] {
            let told = format!("{way} on {}, {protection}", self.name);
            let victim = self.victim();
            let holder = Holder::start(&self.scratch, "auto", &victim, protection);
            let output = run(self.scratch.shimmed(program("writing/coverage_matrix"), "auto").arg(way).arg(&victim));
            assert!(output.status.success(), "{told}, another process: {}", text(&output));
            let found = holder.finish();
            assert!(found.contains("same\n") && found.contains("state=0"), "{told}, another process: {found}");
            assert!(self.reads(&victim) == expected, "{told}: the file is not what it is natively");

            let victim = self.victim();
            let output = run(self
                .scratch
                .shimmed(program("writing/coverage_matrix"), "auto")
                .arg(way)
                .arg(&victim)
                .arg(protection));
            assert!(output.status.success(), "{told}, same process: {}", text(&output));
            assert!(self.reads(&victim) == expected, "{told}, same process: the file is not what it is natively");
        }
    }
}

#[test]
fn every_way_leaves_a_snapshot_as_it_was() {
    let listed = String::from_utf8(Command::new(program("writing/coverage_matrix")).output().unwrap().stdout).unwrap();
    let ways: Vec<(&str, &str)> = listed.lines().map(|line| line.split_once('\t').unwrap()).collect();
    let mut matrix: BTreeMap<(usize, &str), &str> = BTreeMap::new();
    let grounds = grounds();
    for ground in &grounds {
        for (row, (way, effect)) in ways.iter().enumerate() {
            // Names of a device are no files that could be linked or replaced.
            let is_about_names = ["through a hard link", "rename over it", "unlink, then write"].contains(way);
            let native = if ground.device.is_some() && is_about_names { None } else { ground.natively(way) };
            let cell = match native {
                None => "–",
                Some(expected) => {
                    ground.holds(way, &expected);
                    if content().starts_with(&expected) && expected.len() >= SIZE / 4096 * 4096 {
                        "no change"
                    } else {
                        effect
                    }
                }
            };
            matrix.insert((row, ground.name), cell);
        }
    }
    if grounds.len() == 6 {
        write_coverage(&ways, &grounds, &matrix);
    }
}

fn write_coverage(ways: &[(&str, &str)], grounds: &[Ground], matrix: &BTreeMap<(usize, &str), &str>) {
    let mut page = String::from(
        "# What is covered\n\nWritten by `cargo test --test integration coverage_matrix` (as root) from what it saw: each call was \
         made on each file system while\nsnapshots of the file were held, read-only and writable, by the same process and by \
         another, and compared byte by byte.\n\n- preserved: the pages were copied before the change landed\n- relocated: the \
         snapshot was moved off the file before the change landed\n- no change: natively the call leaves the content as it is\n\
         - –: the call cannot be made there natively\n\n",
    );
    let names: Vec<&str> = grounds.iter().map(|ground| ground.name).collect();
    writeln!(page, "| call | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len())).unwrap();
    for (row, (way, _)) in ways.iter().enumerate() {
        let cells: Vec<&str> = names.iter().map(|name| matrix[&(row, *name)]).collect();
        writeln!(page, "| {way} | {} |", cells.join(" | ")).unwrap();
    }
    page.push_str(&fs::read_to_string(root().join("docs/not-covered.md")).unwrap());
    let path = root().join("docs/coverage.md");
    if fs::read_to_string(&path).ok().as_deref() != Some(&page) {
        fs::write(path, page).unwrap();
    }
}

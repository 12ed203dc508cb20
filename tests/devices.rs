//! Block devices have other ways to their bytes than the device itself: mounts, partitions, loop devices. A snapshot of one is refused,
//! or says that it is doubtful.

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use common::{Scratch, program, root, skip};

const SIZE: u64 = 128 << 20;

/// A loop device over a fresh image, for as long as it is wanted; whatever was made of it goes before it.
struct Disk {
    scratch: Scratch,
    image: PathBuf,
    device: PathBuf,
}

impl Disk {
    fn attach(test: &str) -> Option<Self> {
        let scratch = Scratch::new(&root().join("target/scratch"));
        let image = scratch.file("image");
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        match sh(&["losetup", "-f", "--show", path(&image)]) {
            Ok(device) => Some(Self { scratch, image, device: device.into() }),
            Err(why) => {
                skip(test, &format!("no loop device: {why}"));
                None
            }
        }
    }

    fn format(test: &str, mkfs: &[&str]) -> Option<Self> {
        let disk = Self::attach(test)?;
        if let Err(why) = sh(&[mkfs, &[path(&disk.device)]].concat()) {
            skip(test, &why);
            return None;
        }
        Some(disk)
    }

    fn start(&self, file: &Path, verbs: &[&str]) -> Running {
        Running::start(&self.scratch, file, verbs, &[])
    }

    fn mount(&self, device: &Path) -> Result<Mount, String> {
        let at = self.scratch.file("mounted");
        fs::create_dir_all(&at).unwrap();
        sh(&["mount", path(device), path(&at)]).map(|_| Mount(at))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = sh(&["losetup", "-d", path(&self.device)]);
    }
}

struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = sh(&["umount", path(&self.0)]);
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn sh(command: &[&str]) -> Result<String, String> {
    let output =
        Command::new(command[0]).args(&command[1..]).output().map_err(|error| format!("{}: {error}", command[0]))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
    } else {
        Err(common::text(&output))
    }
}

/// tests/programs/device.c at work.
struct Running {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Running {
    fn start(scratch: &Scratch, file: &Path, verbs: &[&str], environment: &[(&str, &str)]) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let log = scratch.file(&format!("log-{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)));
        let mut command = scratch.shimmed(program("device"), "auto");
        command.arg(file).args(verbs).envs(environment.iter().copied());
        command.env("SNAPSHIM_LOG", format!("warn:{}", log.display())).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output, log }
    }

    /// What it says until it waits.
    fn until_ready(&mut self) -> String {
        let mut said = String::new();
        while !said.ends_with("ready\n") {
            let count = self.output.read_line(&mut said).unwrap();
            assert!(count > 0, "it ended: {said}{}", self.logged());
        }
        said.trim_end_matches("ready\n").to_string()
    }

    fn go_on(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn name(&self) -> String {
        format!("process {} (device)", self.child.id())
    }

    /// Lets it go on to its end; what it said and logged.
    fn finish(mut self) -> (String, String) {
        // It may have ended already.
        let _ = self.input.write_all(b"\n\n\n\n");
        drop(self.input);
        let mut said = String::new();
        self.output.read_to_string(&mut said).unwrap();
        let status = self.child.wait().unwrap();
        let logged = fs::read_to_string(&self.log).unwrap_or_default();
        assert!(status.success(), "{status}: {said}{logged}");
        (said, logged)
    }
}

const EXACT: &str = "snapshot: taken\nstate: exact\ncompare: same\n";
const SHOW: [&str; 3] = ["snapshot", "state", "compare"];

/// One line, which has every part.
fn says(log: &str, parts: &[&str]) {
    assert_eq!(log.lines().count(), 1, "{log}");
    for part in parts {
        assert!(log.contains(part), "{part:?} is missing: {log}");
    }
}

fn status(scratch: &Scratch) -> String {
    let command = common::library().with_file_name("snapshim");
    common::run_ok(Command::new(command).arg("status").env("SNAPSHIM_DIR", scratch.table()))
}

#[test]
fn a_device_that_nobody_else_uses_has_an_exact_snapshot() {
    let Some(disk) = Disk::attach("a_device_that_nobody_else_uses_has_an_exact_snapshot") else { return };
    let verbs = [&SHOW[..], &["wait", "write", "state", "compare"]].concat();
    let mut mapper = disk.start(&disk.device, &verbs);
    assert_eq!(mapper.until_ready(), EXACT);
    // Two rounds of the agent.
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(mapper.finish(), ("state: exact\ncompare: same\n".into(), String::new()));
    let (said, log) = disk.start(&disk.image, &SHOW).finish();
    assert_eq!((said.as_str(), log.as_str()), (EXACT, ""), "a loop device that nobody uses");
}

#[test]
fn a_device_that_is_mounted_later_makes_its_snapshots_doubtful() {
    let test = "a_device_that_is_mounted_later_makes_its_snapshots_doubtful";
    for mkfs in [&["mkfs.ext4", "-q", "-F"][..], &["mkfs.btrfs", "-q", "-f"]] {
        let Some(disk) = Disk::format(test, mkfs) else { continue };
        let mut mapper = disk.start(&disk.device, &["snapshot", "state", "wait", "doubtful", "state", "wait"]);
        assert_eq!(mapper.until_ready(), "snapshot: taken\nstate: exact\n");
        let Ok(_mount) = disk.mount(&disk.device) else {
            skip(test, &format!("{} cannot be mounted", mkfs[0]));
            continue;
        };
        mapper.go_on();
        assert_eq!(mapper.until_ready(), "state: doubtful\n", "{mkfs:?}: {}", mapper.logged());
        assert!(status(&disk.scratch).contains(" doubtful "), "{}", status(&disk.scratch));
        let name = mapper.name();
        let (_, log) = mapper.finish();
        says(&log, &["snapshot of block device 7:", &name, "doubtful", "a file system is mounted", "unmount"]);

        let (said, log) = disk.start(&disk.device, &["snapshot"]).finish();
        assert_eq!(said, "snapshot: EBUSY\n", "{mkfs:?}: {log}");
        says(&log, &["snapshot of block device 7:", "refused", "a file system is mounted", "unmount"]);
    }
}

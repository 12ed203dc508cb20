//! Block devices have other ways to their bytes than the device itself: mounts, partitions, loop devices. A snapshot of one is
//! refused, kept safe by a claim, or says that it is doubtful.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Scratch, program, root, skip};

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

    /// Its first partition, from 1 MiB on.
    fn partition(&self, test: &str) -> Option<PathBuf> {
        let device = path(&self.device);
        let made = sh(&["addpart", device, "1", "2048", "65536"]);
        let node = self.scratch.file("partition");
        let name = self.device.file_name().unwrap().to_str().unwrap();
        let number = fs::read_to_string(format!("/sys/block/{name}/{name}p1/dev"));
        match (made, number) {
            (Ok(_), Ok(number)) => {
                let (major, minor) = number.trim().split_once(':').unwrap();
                sh(&["mknod", path(&node), "b", major, minor]).unwrap();
                Some(node)
            }
            (made, number) => {
                skip(test, &format!("no partition: {made:?} {number:?}"));
                None
            }
        }
    }

    fn start(&self, file: &Path, verbs: &[&str]) -> Running {
        Running::start(&self.scratch, file, verbs, &[])
    }

    fn start_claiming(&self, verbs: &[&str]) -> Running {
        Running::start(&self.scratch, &self.device, verbs, &[("SNAPSHIM_CLAIM", "1")])
    }

    fn mount(&self, device: &Path) -> Result<Mount, String> {
        let at = self.scratch.file("mounted");
        fs::create_dir_all(&at).unwrap();
        sh(&["mount", path(device), path(&at)]).map(|_| Mount(at))
    }

    /// Whether any process has an exclusive claim on the device.
    fn is_claimed(&self) -> bool {
        match OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&self.device) {
            Ok(_) => false,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
                true
            }
        }
    }

    /// Closing a descriptor ends a claim, but not always before the program that held it is seen to be over.
    fn becomes_free(&self) -> bool {
        let started = Instant::now();
        while self.is_claimed() && started.elapsed() < Duration::from_secs(60) {
            std::thread::yield_now();
        }
        !self.is_claimed()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = sh(&["delpart", path(&self.device), "1"]);
        let _ = sh(&["losetup", "-d", path(&self.device)]);
    }
}

struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = sh(&["umount", path(&self.0)]);
    }
}

struct Swap(PathBuf);

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = sh(&["swapoff", path(&self.0)]);
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
        Err(crate::common::text(&output))
    }
}

/// tests/programs/writing/device.c at work.
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
        let mut command = scratch.shimmed(program("writing/device"), "auto");
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

const TAKEN: &str = "snapshot: taken\n";
const EXACT: &str = "snapshot: taken\nstate: exact\ncompare: same\n";
const DOUBTFUL: &str = "snapshot: taken\nstate: doubtful\n";
const SHOW: [&str; 3] = ["snapshot", "state", "compare"];

/// For a program that opens its file for reading only, and so is no writer of it.
const READ_ONLY: [(&str, &str); 1] = [("DEVICE_READ_ONLY", "1")];

/// One line, which has every part.
fn says(log: &str, parts: &[&str]) {
    assert_eq!(log.lines().count(), 1, "{log}");
    for part in parts {
        assert!(log.contains(part), "{part:?} is missing: {log}");
    }
}

fn status(scratch: &Scratch) -> String {
    let command = crate::common::library().with_file_name("snapshim");
    crate::common::run_ok(Command::new(command).arg("status").env("SNAPSHIM_DIR", scratch.table()))
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
        let verbs = ["snapshot", "state", "wait", "doubtful", "state", "why", "wait"];
        let mut mapper = disk.start(&disk.device, &verbs);
        assert_eq!(mapper.until_ready(), "snapshot: taken\nstate: exact\n");
        let Ok(_mount) = disk.mount(&disk.device) else {
            skip(test, &format!("{} cannot be mounted", mkfs[0]));
            continue;
        };
        mapper.go_on();
        let said = mapper.until_ready();
        assert!(said.starts_with("state: doubtful\nwhy: "), "{mkfs:?}: {said}{}", mapper.logged());
        assert!(said.contains("uses it, so the kernel changes it without a system call; unmount"), "{said}");
        assert!(status(&disk.scratch).contains(" doubtful "), "{}", status(&disk.scratch));
        let name = mapper.name();
        let (_, log) = mapper.finish();
        says(
            &log,
            &[
                "snapshot of block device 7:",
                &name,
                "doubtful",
                "a file system is mounted",
                "unmount",
                "SNAPSHIM_CLAIM=1",
            ],
        );

        let (said, log) = disk.start(&disk.device, &["snapshot"]).finish();
        assert_eq!(said, "snapshot: EBUSY\n", "{mkfs:?}: {log}");
        says(&log, &["snapshot of block device 7:", "refused", "a file system is mounted", "unmount"]);
    }
}

#[test]
fn a_writer_of_the_backing_file_makes_a_loop_devices_snapshot_doubtful() {
    let Some(disk) = Disk::attach("a_writer_of_the_backing_file_makes_a_loop_devices_snapshot_doubtful") else {
        return;
    };
    let parts = ["snapshot of block device 7:", "doubtful", "for writing", "backed by", "page cache", "again"];

    // While it is open already.
    let mut writer = disk.start(&disk.image, &["wait"]);
    writer.until_ready();
    let (said, log) = disk.start(&disk.device, &["snapshot", "state"]).finish();
    assert_eq!(said, DOUBTFUL, "{log}");
    says(&log, &[&parts[..], &[&writer.name()]].concat());
    writer.finish();

    // Opened later, by the mapper itself.
    let open = format!("open={}", disk.image.display());
    let mut mapper = disk.start(&disk.device, &["snapshot", "state", "wait", &open, "doubtful", "state"]);
    assert_eq!(mapper.until_ready(), "snapshot: taken\nstate: exact\n", "{}", mapper.logged());
    let name = mapper.name();
    let (said, log) = mapper.finish();
    assert_eq!(said, "state: doubtful\n", "{log}");
    says(&log, &[&parts[..], &[&name]].concat());
}

#[test]
fn a_writer_of_the_loop_device_makes_its_backing_files_snapshot_doubtful() {
    let test = "a_writer_of_the_loop_device_makes_its_backing_files_snapshot_doubtful";
    let Some(disk) = Disk::format(test, &["mkfs.ext4", "-q", "-F"]) else { return };
    let mut writer = disk.start(&disk.device, &["write", "wait"]);
    writer.until_ready();
    let (said, log) = disk.start(&disk.image, &["snapshot", "state"]).finish();
    assert_eq!(said, DOUBTFUL, "{log}");
    says(
        &log,
        &[
            "snapshot of inode ",
            "doubtful",
            &writer.name(),
            "for writing",
            "block device 7:",
            "loop device backed by it",
        ],
    );
    writer.finish();

    // The kernel as the writer, later. What `write` did to the first page leaves the superblock's second copy; make it anew.
    sh(&["mkfs.ext4", "-q", "-F", path(&disk.device)]).unwrap();
    let mut mapper = disk.start(&disk.image, &["snapshot", "state", "wait", "doubtful", "state"]);
    assert_eq!(mapper.until_ready(), "snapshot: taken\nstate: exact\n", "{}", mapper.logged());
    let _mount = disk.mount(&disk.device).unwrap();
    let (said, log) = mapper.finish();
    assert_eq!(said, "state: doubtful\n", "{log}");
    // Or what the mount wrote has come to the file before the mount was looked for.
    if !log.contains("something changed the file without the shim") {
        says(
            &log,
            &["snapshot of inode ", "a file system is mounted from block device 7:", "loop device backed by it"],
        );
    }
}

#[test]
fn a_snapshot_of_an_alias_is_told_and_both_stay_exact() {
    let Some(disk) = Disk::attach("a_snapshot_of_an_alias_is_told_and_both_stay_exact") else { return };
    for (first, second) in [(&disk.device, &disk.image), (&disk.image, &disk.device)] {
        let mut holder = Running::start(&disk.scratch, first, &["snapshot", "wait", "state", "compare"], &READ_ONLY);
        assert_eq!(holder.until_ready(), TAKEN);
        let (said, log) = Running::start(&disk.scratch, second, &SHOW, &READ_ONLY).finish();
        assert_eq!(said, EXACT, "{log}");
        says(
            &log,
            &[
                "snapshot of ",
                &holder.name(),
                "holds a snapshot of",
                "page cache of its own",
                "take both of the same one",
            ],
        );
        assert_eq!(holder.finish(), ("state: exact\ncompare: same\n".into(), String::new()));
    }
}

#[test]
fn a_partition_and_its_disk_are_aliases() {
    let test = "a_partition_and_its_disk_are_aliases";
    let Some(disk) = Disk::attach(test) else { return };
    let Some(partition) = disk.partition(test) else { return };
    let cases = [
        (&disk.device, &partition, "(a partition of it)"),
        (&partition, &disk.device, "(the disk that it is a part of)"),
        // Through the loop device.
        (&disk.image, &partition, "(a partition of it)"),
        (&partition, &disk.image, "(what the loop device is backed by)"),
    ];
    for (origin, written, kind) in cases {
        let mut writer = disk.start(written, &["write", "wait"]);
        writer.until_ready();
        let (said, log) = disk.start(origin, &["snapshot", "state"]).finish();
        assert_eq!(said, DOUBTFUL, "{kind}: {log}");
        says(&log, &["doubtful", &writer.name(), "for writing", kind, "page cache of its own"]);
        writer.finish();
    }
    sh(&["mkfs.ext4", "-q", "-F", path(&partition)]).unwrap();
    let _mount = disk.mount(&partition).unwrap();
    for origin in [&disk.device, &disk.image] {
        let (said, log) = Running::start(&disk.scratch, origin, &["snapshot", "state"], &READ_ONLY).finish();
        assert_eq!(said, DOUBTFUL, "{log}");
        says(&log, &["a file system is mounted from", "(a partition of it)", "page cache of its own"]);
    }
}

/// As packages that are mounted from images have it.
#[test]
fn a_mounted_image_that_nobody_can_write_stays_exact() {
    let test = "a_mounted_image_that_nobody_can_write_stays_exact";
    let Some(mut disk) = Disk::format(test, &["mkfs.ext4", "-q", "-F"]) else { return };
    sh(&["losetup", "-d", path(&disk.device)]).unwrap();
    disk.device = sh(&["losetup", "-r", "-f", "--show", path(&disk.image)]).unwrap().into();
    let _mount = disk.mount(&disk.device).unwrap();
    let (said, log) = disk.start(&disk.image, &SHOW).finish();
    assert_eq!((said.as_str(), log.as_str()), (EXACT, ""));
}

#[test]
fn a_loop_device_over_a_device_is_its_alias() {
    let test = "a_loop_device_over_a_device_is_its_alias";
    let Some(disk) = Disk::format(test, &["mkfs.ext4", "-q", "-F"]) else { return };
    let stacked = match sh(&["losetup", "-f", "--show", path(&disk.device)]) {
        Ok(device) => PathBuf::from(device),
        Err(why) => return skip(test, &why),
    };
    let mut mapper = disk.start(&disk.device, &["snapshot", "state", "wait", "doubtful", "state"]);
    assert_eq!(mapper.until_ready(), "snapshot: taken\nstate: exact\n");
    let mount = disk.mount(&stacked).unwrap();
    let (said, log) = mapper.finish();
    drop(mount);
    sh(&["losetup", "-d", path(&stacked)]).unwrap();
    assert_eq!(said, "state: doubtful\n", "{log}");
    says(
        &log,
        &["snapshot of block device 7:", "a file system is mounted from block device 7:", "loop device backed by it"],
    );
}

#[test]
fn a_claim_keeps_mounts_away_as_long_as_the_snapshot_lives() {
    let test = "a_claim_keeps_mounts_away_as_long_as_the_snapshot_lives";
    let Some(disk) = Disk::format(test, &["mkfs.ext4", "-q", "-F"]) else { return };
    let verbs = ["snapshot", "snapshot", "wait", "release", "wait", "write", "state", "compare", "release", "wait"];
    let mut mapper = disk.start_claiming(&verbs);
    assert_eq!(mapper.until_ready(), [TAKEN, TAKEN].concat());
    for command in [&["mkfs.ext4", "-q", "-F"][..], &["blkdiscard"]] {
        assert!(sh(&[command, &[path(&disk.device)]].concat()).is_err(), "{command:?}");
    }
    assert!(disk.mount(&disk.device).is_err());
    mapper.go_on();
    mapper.until_ready();
    assert!(disk.is_claimed(), "one snapshot is left");
    mapper.go_on();
    assert_eq!(mapper.until_ready(), "state: exact\ncompare: same\n");
    assert!(!disk.is_claimed(), "none is left");
    assert_eq!(mapper.finish(), (String::new(), String::new()));

    let mut mapper = disk.start_claiming(&["snapshot", "wait"]);
    mapper.until_ready();
    assert!(disk.is_claimed());
    mapper.child.kill().unwrap();
    mapper.child.wait().unwrap();
    assert!(disk.becomes_free(), "killed");
}

#[test]
fn a_claim_that_cannot_be_had_refuses_the_snapshot() {
    let Some(disk) = Disk::attach("a_claim_that_cannot_be_had_refuses_the_snapshot") else { return };
    let other = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&disk.device).unwrap();
    let (said, log) = disk.start_claiming(&["snapshot"]).finish();
    assert_eq!(said, "snapshot: EBUSY\n", "{log}");
    says(
        &log,
        &["snapshot of block device 7:", "refused", "exclusive claim", "there is another one", "SNAPSHIM_CLAIM"],
    );
    drop(other);

    let mut first = disk.start_claiming(&["snapshot", "wait", "state", "compare"]);
    first.until_ready();
    let (said, log) = disk.start_claiming(&["snapshot"]).finish();
    assert_eq!(said, "snapshot: EBUSY\n", "{log}");
    says(&log, &["refused", "exclusive claim", &first.name(), "SNAPSHIM_CLAIM"]);
    assert_eq!(first.finish(), ("state: exact\ncompare: same\n".into(), String::new()));
    // Without a snapshot, nothing is claimed.
    let mut other = disk.start_claiming(&["write", "wait"]);
    other.until_ready();
    assert!(!disk.is_claimed());
    other.finish();
}

#[test]
fn a_claim_lives_on_in_the_child_that_inherits_the_snapshot() {
    let Some(disk) = Disk::attach("a_claim_lives_on_in_the_child_that_inherits_the_snapshot") else { return };
    let mut both = disk.start_claiming(&["snapshot", "fork", "wait", "write", "state", "compare", "release", "wait"]);
    both.until_ready();
    // SAFETY: kill(2) of our own child, which has not been waited for.
    unsafe { libc::kill(both.child.id() as i32, libc::SIGKILL) };
    both.child.wait().unwrap();
    assert!(disk.is_claimed(), "the child has it still");
    both.go_on();
    assert_eq!(both.until_ready(), "state: exact\ncompare: same\n");
    assert!(disk.becomes_free(), "the child has given it back");
    assert_eq!(both.logged(), "");
    both.go_on();

    let mut both = disk.start_claiming(&["snapshot", "alone", "fork", "wait"]);
    both.until_ready();
    // SAFETY: as above.
    unsafe { libc::kill(both.child.id() as i32, libc::SIGKILL) };
    both.child.wait().unwrap();
    assert!(disk.becomes_free(), "the child has no snapshot to keep it for");
    both.go_on();
}

#[test]
fn exec_ends_a_claim() {
    let Some(disk) = Disk::attach("exec_ends_a_claim") else { return };
    let mut mapper = disk.start_claiming(&["snapshot", "wait", "exec"]);
    assert_eq!(mapper.until_ready(), TAKEN);
    assert!(disk.is_claimed());
    mapper.go_on();
    mapper.until_ready();
    assert!(disk.becomes_free());
    mapper.finish();
}

#[test]
fn a_claim_that_the_program_closes_makes_its_snapshots_doubtful() {
    let Some(disk) = Disk::attach("a_claim_that_the_program_closes_makes_its_snapshots_doubtful") else { return };
    let mut mapper =
        disk.start_claiming(&["snapshot", "wait", "close", "doubtful", "state", "why", "wait", "snapshot", "wait"]);
    assert_eq!(mapper.until_ready(), TAKEN);
    mapper.go_on();
    let said = mapper.until_ready();
    assert!(said.starts_with("state: doubtful\nwhy: the program closed the descriptor, which was"), "{said}");
    assert!(!disk.is_claimed());
    says(
        &mapper.logged(),
        &["snapshot of block device 7:", &mapper.name(), "doubtful", "closed descriptor", "SNAPSHIM_CLAIM=1", "again"],
    );
    mapper.go_on();
    assert_eq!(mapper.until_ready(), TAKEN);
    assert!(disk.is_claimed(), "a new snapshot is claimed anew");
    mapper.finish();
}

#[test]
fn a_group_that_is_refused_a_claim_gives_up_those_that_it_had() {
    let test = "a_group_that_is_refused_a_claim_gives_up_those_that_it_had";
    let (Some(disk), Some(taken)) = (Disk::attach(test), Disk::attach(test)) else { return };
    let mut other = taken.start_claiming(&["snapshot", "wait"]);
    assert_eq!(other.until_ready(), TAKEN);
    let group = format!("group={}", taken.device.display());
    let mut mapper = disk.start_claiming(&[&group, "wait", &group, "wait"]);
    assert_eq!(mapper.until_ready(), "group: EBUSY\n", "{}", mapper.logged());
    assert!(!disk.is_claimed() && taken.is_claimed());
    other.finish();
    mapper.go_on();
    assert_eq!(mapper.until_ready(), "group: taken\n", "{}", mapper.logged());
    assert!(disk.is_claimed() && taken.is_claimed());
    mapper.finish();
}

#[test]
fn a_value_of_claim_that_means_nothing_is_named() {
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("victim"), [1; 8192]).unwrap();
    let victim = scratch.file("victim");
    let (said, log) = Running::start(&scratch, &victim, &SHOW, &[("SNAPSHIM_CLAIM", "yes")]).finish();
    assert_eq!(said, EXACT);
    says(&log, &["SNAPSHIM_CLAIM=yes cannot be used; using 0 instead"]);
    let (said, log) = Running::start(&scratch, &victim, &SHOW, &[("SNAPSHIM_CLAIM", "1")]).finish();
    assert_eq!((said.as_str(), log.as_str()), (EXACT, ""), "files are not claimed");
}

#[test]
fn a_loop_device_that_is_turned_to_other_bytes_keeps_its_snapshots() {
    let Some(disk) = Disk::attach("a_loop_device_that_is_turned_to_other_bytes_keeps_its_snapshots") else { return };
    let bytes: Vec<u8> = (0..4 << 20).map(|at: u32| (at / 4096 % 251) as u8).collect();
    fs::write(&disk.device, &bytes).unwrap();
    OpenOptions::new().write(true).open(&disk.device).unwrap().sync_all().unwrap();
    // By another process, then by the mapper.
    let verbs = ["snapshot", "wait", "state", "compare", "turn=2097152", "state", "compare"];
    let mut mapper = Running::start(&disk.scratch, &disk.device, &verbs, &READ_ONLY);
    assert_eq!(mapper.until_ready(), TAKEN);
    let (_, log) = Running::start(&disk.scratch, &disk.device, &["turn=1048576"], &READ_ONLY).finish();
    assert_eq!(log, "");
    assert_eq!(fs::read(&disk.device).unwrap()[..65536], bytes[1 << 20..(1 << 20) + 65536], "it was turned");
    let (said, log) = mapper.finish();
    assert_eq!(said, "state: exact\ncompare: same\nstate: exact\ncompare: same\n", "{log}");
}

#[test]
fn a_partition_of_a_device_that_is_turned_to_other_bytes_is_doubtful() {
    let test = "a_partition_of_a_device_that_is_turned_to_other_bytes_is_doubtful";
    let Some(disk) = Disk::attach(test) else { return };
    let Some(partition) = disk.partition(test) else { return };
    let below = format!("below={}", disk.device.display());
    let (said, log) =
        Running::start(&disk.scratch, &partition, &["snapshot", "state", &below, "state"], &READ_ONLY).finish();
    assert_eq!(said, "snapshot: taken\nstate: exact\nstate: doubtful\n", "{log}");
    says(&log, &["snapshot of block device ", "doubtful", "page cache", "LOOP_SET_STATUS64", "again"]);
}

#[test]
fn a_command_past_the_page_cache_makes_a_devices_snapshots_doubtful() {
    for (verb, name) in [("command=w", "SG_IO"), ("resume", "DM_DEV_SUSPEND")] {
        let Some(disk) = Disk::attach("a_command_past_the_page_cache_makes_a_devices_snapshots_doubtful") else {
            return;
        };
        let verbs = ["snapshot", "command=r", "state", verb, "state", "compare"];
        let (said, log) = Running::start(&disk.scratch, &disk.device, &verbs, &READ_ONLY).finish();
        assert_eq!(said, "snapshot: taken\nstate: exact\nstate: doubtful\ncompare: same\n", "{log}");
        says(&log, &["snapshot of block device 7:", "doubtful", "page cache", name, "again"]);
    }
}

#[test]
fn a_device_that_is_swapped_out_to_is_refused_or_doubtful() {
    let test = "a_device_that_is_swapped_out_to_is_refused_or_doubtful";
    let Some(disk) = Disk::format(test, &["mkswap"]) else { return };
    let mut mapper = disk.start(&disk.device, &["snapshot", "state", "wait", "doubtful", "state"]);
    assert_eq!(mapper.until_ready(), "snapshot: taken\nstate: exact\n");
    if let Err(why) = sh(&["swapon", "-p", "0", path(&disk.device)]) {
        return skip(test, &why);
    }
    let _swap = Swap(disk.device.clone());
    let (said, log) = disk.start(&disk.device, &["snapshot"]).finish();
    assert_eq!(said, "snapshot: EBUSY\n", "{log}");
    says(&log, &["snapshot of block device 7:", "refused", "memory is swapped out to"]);
    let (later, later_log) = mapper.finish();
    assert_eq!(later, "state: doubtful\n", "{later_log}");
    says(&later_log, &["snapshot of block device 7:", "doubtful", "memory is swapped out to"]);
}

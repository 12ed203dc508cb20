//! fsx, the file system exerciser: ten thousand random changes of one file, read back and compared by fsx itself. At several
//! moments of the run other processes take snapshots of the file. fsx must find its file as it should be, and each snapshot must
//! stay what the file was at its moment.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::holder::Holder;
use crate::common::{Scratch, WAYS, root, run, scratches, skip, text};

const OPERATIONS: &str = "10000";

/// Steps of fsx near which snapshots are taken.
const MOMENTS: [u32; 5] = [20, 1000, 3000, 6000, 9000];

/// Reads, writes, loads and stores through a shared mapping, and truncations, each as often as the others.
const DEFAULT_MIX: &str = "";

/// All that fsx can do. Fewer truncations and shorter writes: most pages are preserved one by one, not moved off the file.
/// posix_fallocate(3) of nothing is EINVAL, so no size is 0; what is not named weighs 10.
const WIDE_MIX: &str = "
nomsyncafterwrite = true
[opsize]
min = 1
max = 9000
[weights]
truncate = 1
punch_hole = 10
posix_fallocate = 3
copy_file_range = 10
close_open = 2
invalidate = 2
sendfile = 2
posix_fadvise = 2
fsync = 0.1
fdatasync = 0.1
";

fn program() -> PathBuf {
    root().join("target/tools/bin/fsx")
}

fn with_arguments<'a>(command: &'a mut Command, seed: &str) -> &'a mut Command {
    command.args(["-f", "fsx.toml", "-N", OPERATIONS, "-S", seed, "victim"])
}

/// fsx under way. It names each step before it takes it.
struct Fsx {
    child: Child,
    steps: BufReader<ChildStderr>,
}

impl Fsx {
    fn start(command: &mut Command) -> Self {
        let mut child = command.arg("-v").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let steps = child.stderr.take().unwrap();
        // SAFETY: F_SETPIPE_SZ takes a number; the kernel rounds it up to a page.
        assert!(unsafe { libc::fcntl(steps.as_raw_fd(), libc::F_SETPIPE_SZ, 1) } > 0);
        Self { child, steps: BufReader::new(steps) }
    }

    /// Reads what fsx says until it names step `step` or a later one.
    fn goes_on_to(&mut self, step: u32) {
        let mut line = String::new();
        let number = |line: &str| line.strip_prefix("[INFO  fsx] ")?.split_whitespace().next()?.parse::<u32>().ok();
        while number(&line).is_none_or(|number| number < step) {
            line.clear();
            assert!(self.steps.read_line(&mut line).unwrap() > 0, "fsx ended before step {step}");
        }
    }

    /// Waits until fsx cannot name its next step, because no process reads: proc_pid_syscall(5).
    fn stands_still(&self) {
        let path = format!("/proc/{}/syscall", self.child.id());
        let is_naming = || {
            let mut call = String::new();
            File::open(&path).and_then(|mut file| file.read_to_string(&mut call)).unwrap();
            call.starts_with(&format!("{} {:#x} ", libc::SYS_write, libc::STDERR_FILENO))
        };
        let started = Instant::now();
        while !is_naming() {
            assert!(started.elapsed() < Duration::from_secs(200), "fsx goes on");
            std::thread::yield_now();
        }
    }

    /// Lets fsx finish; it must have found its file right all the time.
    fn ends_well(mut self, about: &str) {
        let mut said = String::new();
        self.steps.read_to_string(&mut said).unwrap();
        let output = self.child.wait_with_output().unwrap();
        let last = said.lines().rev().take(30).collect::<Vec<_>>().join("\n");
        assert!(output.status.success(), "{about}: {}: {}\n{last}", output.status, text(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "All operations completed A-OK!\n", "{about}");
    }
}

/// fsx under the shim, held up at each moment until snapshots have been taken of what the file then is.
fn exercises_beside_snapshots(scratch: &Scratch, way: &str, seed: &str, about: &str) {
    let victim = scratch.file("victim");
    let mut fsx = Fsx::start(with_arguments(&mut scratch.shimmed(program(), way), seed));
    let mut holders = vec![];
    for moment in MOMENTS {
        fsx.goes_on_to(moment);
        fsx.stands_still();
        for protection in ["r", "rw"] {
            holders.push((moment, protection, Holder::start(scratch, way, &victim, protection)));
        }
    }
    fsx.ends_well(about);
    for (moment, protection, holder) in holders {
        holder.finish_exact(&format!("{about}: {protection} snapshot of step {moment}"));
    }
}

fn survives(test: &str, mix: &str) {
    if !program().exists() {
        return skip(test, "fsx is not installed: run `make setup`");
    }
    for scratch in scratches() {
        for (seed, way) in ["1", "2"].into_iter().zip(WAYS) {
            fs::write(scratch.file("fsx.toml"), mix).unwrap();
            let native = run(with_arguments(&mut scratch.native(program()), seed));
            if !native.status.success() {
                skip(test, &format!("natively in {}: {}", scratch.path.display(), text(&native)));
                continue;
            }
            let natively = fs::read(scratch.file("victim")).unwrap();
            let about = format!("seed {seed}, {way}, {}", scratch.path.display());
            exercises_beside_snapshots(&scratch, way, seed, &about);
            assert!(fs::read(scratch.file("victim")).unwrap() == natively, "{about}: not the file that it is natively");
        }
    }
}

#[test]
fn fsx_reading_writing_mapping_truncating() {
    survives("fsx_reading_writing_mapping_truncating", DEFAULT_MIX);
}

#[test]
fn fsx_doing_all_that_it_can() {
    survives("fsx_doing_all_that_it_can", WIDE_MIX);
}

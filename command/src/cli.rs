//! What may be typed: the commands, their arguments, and what help and man pages say of them.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

const AFTER: &str = "\
Exit status:
  0  ok
  1  failed: nothing of it was done, unless the message says so
  2  the arguments cannot be used
  3  done in part: what is missing was said
  4  a snapshot is doubtful or broken: nothing was put in its place
  5  there is no table that can be used
  125, 126, 127  of `run`: it failed itself, CMD cannot be run, CMD is not there; else the status of CMD

The table is the one in SNAPSHIM_DIR, by default /dev/shm/snapshim-<uid>.

Completions for bash, zsh and fish, and man pages: `make install` puts them where shells and man(1) look,
`snapshim generate DIR` writes them into a directory.";

/// Copies files as they were at one instant, while programs go on writing them.
#[derive(Debug, Parser)]
#[command(name = "snapshim", version, after_help = AFTER, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Cp(Cp),
    Cat(Cat),
    Run(Run),
    Freeze(Freeze),
    Mount(Mount),
    Umount(Umount),
    Export(Export),
    Status(Status),
    Top(Top),
    Doctor(Doctor),
    Wait(Wait),
    Drop(Drop),
    Gc(Gc),
    #[command(hide = true)]
    Generate(Generate),
}

impl Cli {
    /// What was typed. Behind `--` each argument of `cp` is a path. clap takes one that begins with a dash for an option even
    /// there, where several paths come before the last one: it gets such a path by another spelling.
    pub fn typed() -> Self {
        let mut arguments: Vec<OsString> = std::env::args_os().collect();
        if arguments.get(1).is_some_and(|command| command == "cp")
            && let Some(end) = arguments.iter().position(|argument| argument == "--")
        {
            for path in &mut arguments[end + 1..] {
                if path.as_encoded_bytes().starts_with(b"-") {
                    *path = ["./".as_ref(), path.as_os_str()].into_iter().collect();
                }
            }
        }
        Self::parse_from(arguments)
    }
}

/// Copies files and directories, all as they were at one instant.
///
/// The programs that write the files have to run under the library. They are not stopped: a write waits some microseconds while the
/// instant is chosen. A copy gets its name when it is whole, exact and on the disk. If a snapshot turns out to be doubtful or
/// broken, nothing is put in place.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Cp {
    /// Copy directories with all that is in them.
    #[arg(short, long)]
    pub recursive: bool,
    /// Say what was copied as a JSON object on standard output.
    #[arg(long)]
    pub json: bool,
    /// Copy more files than one group holds in several groups. Each group is of an instant of its own.
    #[arg(long)]
    pub split: bool,
    /// Share blocks with the source instead of copying them, where the file system can (xfs, btrfs).
    ///
    /// Only what was overwritten since the instant is copied. `auto`: where that works, else copy; `always`: or fail; `never`. A
    /// clone has the file system write what is dirty of the source first, and programs that write it wait as long.
    #[arg(
        long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_value = "never",
        default_missing_value = "always", verbatim_doc_comment
    )]
    pub reflink: Reflink,
    /// What to copy: files, block devices; directories with -r.
    #[arg(required = true, value_name = "SRC")]
    pub sources: Vec<PathBuf>,
    /// Where to: a new name, or a directory.
    #[arg(value_name = "DEST")]
    pub destination: PathBuf,
}

/// When blocks are shared with the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reflink {
    Auto,
    Always,
    Never,
}

/// Writes a file or a block device, as it was at one instant, to standard output.
///
/// The exit status says whether it was exact: a reader of the pipe has its bytes before that is known.
#[derive(Debug, Args)]
pub struct Cat {
    /// The file or the block device.
    pub source: PathBuf,
}

/// Runs a program under the library, so that it can take snapshots, and others can take snapshots of what it writes.
///
/// What the program starts runs under the library as well. A program that the library does not reach (static, of Go, of another
/// libc, setuid) is named before it starts, with the reason: its writes are in no exact snapshot.
#[derive(Debug, Args)]
pub struct Run {
    /// Have the program's mappings of matching files stay as they were when they were made (SNAPSHIM_KEEP).
    #[arg(long, value_name = "GLOB")]
    pub keep: Vec<OsString>,
    /// Start no program that the library does not reach or that could not join the table, and let it start none (SNAPSHIM_STRICT).
    #[arg(long)]
    pub strict: bool,
    /// The directory with the table in which cooperating programs meet (SNAPSHIM_DIR).
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// What is logged, and where to: off, error, warn, info or debug, json, and a file (SNAPSHIM_LOG).
    #[arg(long, value_name = "LEVEL[:FILE]")]
    pub log: Option<OsString>,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Runs a program that finds files and directories as they were at one instant, under their own names.
///
/// CMD is any program that reads: restic, borg, rsync, tar, cp, sqlite3, static ones, too. It runs in a mount namespace of its
/// own, in which a read-only view stands over the paths; all other programs see the files as they are, and go on writing them.
/// When CMD ends, the view ends. A read of what could not be preserved fails with EIO.
///
/// The exit status is that of CMD, 128 and the signal's number if a signal ended it; but 4 if a snapshot turned out to be
/// doubtful or broken, or if a path of the view was renamed, removed or replaced meanwhile (CMD may have found newer files there),
/// and 1 if there was no view to run CMD in.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Freeze {
    /// Show them there, not over their own paths: one of them in the place of MOUNT, several in MOUNT under their names.
    #[arg(long, value_name = "MOUNT")]
    pub at: Option<PathBuf>,
    /// Take more files than one group holds in several groups. Each group is of an instant of its own.
    #[arg(long)]
    pub split: bool,
    /// Directories with all that is in them, files, and block devices.
    #[arg(required = true, value_name = "DIR|FILE")]
    pub paths: Vec<PathBuf>,
    /// The program that reads, and its arguments.
    #[arg(required = true, last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Shows a directory or a file, as it was at one instant, in another place until `snapshim umount`.
///
/// Every user may read there what the modes of the files allow. Without root it needs fusermount3, and only this user may read. A
/// process stays in the background and answers; what the library logs goes to the file that SNAPSHIM_LOG names.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Mount {
    /// Stay in the foreground; SIGINT and SIGTERM unmount.
    #[arg(long)]
    pub foreground: bool,
    /// Take more files than one group holds in several groups. Each group is of an instant of its own.
    #[arg(long)]
    pub split: bool,
    /// The directory or the file.
    #[arg(value_name = "DIR|FILE")]
    pub source: PathBuf,
    /// A directory, or a file for a file, in whose place the view is to be seen.
    #[arg(value_name = "MOUNTPOINT")]
    pub place: PathBuf,
}

/// Ends a view that `snapshim mount` has made, and says (exit status 4) if it was not exact.
#[derive(Debug, Args)]
pub struct Umount {
    #[arg(value_name = "MOUNTPOINT")]
    pub place: PathBuf,
}

/// Serves a file or a block device, as it was at one instant, to clients of NBD: a disk image while a virtual machine writes it.
///
/// qemu-img, nbdcopy and virtual machines read it, as often and in whatever order they like; nobody can write. A read of what could
/// not be preserved fails with EIO, and so does each read once the snapshot is doubtful. It serves until SIGINT or SIGTERM, and
/// takes its socket away; the exit status is 4 if the snapshot turned out to be doubtful or broken by then. Other hosts that reach
/// a tcp address may read all of it.
///
/// It needs nbdkit with its file plugin, and what `snapshim freeze` needs: /dev/fuse, and root or user namespaces.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Export {
    /// The file or the block device.
    #[arg(value_name = "FILE|DEVICE")]
    pub source: PathBuf,
    /// Where it listens: unix:PATH, or tcp:ADDRESS:PORT with a number for the address, as in tcp:127.0.0.1:10809.
    #[arg(long, value_name = "unix:PATH|tcp:ADDR", value_parser = address)]
    pub nbd: Address,
}

/// Where clients connect.
#[derive(Clone, Debug)]
pub enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

fn address(text: &str) -> Result<Address, String> {
    match text.split_once(':') {
        Some(("unix", path)) if !path.is_empty() => Ok(Address::Unix(path.into())),
        Some(("tcp", address)) => address.parse().map(Address::Tcp).map_err(|error| error.to_string()),
        _ => Err("it begins neither with unix: nor with tcp:".to_owned()),
    }
}

/// Lists the processes and the snapshots in the table, and which process holds a snapshot back.
///
/// Of each snapshot it says how old it is, and why it is doubtful or broken, if it is. `file` is what the mapper's memory map says;
/// where that names no file any more, what the file was called when a snapshot of it was taken last. --json says both.
#[derive(Debug, Args)]
pub struct Status {
    /// Print a JSON object.
    #[arg(long)]
    pub json: bool,
    /// Print it again each second.
    #[arg(long)]
    pub watch: bool,
}

/// Shows processes, snapshots and files on the whole terminal, each second anew: what `snapshim status` lists, and more.
///
/// `q`, Esc and Ctrl-C end it; the arrows scroll the snapshots. A snapshot is ended by its number: `snapshim drop ID`.
#[derive(Debug, Args)]
pub struct Top {}

/// Says what is well for snapshots and what is not, and what to do about it.
///
/// Without an argument: of this machine. PROGRAM, by its path or as the shell finds it: whether the library reaches it. PID:
/// whether the library is in the process, and what it can change unseen. FILE, or a block device: whether there can be snapshots
/// of it, and which processes change it without the library; where there is a table, a snapshot is taken and given back.
///
/// The exit status is 0 if all is well, 3 if something is not covered, 4 if snapshots are or would be doubtful, 5 if there is no
/// table that can be used, 1 if there can be no snapshot.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Doctor {
    /// Print a JSON object.
    #[arg(long)]
    pub json: bool,
    /// A program, the number of a process, a file or a block device (./123 for a file of that name).
    #[arg(value_name = "PROGRAM|PID|FILE")]
    pub subject: Option<PathBuf>,
}

/// Waits until no snapshot of a file is held.
///
/// From then on a write to the file costs nothing for snapshots. Other snapshots of it may be taken at any time: to keep a file as
/// it is, stop its writers. Ends with 1 if the time is over before; the processes that hold snapshots are named.
#[derive(Debug, Args)]
pub struct Wait {
    /// So many seconds at most; without it, as long as it takes.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// The file or the block device.
    pub file: PathBuf,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "not a number of seconds".to_owned())
}

/// Ends snapshots for good, in whatever process of this user: its writers are free of them at once.
///
/// The snapshot becomes broken, with the cause that it was dropped by hand: a program that reads it gets SIGBUS, as of any broken
/// snapshot, and snapshim_check() and snapshim_why() say why. It is never left to show newer bytes. A snapshot that children have
/// inherited ends in all of them. Its number is in the column `id` of `snapshim status`.
///
/// The exit status is 3 if only some could be dropped, and 1 if none could.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Drop {
    /// All snapshots in the table.
    #[arg(long, conflicts_with = "snapshots")]
    pub all: bool,
    /// Print a JSON object.
    #[arg(long)]
    pub json: bool,
    /// The numbers of the snapshots.
    #[arg(value_name = "ID", required_unless_present = "all")]
    pub snapshots: Vec<String>,
}

/// Takes out of the table what dead processes left in it.
///
/// Every process does that when it meets one of them. This does it for all of them at once.
#[derive(Debug, Args)]
#[command(visible_alias = "recover")]
pub struct Gc {}

/// Writes the man pages and the completions for shells into a directory.
#[derive(Debug, Args)]
pub struct Generate {
    /// The directory; it is made.
    pub directory: PathBuf,
}

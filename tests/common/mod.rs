//! What the integration tests share: the library, the C programs, directories on both file systems, and running a program natively
//! or under the shim.

#[cfg(target_arch = "x86_64")]
pub mod aftermath;
pub mod busy;
pub mod holder;
#[cfg(target_arch = "x86_64")]
pub mod scene;
pub mod stamps;
pub mod suspend;
#[cfg(target_arch = "x86_64")]
pub mod tracer;

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The two ways of preserving that every test runs.
pub const WAYS: [&str; 2] = ["direct", "agent"];

/// The library under test, built by `make`.
pub fn library() -> PathBuf {
    let library = root().join("target/release/libsnapshim.so");
    assert!(library.exists(), "{} is missing: run `make` first", library.display());
    library
}

/// The command, built by `make`.
pub fn command() -> PathBuf {
    let command = root().join("target/release/snapshim");
    assert!(command.exists(), "{} is missing: run `make` first", command.display());
    command
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Where the compiled programs of the tests are, in folders as their sources.
pub fn made_programs() -> PathBuf {
    root().join("target/test-programs")
}

/// What a program of the tests is made from, or is itself if it is a script.
pub fn source(name: &str) -> PathBuf {
    root().join("tests/programs").join(name)
}

/// Compiles tests/programs/NAME.c, or what is in a folder of that name; once for all processes of the tests. NAME is
/// `folder/program`.
///
/// A NAME.c with a NAME.h beside it is no program, but a part of those programs that include NAME.h: of its own folder, or of all
/// folders if it is in tests/programs/common.
pub fn program(name: &str) -> PathBuf {
    compile(name, &[])
}

/// Compiles it with further arguments for gcc.
pub fn compile(name: &str, arguments: &[&str]) -> PathBuf {
    fs::create_dir_all(made_programs()).unwrap();
    // Other processes of the tests may want the same program.
    let lock = fs::File::create(made_programs().join("lock")).unwrap();
    lock.lock().unwrap();
    let is_folder = source(name).is_dir();
    let file = if is_folder { source(name) } else { source(&format!("{name}.c")) };
    let sources = if is_folder { ending_in("c", &file) } else { vec![file.clone()] };
    let folder = name.split('/').next().unwrap();
    let parts: Vec<PathBuf> = [folder, "common"].into_iter().filter_map(parts).collect();
    let headers =
        [file.parent().unwrap(), &file, &source("common")].map(|directory| ending_in("h", directory)).concat();
    let made = made_programs().join(format!("{name}{}", arguments.concat().replace(['/', ' ', '='], "_")));
    if is_older(&made, &[&sources, &headers, &parts]) {
        // A global name of a program takes the place of the same name in no library.
        let visibility = if arguments.contains(&"-shared") { "default" } else { "hidden" };
        make(&made, |partial| {
            // Functions of these libraries are in libc itself from 2.34 on.
            let libraries = if arguments.contains(&"-nostdlib") { &[][..] } else { &["-lrt", "-ldl", "-lutil"] };
            let mut gcc = gcc(visibility);
            gcc.arg("-o").arg(partial).args(&sources).args(&parts).args(arguments).args(libraries).status()
        });
    }
    made
}

/// The parts that a folder's programs share, as a library; `None` if there are none.
fn parts(folder: &str) -> Option<PathBuf> {
    let has_header = |part: &PathBuf| part.with_extension("h").exists();
    let sources: Vec<PathBuf> = ending_in("c", &source(folder)).into_iter().filter(has_header).collect();
    let headers = [source(folder), source("common")].map(|directory| ending_in("h", &directory)).concat();
    let made = made_programs().join(folder).join("parts.a");
    if !sources.is_empty() && is_older(&made, &[&sources, &headers]) {
        fs::create_dir_all(made.parent().unwrap()).unwrap();
        let object = |part: &PathBuf| {
            let object = made.with_file_name(part.file_name().unwrap()).with_extension("o");
            make(&object, |partial| gcc("hidden").args(["-fPIC", "-c", "-o"]).arg(partial).arg(part).status());
            object
        };
        let objects: Vec<PathBuf> = sources.iter().map(object).collect();
        make(&made, |partial| Command::new("ar").arg("rcs").arg(partial).args(&objects).status());
    }
    (!sources.is_empty()).then_some(made)
}

/// Whether a file is missing, or older than one of those that it is made from.
fn is_older(made: &Path, from: &[&[PathBuf]]) -> bool {
    let changed = |path: &PathBuf| fs::metadata(path).and_then(|found| found.modified()).ok();
    let api = root().join("shim/include/snapshim.h");
    changed(&made.to_path_buf()) <= from.iter().copied().flatten().chain([&api]).filter_map(changed).max()
}

/// Has a file made, under another name first: a run that is killed leaves nothing that is half done.
fn make(made: &Path, by: impl FnOnce(&Path) -> io::Result<ExitStatus>) {
    let partial = made.with_extension("partial");
    fs::create_dir_all(made.parent().unwrap()).unwrap();
    let _ = fs::remove_file(&partial);
    assert!(by(&partial).expect("a compiler").success(), "{} does not compile", made.display());
    fs::rename(&partial, made).unwrap();
}

fn gcc(visibility: &str) -> Command {
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]);
    gcc.arg(format!("-fvisibility={visibility}"));
    gcc.arg("-I").arg(root().join("shim/include")).arg("-I").arg(source("common"));
    if has_older_libc() {
        gcc.arg("-include").arg(source("common/older_libc.h"));
    }
    gcc
}

/// Whether libc lacks functions that the programs use.
fn has_older_libc() -> bool {
    static OLDER: LazyLock<bool> = LazyLock::new(|| glibc_minor() < 36);
    *OLDER
}

/// The second number of glibc's version.
pub fn glibc_minor() -> u32 {
    let said = run_ok(Command::new("ldd").arg("--version"));
    let minor = said.lines().next().and_then(|line| line.rsplit_once("2.")?.1.parse().ok());
    minor.unwrap_or_else(|| panic!("a version of glibc: {said}"))
}

fn ending_in(extension: &str, directory: &Path) -> Vec<PathBuf> {
    let inside = fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    inside.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

/// A name that no test had before: a run that was killed leaves its directories behind, and process ids come again.
pub fn new_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    format!("snapshim-test-{}-{}-{time:x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A copy of a program that can be executed at once: what other threads fork meanwhile has no descriptor that writes it (ETXTBSY),
/// because another process copies.
pub fn copy_program(original: &Path, copy: &Path) {
    run_ok(Command::new("cp").arg(original).arg(copy));
}

/// A directory of its own, with a table of its own, removed at the end.
pub struct Scratch {
    pub path: PathBuf,
    table: PathBuf,
}

/// The file systems that every test runs on: ext4 (or whatever the build directory is on) and tmpfs.
pub fn scratches() -> [Scratch; 2] {
    [Scratch::new(&root().join("target/scratch")), Scratch::new(Path::new("/dev/shm"))]
}

impl Scratch {
    pub fn new(base: &Path) -> Self {
        fs::create_dir_all(base).unwrap();
        loop {
            let name = new_name();
            let path = base.join(&name);
            match fs::create_dir(&path) {
                Ok(()) => {
                    let table = Path::new("/dev/shm").join(format!("{name}-table"));
                    make_table_directory(&table);
                    return Self { path, table };
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}: {error}", path.display()),
            }
        }
    }

    pub fn on_tmpfs() -> Self {
        Self::new(Path::new("/dev/shm"))
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn table(&self) -> &Path {
        &self.table
    }

    /// Has the next program make a table.
    pub fn forget_table(&self) {
        let _ = fs::remove_dir_all(&self.table);
        make_table_directory(&self.table);
    }

    /// A program under the shim, on this scratch's table, preserving in `way`. No process is refused anything because a busy
    /// machine was slow: a test that wants a refusal sets a shorter time.
    pub fn shimmed(&self, program: impl AsRef<OsStr>, way: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("LD_PRELOAD", library())
            .env("SNAPSHIM_DIR", &self.table)
            .env("SNAPSHIM_PUSH", way)
            .env("SNAPSHIM_TIMEOUT_MS", "60000")
            .current_dir(&self.path)
            .stdin(Stdio::null());
        command
    }

    /// The command, in this directory and with its table.
    pub fn snapshim(&self) -> Command {
        let mut snapshim = self.native(command());
        snapshim.env("SNAPSHIM_DIR", &self.table).env("SNAPSHIM_TIMEOUT_MS", "60000");
        snapshim
    }

    /// The same program without the shim.
    pub fn native(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.path).stdin(Stdio::null());
        command
    }
}

/// Runs a scenario natively, where the flag is ignored and the mapping is a plain one: one that succeeds proves nothing. What waits
/// for something that only the shim brings about ends soon.
pub fn fails_natively(name: &str, scenario: &str) {
    let scratch = Scratch::on_tmpfs();
    let output = run(scratch.native(program(name)).arg(scenario).env("SCENARIO_SECONDS", "10"));
    assert!(!output.status.success(), "{name} {scenario} does not need the shim: {}", text(&output));
}

/// A program that has to make it says so.
pub fn make_table_directory(path: &Path) {
    fs::DirBuilder::new().mode(0o700).create(path).unwrap();
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        let _ = fs::remove_dir_all(&self.table);
    }
}

/// Does all of them side by side: what waits most of the time takes no longer than the longest of them.
pub fn each_at_once<T: Send>(all: impl IntoIterator<Item = T>, act: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for one in all {
            scope.spawn(|| act(one));
        }
    });
}

/// What takes longer hangs. Nothing takes a tenth of that on an idle machine; a busy one is no reason to fail.
const LONGEST: Duration = Duration::from_secs(300);

/// The same for a command that keeps the disk or a processor busy.
pub const DISK: Duration = Duration::from_secs(600);

/// Waits for what has to come about, and comes about within a second where there is little to do.
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < LONGEST, "{what}: not within {LONGEST:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command that has to end; its output.
pub fn run(command: &mut Command) -> Output {
    run_within(command, LONGEST)
}

/// With all that it started, if they stay in its process group, the command is killed at the limit: what is left would keep its
/// output open.
pub fn run_within(command: &mut Command, limit: Duration) -> Output {
    wait_within(command.process_group(0), limit, |pid| -pid)
}

/// As `run_within`, but the command is in the group of the tests' runner, as a shell that controls jobs on a terminal has to be.
pub fn run_in_this_group(command: &mut Command, limit: Duration) -> Output {
    wait_within(command, limit, |pid| pid)
}

/// `whom` is killed at the limit, given the process id.
fn wait_within(command: &mut Command, limit: Duration, whom: impl FnOnce(i32) -> i32) -> Output {
    let shown = format!("{command:?}");
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
    let victim = whom(child.id() as i32);
    let started = Instant::now();
    let (done, watch) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if watch.recv_timeout(limit).is_err() {
            // SAFETY: kill(2) of our own child, which has not been waited for yet, or of its group.
            unsafe { libc::kill(victim, libc::SIGKILL) };
        }
    });
    let output = child.wait_with_output().unwrap();
    let _ = done.send(());
    guard.join().unwrap();
    assert!(started.elapsed() < limit, "{shown} took longer than {limit:?}: {}", text(&output));
    output
}

/// Runs a command that has to succeed; its standard output.
pub fn run_ok(command: &mut Command) -> String {
    run_ok_within(command, LONGEST)
}

pub fn run_ok_within(command: &mut Command, limit: Duration) -> String {
    let shown = format!("{command:?}");
    let output = run_within(command, limit);
    assert!(output.status.success(), "{shown}: {}: {}", output.status, text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Both outputs, for a failure's message.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether a program is found along PATH, or where root's programs are.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).any(|file| file.is_file())
}

/// The same of several; a test that is skipped says which one is missing.
pub fn are_installed(test: &str, programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| !is_installed(program));
    if let Some(program) = missing {
        skip(test, &format!("{program} is not installed; `make setup` installs what it can"));
    }
    missing.is_none()
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    // SAFETY: geteuid(2) cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// The same; a test that is skipped says why it needs root.
pub fn is_root_for(test: &str, why: &str) -> bool {
    if !is_root() {
        skip(test, why);
    }
    is_root()
}

/// Says aloud that a test could not run here; `make test` counts these lines.
pub fn skip(test: &str, why: &str) {
    eprintln!("SKIPPED {test}: {why}");
}

//! The environment variables, read once per process.
//!
//! Values stay in the memory that they were read to, which is never given back. A value that cannot be used is noted, so that the
//! log can name it.

use core::ffi::CStr;

use once_cell::race::OnceRef;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use snapshim::preserve::policy::{OnFailure, PushMode};
use snapshim::sys::stack_str::StackStr;

use super::environment::{Environment, leak};
use super::{standard_error, variables};

/// Which lines are logged: those of this level and of the levels before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
}

impl Level {
    /// As `SNAPSHIM_LOG` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    /// A JSON object.
    Json,
}

/// What is mapped past the end of a file that is shorter, at the instant, than its reader was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// Pages that raise SIGBUS, as of any mapping of a file.
    Sigbus,
    /// Pages of zeros.
    Zero,
    /// Nothing: the mapping fails with ENXIO.
    Refuse,
}

/// What the environment asks for, with defaults in place of what is not set.
#[derive(Debug)]
pub struct Config {
    /// `SNAPSHIM_DISABLE=1`
    pub is_disabled: bool,
    /// `SNAPSHIM_DIR`
    pub directory: &'static CStr,
    /// Whether `directory` is not the default.
    pub is_directory_chosen: bool,
    /// `SNAPSHIM_FILES`, patterns separated by colons; empty if unset.
    pub files: &'static [u8],
    /// `SNAPSHIM_SHARED_FILES`: the same for shared mappings that can only be read.
    pub shared_files: &'static [u8],
    /// `SNAPSHIM_KEEP`: the same for both kinds of mapping.
    pub keep: &'static [u8],
    /// `SNAPSHIM_GUARD_FILES`: mappings of these files stay live, and keep what a truncation takes away.
    pub guard_files: &'static [u8],
    /// `SNAPSHIM_SHORT`
    pub short: Short,
    /// `SNAPSHIM_PUSH`
    pub push_mode: PushMode,
    /// `SNAPSHIM_ON_FAILURE`
    pub on_failure: OnFailure,
    /// `SNAPSHIM_IO_URING=allow`
    pub allows_rings: bool,
    /// `SNAPSHIM_IO_URING=seccomp`
    pub filters_rings: bool,
    /// `SNAPSHIM_ANYFS=1`
    pub takes_any_file_system: bool,
    /// `SNAPSHIM_CLAIM=1`
    pub claims_devices: bool,
    /// `SNAPSHIM_FANOTIFY=1`
    pub reads_notices: bool,
    /// `SNAPSHIM_STRICT=1`
    pub is_strict: bool,
    /// `SNAPSHIM_SHARED=eager`
    pub opens_eagerly: bool,
    /// `SNAPSHIM_CHUNK_KB`, in pages.
    pub chunk: u64,
    /// `SNAPSHIM_TIMEOUT_MS`, in nanoseconds.
    pub timeout: u64,
    /// `SNAPSHIM_LOG`
    pub log: Log,
    /// The values that cannot be used.
    pub unusable: [Option<Unusable>; 16],
    /// Names that are no variable's, but look like one's.
    pub unknown: [Option<&'static [u8]>; 8],
}

/// `SNAPSHIM_LOG`: which lines are written, how and where.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    pub level: Level,
    pub format: Format,
    /// `None`: to standard error.
    pub path: Option<&'static CStr>,
}

/// A value that cannot be used, and what is used instead.
#[derive(Debug)]
pub struct Unusable {
    pub name: &'static str,
    pub value: &'static [u8],
    pub instead: &'static str,
}

static CONFIG: OnceRef<'static, Config> = OnceRef::new();

const DIRECTORY: &str = "SNAPSHIM_DIR";
const DEFAULT_TIMEOUT_MS: u64 = 2000;
const LONGEST_TIMEOUT_MS: u64 = 60_000;
const DEFAULT_CHUNK_KB: u64 = 64;
const LARGEST_CHUNK_KB: u64 = 2048;

/// The configuration of this process, read at the first call.
pub fn config() -> &'static Config {
    CONFIG.get().unwrap_or_else(read)
}

#[cold]
fn read() -> &'static Config {
    let config = leak(parse(&Environment::read()));
    let _ = CONFIG.set(config);
    CONFIG.get().unwrap_or(config)
}

fn parse(environment: &Environment) -> Config {
    let mut values = Values { environment, unusable: [const { None }; 16] };
    let rings = values.choose("SNAPSHIM_IO_URING", &["deny", "allow", "seccomp"]);
    let log = values.log();
    let is_disabled = values.choose("SNAPSHIM_DISABLE", &["0", "1", ""]) == 1;
    let chosen = values.directory();
    if !is_disabled {
        values.complain_of_disobeyed_directory();
    }
    Config {
        is_disabled,
        directory: chosen.unwrap_or_else(default_directory),
        is_directory_chosen: chosen.is_some(),
        files: values.patterns("SNAPSHIM_FILES"),
        shared_files: values.patterns("SNAPSHIM_SHARED_FILES"),
        keep: values.patterns("SNAPSHIM_KEEP"),
        guard_files: values.patterns("SNAPSHIM_GUARD_FILES"),
        short: [Short::Sigbus, Short::Zero, Short::Refuse]
            [values.choose("SNAPSHIM_SHORT", &["sigbus", "zero", "refuse"])],
        push_mode: [PushMode::Auto, PushMode::Direct, PushMode::Agent]
            [values.choose("SNAPSHIM_PUSH", &["auto", "direct", "agent"])],
        on_failure: [OnFailure::BreakSnapshot, OnFailure::FailWrite]
            [values.choose("SNAPSHIM_ON_FAILURE", &["break-snapshot", "fail-write"])],
        allows_rings: rings == 1,
        filters_rings: rings == 2,
        takes_any_file_system: values.is_set("SNAPSHIM_ANYFS"),
        claims_devices: values.is_set("SNAPSHIM_CLAIM"),
        reads_notices: values.is_set("SNAPSHIM_FANOTIFY"),
        is_strict: values.is_set("SNAPSHIM_STRICT"),
        opens_eagerly: values.choose("SNAPSHIM_SHARED", &["trap", "eager"]) == 1,
        chunk: values.chunk_kb() * 1024 / snapshim::PAGE,
        timeout: values.timeout_ms() * 1_000_000,
        log,
        unusable: values.unusable,
        unknown: unknown_names(environment),
    }
}

/// The first names that look like variables' and are none.
fn unknown_names(environment: &Environment) -> [Option<&'static [u8]>; 8] {
    let mut names = environment.names().filter(|name| !variables::is_known(name));
    core::array::from_fn(|_| names.next())
}

/// The variables' values, and which of them cannot be used.
struct Values<'a> {
    environment: &'a Environment,
    unusable: [Option<Unusable>; 16],
}

impl Values<'_> {
    fn complain(&mut self, name: &'static str, value: &'static [u8], instead: &'static str) {
        if let Some(free) = self.unusable.iter_mut().find(|entry| entry.is_none()) {
            *free = Some(Unusable { name, value, instead });
        }
    }

    /// Which of `choices` a variable names; the first is the default.
    fn choose(&mut self, name: &'static str, choices: &[&'static str]) -> usize {
        let Some(value) = self.environment.get(name) else { return 0 };
        choices.iter().position(|choice| choice.as_bytes() == value).unwrap_or_else(|| {
            self.complain(name, value, choices[0]);
            0
        })
    }

    fn is_set(&mut self, name: &'static str) -> bool {
        self.choose(name, &["0", "1"]) == 1
    }

    /// The number that a variable has, if that `is_possible`.
    fn number(
        &mut self,
        name: &'static str,
        is_possible: impl Fn(u64) -> bool,
        default: u64,
        instead: &'static str,
    ) -> u64 {
        let Some(value) = self.environment.get(name) else { return default };
        let number = core::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        number.filter(|number| is_possible(*number)).unwrap_or_else(|| {
            self.complain(name, value, instead);
            default
        })
    }

    fn timeout_ms(&mut self) -> u64 {
        let is_possible = |ms| (1..=LONGEST_TIMEOUT_MS).contains(&ms);
        self.number("SNAPSHIM_TIMEOUT_MS", is_possible, DEFAULT_TIMEOUT_MS, "2000 (1 to 60000 are possible)")
    }

    fn chunk_kb(&mut self) -> u64 {
        let is_possible = |kb: u64| kb.is_power_of_two() && (4..=LARGEST_CHUNK_KB).contains(&kb);
        let instead = "64 (powers of two from 4 to 2048 are possible)";
        self.number("SNAPSHIM_CHUNK_KB", is_possible, DEFAULT_CHUNK_KB, instead)
    }

    /// `SNAPSHIM_LOG`: a level, `json`, or both with a comma between, and behind a colon the path of a file.
    fn log(&mut self) -> Log {
        const NAME: &str = "SNAPSHIM_LOG";
        const LEVELS: [Level; 5] = [Level::Off, Level::Error, Level::Warn, Level::Info, Level::Debug];
        let mut log = Log { level: Level::Warn, format: Format::Text, path: None };
        let Some(value) = self.environment.get(NAME) else { return log };
        let colon = value.iter().position(|byte| *byte == b':');
        let (words, path) = colon.map_or((value, None), |at| (&value[..at], c_str(&value[at + 1..])));
        match path.filter(|path| !path.is_empty()).map(log_file) {
            None => {}
            Some(Ok(file)) => log.path = file,
            Some(Err(instead)) => self.complain(NAME, value, instead),
        }
        for word in words.split(|byte| *byte == b',') {
            match LEVELS.iter().find(|level| level.name().as_bytes() == word) {
                Some(level) => log.level = *level,
                None if word == b"json" => log.format = Format::Json,
                None => {
                    self.complain(NAME, value, "warn (off, error, warn, info, debug and json are possible)");
                    log.level = Level::Warn;
                    break;
                }
            }
        }
        log
    }

    fn patterns(&mut self, name: &'static str) -> &'static [u8] {
        let patterns = self.environment.get(name).unwrap_or(b"");
        if patterns.split(|byte| *byte == b':').any(is_left_open) {
            self.complain(name, patterns, "its patterns that leave no [ or { open");
        }
        patterns
    }

    /// `SNAPSHIM_DIR`, if it is set to a path that can be used.
    fn directory(&mut self) -> Option<&'static CStr> {
        let value = self.environment.get(DIRECTORY)?;
        let usable = c_str(value).filter(|path| path.to_bytes().first() == Some(&b'/'));
        if usable.is_none() {
            self.complain(DIRECTORY, value, "the default (an absolute path is needed)");
        }
        usable
    }

    /// Says that `SNAPSHIM_DIR` is set and not obeyed: without it the process takes part with others than its caller expects.
    fn complain_of_disobeyed_directory(&mut self) {
        if let Some(value) = self.environment.get_disobeyed(DIRECTORY) {
            let instead = "the default (a program with more rights than its caller obeys SNAPSHIM_DISABLE alone)";
            self.complain(DIRECTORY, value, instead);
        }
    }
}

/// Whether a pattern has a class or an alternative that does not end: such a pattern matches nothing.
pub fn is_left_open(pattern: &[u8]) -> bool {
    let unclosed = |open, close| {
        let last = pattern.iter().rposition(|byte| *byte == open);
        last.is_some_and(|at| !pattern[at..].contains(&close))
    };
    unclosed(b'[', b']') || unclosed(b'{', b'}')
}

/// The C string that `value` is: the byte behind it is the NUL that ends the variable.
fn c_str(value: &'static [u8]) -> Option<&'static CStr> {
    // SAFETY: `value` is a tail of one variable in `Environment::bytes`, where every variable is followed by a NUL.
    let with_nul = unsafe { core::slice::from_raw_parts(value.as_ptr(), value.len() + 1) };
    CStr::from_bytes_with_nul(with_nul).ok()
}

/// /dev/shm/snapshim-UID.
fn default_directory() -> &'static CStr {
    leak(StackStr::<48>::whole(format_args!("/dev/shm/snapshim-{}", snapshim::table::attach::outer_user()))).as_c_str()
}

/// The file at `path`, if the log can be written to it; `None` inside: it is standard error. The error is what is used instead.
///
/// A FIFO is refused, and so is a socket: without a reader, or with one that is slow, lines would be waited for or lost.
fn log_file(path: &'static CStr) -> Result<Option<&'static CStr>, &'static str> {
    const NO_FILE: &str = "standard error (a FIFO or socket is no log: name a file)";
    standard_error::note();
    if rustix::fs::stat(path).is_ok_and(|stat| !is_log(&stat) && standard_error::is_it(&stat)) {
        return Ok(None);
    }
    match open_log(path).and_then(rustix::fs::fstat) {
        Ok(stat) if is_log(&stat) => Ok(Some(path)),
        Ok(_) | Err(Errno::NXIO) => Err(NO_FILE),
        Err(_) => Err("standard error (the file cannot be opened)"),
    }
}

/// Whether a file is one that the log may be written to: no writer of it waits for a reader.
pub fn is_log(stat: &Stat) -> bool {
    matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::CharacterDevice)
}

/// Opens the log file, and makes it if there is none. The open of a FIFO does not wait.
pub fn open_log(path: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o600))
}

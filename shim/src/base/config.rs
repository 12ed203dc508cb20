//! The environment variables, read once per process.
//!
//! Values stay where they were read to: in memory that is never given back. A value that cannot be used is kept, for the log to say.

use core::ffi::CStr;

use once_cell::race::OnceRef;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use snapshim::preserve::policy::{OnFailure, Way};

use super::environment::{Environment, leak};

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
}

/// What the environment says, defaults filled in.
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
    /// `SNAPSHIM_SHARED_FILES`, the same for read-only shared mappings.
    pub shared_files: &'static [u8],
    /// `SNAPSHIM_PUSH`
    pub way: Way,
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
    /// `SNAPSHIM_LOG`, before the colon.
    pub level: Level,
    /// `SNAPSHIM_LOG`, behind the colon.
    pub log_path: Option<&'static CStr>,
    /// What cannot be used.
    pub unusable: [Option<Unusable>; 16],
}

/// A value that cannot be used, and what is used instead.
#[derive(Debug)]
pub struct Unusable {
    pub name: &'static str,
    pub value: &'static [u8],
    pub instead: &'static str,
}

static CONFIG: OnceRef<'static, Config> = OnceRef::new();

const DEFAULT_TIMEOUT_MS: u64 = 2000;
const LONGEST_TIMEOUT_MS: u64 = 60_000;
const DEFAULT_CHUNK_KB: u64 = 64;
const LARGEST_CHUNK_KB: u64 = 2048;

/// The configuration of this process.
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
    let mut unusable: [Option<Unusable>; 16] = [const { None }; 16];
    let mut complain = |name, value, instead| {
        if let Some(free) = unusable.iter_mut().find(|entry| entry.is_none()) {
            *free = Some(Unusable { name, value, instead });
        }
    };
    let mut choose = |name, choices: &[&'static str], default: usize| match environment.get(name) {
        None => default,
        Some(value) => choices.iter().position(|choice| choice.as_bytes() == value).unwrap_or_else(|| {
            complain(name, value, choices[default]);
            default
        }),
    };
    let way = [Way::Auto, Way::Direct, Way::Agent][choose("SNAPSHIM_PUSH", &["auto", "direct", "agent"], 0)];
    let on_failure = [OnFailure::BreakSnapshot, OnFailure::FailWrite]
        [choose("SNAPSHIM_ON_FAILURE", &["break-snapshot", "fail-write"], 0)];
    let is_disabled = choose("SNAPSHIM_DISABLE", &["0", "1", ""], 0) == 1;

    let rings = choose("SNAPSHIM_IO_URING", &["deny", "allow", "seccomp"], 0);
    let (allows_rings, filters_rings) = (rings == 1, rings == 2);

    let opens_eagerly = choose("SNAPSHIM_SHARED", &["trap", "eager"], 0) == 1;
    let takes_any_file_system = choose("SNAPSHIM_ANYFS", &["0", "1"], 0) == 1;
    let claims_devices = choose("SNAPSHIM_CLAIM", &["0", "1"], 0) == 1;
    let reads_notices = choose("SNAPSHIM_FANOTIFY", &["0", "1"], 0) == 1;
    let is_strict = choose("SNAPSHIM_STRICT", &["0", "1"], 0) == 1;

    let timeout_ms = environment.get("SNAPSHIM_TIMEOUT_MS").map_or(DEFAULT_TIMEOUT_MS, |value| {
        let number = core::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        number.filter(|ms| (1..=LONGEST_TIMEOUT_MS).contains(ms)).unwrap_or_else(|| {
            complain("SNAPSHIM_TIMEOUT_MS", value, "2000 (1 to 60000 are possible)");
            DEFAULT_TIMEOUT_MS
        })
    });

    let chunk = environment.get("SNAPSHIM_CHUNK_KB").map_or(DEFAULT_CHUNK_KB, |value| {
        let number = core::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
        number.filter(|kb| kb.is_power_of_two() && (4..=LARGEST_CHUNK_KB).contains(kb)).unwrap_or_else(|| {
            complain("SNAPSHIM_CHUNK_KB", value, "64 (powers of two from 4 to 2048 are possible)");
            DEFAULT_CHUNK_KB
        })
    });

    let (level, log_path) = environment.get("SNAPSHIM_LOG").map_or((Level::Warn, None), |value| {
        let colon = value.iter().position(|byte| *byte == b':');
        let (level, path) = colon.map_or((value, None), |at| (&value[..at], c_str(&value[at + 1..])));
        let names: [(&[u8], Level); 5] = [
            (b"off", Level::Off),
            (b"error", Level::Error),
            (b"warn", Level::Warn),
            (b"info", Level::Info),
            (b"debug", Level::Debug),
        ];
        let found = names.iter().find(|(name, _)| *name == level).map(|(_, level)| *level);
        let path = path.filter(|path| !path.is_empty());
        let path = path.filter(|path| {
            let usable = open(path).is_ok();
            if !usable {
                complain("SNAPSHIM_LOG", value, "standard error");
            }
            usable
        });
        (
            found.unwrap_or_else(|| {
                complain("SNAPSHIM_LOG", value, "warn (off, error, warn, info and debug are possible)");
                Level::Warn
            }),
            path,
        )
    });

    let [files, shared_files] = ["SNAPSHIM_FILES", "SNAPSHIM_SHARED_FILES"].map(|name| {
        let patterns = environment.get(name).unwrap_or(b"");
        if patterns.split(|byte| *byte == b':').any(is_left_open) {
            complain(name, patterns, "its patterns that leave no [ or { open");
        }
        patterns
    });

    let chosen = environment.get("SNAPSHIM_DIR").and_then(|value| {
        let usable = c_str(value).filter(|path| path.to_bytes().first() == Some(&b'/'));
        if usable.is_none() {
            complain("SNAPSHIM_DIR", value, "the default (an absolute path is needed)");
        }
        usable
    });
    Config {
        is_disabled,
        directory: chosen.unwrap_or_else(default_directory),
        is_directory_chosen: chosen.is_some(),
        files,
        shared_files,
        way,
        on_failure,
        allows_rings,
        filters_rings,
        takes_any_file_system,
        claims_devices,
        reads_notices,
        is_strict,
        opens_eagerly,
        chunk: chunk * 1024 / snapshim::PAGE,
        timeout: timeout_ms * 1_000_000,
        level,
        log_path,
        unusable,
    }
}

/// Whether a pattern has a class or an alternative that does not end: it would match nothing.
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

fn default_directory() -> &'static CStr {
    struct Path {
        bytes: [u8; 48],
        length: usize,
    }
    impl core::fmt::Write for Path {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            for byte in text.bytes() {
                self.bytes[self.length] = byte;
                self.length += 1;
            }
            Ok(())
        }
    }
    let mut path = Path { bytes: [0; 48], length: 0 };
    let _ = core::fmt::write(&mut path, format_args!("/dev/shm/snapshim-{}", snapshim::table::attach::outer_user()));
    CStr::from_bytes_until_nul(&leak(path).bytes).unwrap_or(c"/dev/shm/snapshim")
}

/// Opens the log file, making it if need be.
pub fn open(path: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))
}

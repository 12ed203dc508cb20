//! The preload library: where it is, whether it is in this process, and its functions.

use std::env;
use std::ffi::{CStr, OsString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Code, Failure, Outcome, shown, words};
use crate::table;

const FILE_NAME: &str = "libsnapshim.so";

/// Where the library is: as SNAPSHIM_LIBRARY has it, else as it was installed with this command, else beside it.
pub fn path() -> Outcome<PathBuf> {
    let path = find()?;
    // ld.so(8) takes both for the end of a name, and has no way to say them.
    if path.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b' ' | b':' | b'\n' | b'\t')) {
        return Err(Failure::failed(
            format!(
                "the library {} cannot be preloaded: LD_PRELOAD can hold no path with a space or a colon",
                shown(&path)
            ),
            "install it elsewhere, or set SNAPSHIM_LIBRARY",
        ));
    }
    Ok(path)
}

fn find() -> Outcome<PathBuf> {
    if let Some(chosen) = env::var_os("SNAPSHIM_LIBRARY").filter(|chosen| !chosen.is_empty()) {
        let chosen = PathBuf::from(chosen);
        return chosen.canonicalize().map_err(|error| {
            Failure::failed(
                format!("SNAPSHIM_LIBRARY={}: {}", shown(&chosen), words(&error)),
                "set it to the path of libsnapshim.so, or unset it",
            )
        });
    }
    let own = env::current_exe().map_err(|error| Failure::new(Code::Failed, format!("cannot find myself: {error}")))?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    let places = [folder.join("../lib").join(FILE_NAME), folder.join(FILE_NAME)];
    places.iter().find_map(|place| place.canonicalize().ok()).ok_or_else(|| {
        let names = places.map(|place| shown(&place)).join(" nor ");
        Failure::failed(format!("the library is neither {names}"), "install it (make install), or set SNAPSHIM_LIBRARY")
    })
}

/// What LD_PRELOAD becomes with the library in front: another build of it is taken out.
pub fn preload(library: &Path) -> OsString {
    let mut preload = OsString::from(library);
    let before = env::var_os("LD_PRELOAD").unwrap_or_default();
    let entries = before.as_bytes().split(|byte| matches!(byte, b' ' | b':')).filter(|entry| !entry.is_empty());
    let is_library = |entry: &[u8]| entry.ends_with(FILE_NAME.as_bytes()) || entry == library.as_os_str().as_bytes();
    for entry in entries.filter(|entry| !is_library(entry)) {
        preload.push(":");
        preload.push(std::ffi::OsStr::from_bytes(entry));
    }
    preload
}

/// States of `struct snapshim_stat`.
pub const EXACT: c_int = 0;
pub const DOUBTFUL: c_int = 1;
pub const BROKEN: c_int = 2;

/// `struct snapshim_stat` of snapshim.h.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Stat {
    pub state: c_int,
    pub cause: c_int,
    pub size: u64,
    pub pages: u64,
    pub preserved: u64,
    pub held: u64,
}

/// `struct snapshim_map` of snapshim.h.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Map {
    pub fd: c_int,
    pub prot: c_int,
    pub offset: libc::off_t,
    pub length: usize,
    pub address: *mut c_void,
    pub flags: c_int,
    pub error: c_int,
}

/// The functions of the library in this process.
#[derive(Clone, Copy, Debug)]
pub struct Library {
    stat: StatFunction,
    check: CheckFunction,
    mapv: MapFunction,
    why: WhyFunction,
    drop: DropFunction,
}

type StatFunction = unsafe extern "C" fn(*const c_void, *mut Stat) -> c_int;
type CheckFunction = unsafe extern "C" fn(*const c_void, c_int, *mut Stat) -> c_int;
type WhyFunction = unsafe extern "C" fn(*const c_void, *mut c_char, usize) -> c_int;
type DropFunction = unsafe extern "C" fn(u64, *mut u32) -> c_int;
type MapFunction = unsafe extern "C" fn(*mut Map, c_int) -> c_int;

impl Library {
    /// The library in this process. If it is not here, this process becomes one in which it is.
    pub fn enter() -> Outcome<Self> {
        let Some(active) = symbol(c"__snapshim_active") else { return Err(run_again()) };
        // SAFETY: the library exports the function with this type (snapshim.h).
        let active: extern "C" fn() -> c_int = unsafe { std::mem::transmute(active) };
        if active() == 0 {
            return Err(not_active());
        }
        let stat = symbol(c"__snapshim_stat").ok_or_else(other_version)?;
        let check = symbol(c"__snapshim_check").ok_or_else(other_version)?;
        let mapv = symbol(c"__snapshim_mapv").ok_or_else(other_version)?;
        let why = symbol(c"__snapshim_why").ok_or_else(other_version)?;
        let drop = symbol(c"__snapshim_drop").ok_or_else(other_version)?;
        // SAFETY: as above.
        unsafe {
            Ok(Self {
                stat: std::mem::transmute::<*mut c_void, StatFunction>(stat),
                check: std::mem::transmute::<*mut c_void, CheckFunction>(check),
                mapv: std::mem::transmute::<*mut c_void, MapFunction>(mapv),
                why: std::mem::transmute::<*mut c_void, WhyFunction>(why),
                drop: std::mem::transmute::<*mut c_void, DropFunction>(drop),
            })
        }
    }

    /// What the library says of the snapshot at `address`.
    pub fn stat(&self, address: usize) -> Option<Stat> {
        let mut stat = Stat::default();
        // SAFETY: `stat` is writable, and any address may be asked for.
        (unsafe { (self.stat)(address as *const c_void, &raw mut stat) } == 0).then_some(stat)
    }

    /// The same, after a look through a descriptor of the file whether a program that does not cooperate has changed it.
    pub fn check(&self, address: usize, file: BorrowedFd<'_>) -> std::io::Result<Stat> {
        let mut stat = Stat::default();
        loop {
            // SAFETY: as above.
            let found = unsafe { (self.check)(address as *const c_void, file.as_raw_fd(), &raw mut stat) };
            match std::io::Error::last_os_error() {
                _ if found == 0 => return Ok(stat),
                // The agent looks at this moment.
                error if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
                error => return Err(error),
            }
        }
    }

    /// Why the snapshot at `address` is doubtful or broken, in words.
    pub fn why(&self, address: usize) -> Option<String> {
        let mut text = [0u8; 600];
        // SAFETY: the buffer is as long as the call is told.
        let length = unsafe { (self.why)(address as *const c_void, text.as_mut_ptr().cast(), text.len()) };
        let length = usize::try_from(length).ok().filter(|length| *length > 0)?;
        Some(String::from_utf8_lossy(&text[..length.min(text.len() - 1)]).into_owned())
    }

    /// Ends a snapshot of whatever process, by its number in the table: it faults there from then on.
    pub fn drop_mapping(&self, id: u64) -> Result<(), Undropped> {
        let mut pid = 0;
        // SAFETY: `pid` is writable, and any number may be asked for.
        let dropped = unsafe { (self.drop)(id, &raw mut pid) };
        if dropped >= 0 { Ok(()) } else { Err(Undropped { error: std::io::Error::last_os_error(), pid }) }
    }

    /// Maps snapshots of one instant: all of them, or none. Each entry says why it has none.
    pub fn map(&self, maps: &mut [Map]) -> std::io::Result<()> {
        let count = c_int::try_from(maps.len()).map_err(|_| std::io::Error::from_raw_os_error(libc::EINVAL))?;
        // SAFETY: `maps` is as many writable entries.
        if unsafe { (self.mapv)(maps.as_mut_ptr(), count) } == 0 {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error())
        }
    }
}

/// Why a snapshot was not dropped.
#[derive(Debug)]
pub struct Undropped {
    pub error: std::io::Error,
    /// The process that is why; 0: none.
    pub pid: u32,
}

fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: RTLD_DEFAULT and a string that ends.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr().cast::<c_char>()) };
    (!found.is_null()).then_some(found)
}

/// Becomes the same command under the library; returns only to say why not.
fn run_again() -> Failure {
    let library = match path() {
        Ok(library) => library,
        Err(failure) => return failure,
    };
    let preload = preload(&library);
    if env::var_os("LD_PRELOAD").as_deref() == Some(&preload) {
        return Failure::failed(
            format!("the library {} was not loaded", shown(&library)),
            "is it whole, and made for this machine? ld.so says more with LD_DEBUG=libs",
        );
    }
    let own = match env::current_exe() {
        Ok(own) => own,
        Err(error) => return Failure::new(Code::Failed, format!("cannot find myself: {}", words(&error))),
    };
    let mut again = Command::new(&own);
    again.args(env::args_os().skip(1)).env("LD_PRELOAD", preload);
    if table::chosen().is_some() {
        again.env(table::VARIABLE, table::directory().0);
    }
    let error = again.exec();
    Failure::of_file("run", &own, &error)
}

fn not_active() -> Failure {
    if is_off() {
        return switched_off();
    }
    match table::attached() {
        Err(failure) => failure,
        Ok(_) => Failure::new(Code::NoTable, "the library takes no part here: its log says why"),
    }
}

/// Whether the user has switched the library off.
pub fn is_off() -> bool {
    env::var("SNAPSHIM_DISABLE").is_ok_and(|value| value == "1")
}

pub fn switched_off() -> Failure {
    Failure::failed("SNAPSHIM_DISABLE=1 switches the library off", "unset it")
}

fn other_version() -> Failure {
    Failure::failed(
        "the library in this process is of another version",
        "take it out of LD_PRELOAD; is an older one installed?",
    )
}

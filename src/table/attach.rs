//! Attaching: finding the table, or making it, and mapping it for life.
//!
//! A table is made whole before it gets its name. It is written into an unnamed file, memory is allocated for every block that is
//! touched without asking, then the file is linked. A process that loses the race to link its file maps the winner's.

use core::ffi::{CStr, c_void};
use core::ptr;

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::Resource;
use syscalls::{Sysno, syscall};

use super::header::{Header, MAGIC};
use super::{LAYOUT, Table};
use crate::protocol::unseen::{Unseen, Who};
use crate::sys::procfs::{self, ProcPath};
use crate::sys::sync::Ordering;
use crate::sys::{permission, raw, time_space};

/// [`FILE_NAME`], for texts that are put together at compile time.
#[macro_export]
macro_rules! table_file_name {
    () => {
        "table-6"
    };
}

/// The table's file name in its directory; the number is the ABI version.
pub const FILE_NAME: &CStr = match CStr::from_bytes_with_nul(concat!(table_file_name!(), "\0").as_bytes()) {
    Ok(name) => name,
    Err(_) => panic!("a file name has no NUL"),
};

/// Why a process cannot join a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The directory cannot be made or opened.
    Directory(Errno),
    /// Another user, of this uid, owns the directory.
    DirectoryOwner(u32),
    /// Every user may write into the directory.
    DirectoryOpen,
    /// The table cannot be opened, made or mapped.
    File(Errno),
    /// The file system of the directory is full.
    Full,
    /// The file is not a table, or not a whole one.
    NotATable,
    /// Every user may write the table.
    FileOpen,
    /// Another user, of this uid, owns the table.
    FileOwner(u32),
    /// The table was made by another version of snapshim.
    OtherVersion,
    /// The table is used by processes of another pid namespace.
    OtherNamespace,
    /// There is no /proc, which says what the pids of other processes mean and whether they are alive.
    WithoutProc,
    /// The process is in a time namespace whose clocks cannot be translated.
    UnknownTime,
    /// A process found the table damaged.
    Damaged,
}

impl Refusal {
    /// What is wrong, for a person.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::Directory(Errno::NOENT) => "its parent directory does not exist",
            Self::Directory(_) => "the directory cannot be opened",
            Self::DirectoryOwner(_) => "another user owns the directory",
            Self::DirectoryOpen => "every user may write into the directory",
            Self::File(_) => "the table cannot be opened or mapped",
            Self::Full => "its file system is full",
            Self::NotATable => concat!("its file ", table_file_name!(), " is no table"),
            Self::FileOpen => "every user may write the table",
            Self::FileOwner(_) => "another user owns the table",
            Self::OtherVersion => "the table was made by another version of snapshim",
            Self::OtherNamespace => "processes of another pid namespace use the table",
            Self::WithoutProc => "/proc is not mounted, so the processes that use the table cannot be told apart",
            Self::UnknownTime => "the clocks of this time namespace cannot be translated",
            Self::Damaged => "the table was found damaged",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Directory(Errno::NOENT) => "create it or set SNAPSHIM_DIR",
            Self::Directory(_) => "make it accessible or set SNAPSHIM_DIR",
            Self::DirectoryOwner(_) => "set SNAPSHIM_DIR to one of your own",
            Self::DirectoryOpen => "take the permission away (chmod o-w)",
            Self::File(_) => "check its permissions and the memory limits",
            Self::Full => "free 5 MiB there or set SNAPSHIM_DIR to another tmpfs",
            Self::NotATable => "remove that file",
            Self::FileOwner(_) => "remove it or set SNAPSHIM_DIR",
            Self::OtherNamespace => "set SNAPSHIM_DIR to a directory of this container's own",
            Self::WithoutProc => "mount it (mount -t proc proc /proc)",
            Self::UnknownTime => "start it as a child of the program that made the namespace",
            Self::FileOpen | Self::OtherVersion | Self::Damaged => {
                concat!("end the programs that use it and remove ", table_file_name!())
            }
        }
    }
}

/// Where a table is, and which users may own it.
#[derive(Clone, Copy, Debug)]
pub struct TableLocation<'a> {
    /// The directory.
    pub directory: &'a CStr,
    /// Whether the user named it: then it may belong to root or to one of the user's groups.
    pub is_chosen: bool,
}

/// The effective user, as the user namespace around this process's own has it. A user that becomes root in a namespace of its own
/// stays with the table of its other processes (user_namespaces(7)).
#[must_use]
pub fn outer_user() -> u32 {
    let own = rustix::process::geteuid().as_raw();
    let mut buffer = [0u8; 512];
    let map = procfs::read_file(c"/proc/self/uid_map", &mut buffer).unwrap_or(b"");
    outer_of(own, map).unwrap_or(own)
}

/// The file has a line for each range of users: the first inside, the first outside, how many.
fn outer_of(user: u32, map: &[u8]) -> Option<u32> {
    core::str::from_utf8(map).ok()?.lines().find_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map_while(|number| number.parse::<u32>().ok());
        let (inside, outside, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let distance = user.checked_sub(inside).filter(|distance| *distance < count)?;
        outside.checked_add(distance)
    })
}

/// A table that the process is attached to.
#[derive(Clone, Copy, Debug)]
pub struct Attached {
    /// The table.
    pub table: &'static Table,
    /// Device and inode of its file, to find out whether the path still names it.
    file: (u64, u64),
    path: [u8; LONGEST_PATH],
    /// What the path meant to this process when it was looked up.
    outlook: [u64; 3],
    /// Whether this process made the directory for it.
    pub has_made_directory: bool,
    /// Whether this process made it.
    pub is_new: bool,
}

/// Maps the table at `location`, and makes it if there is none.
///
/// `at` is the address: memory of the caller's that may be replaced, or null for an address that the kernel chooses.
pub fn attach(location: &TableLocation<'_>, at: *mut c_void) -> Result<Attached, Refusal> {
    let has_made_directory = make_directory(location)?;
    let (directory, mode) = open_directory(location)?;
    let (file, is_new) = open_table(&directory, mode)?;
    let stat = rustix::fs::fstat(&file).map_err(Refusal::File)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
        || stat.st_size as u64 != size_of::<Table>() as u64
    {
        return Err(if is_other_version(&file) { Refusal::OtherVersion } else { Refusal::NotATable });
    }
    if stat.st_mode & 0o002 != 0 {
        return Err(Refusal::FileOpen);
    }
    let own = rustix::process::geteuid().as_raw();
    if mode == PRIVATE && stat.st_uid != own && stat.st_uid != 0 {
        return Err(Refusal::FileOwner(stat.st_uid));
    }
    let table = map(&file, at)?;
    if table.header.magic.load(Ordering::Relaxed) != MAGIC {
        return Err(Refusal::NotATable);
    }
    if table.header.layout.load(Ordering::Relaxed) != LAYOUT {
        return Err(Refusal::OtherVersion);
    }
    match own_namespace() {
        0 => return Err(Refusal::WithoutProc),
        own if own != table.header.namespace.load(Ordering::Relaxed) => return Err(Refusal::OtherNamespace),
        _ => {}
    }
    time_space::read_offsets().map_err(|_| Refusal::UnknownTime)?;
    if table.is_damaged() {
        return Err(Refusal::Damaged);
    }
    let file = (stat.st_dev, stat.st_ino);
    Ok(Attached { table, file, path: path_of(location), outlook: outlook(), has_made_directory, is_new })
}

/// Opens the table at `location` if there is one. It makes nothing.
fn open_existing(location: &TableLocation<'_>) -> Result<OwnedFd, Refusal> {
    let (directory, _) = open_directory(location)?;
    rustix::fs::openat(&directory, FILE_NAME, OPENED, Mode::empty()).map_err(Refusal::File)
}

/// Calls `see` with the device and inode of each other table in the directory: tables of other versions of snapshim, whose
/// processes do not announce their changes here.
pub fn each_other_table(location: &TableLocation<'_>, mut see: impl FnMut(u64, u64)) {
    let Ok((directory, _)) = open_directory(location) else { return };
    let Ok(names) = rustix::fs::openat(&directory, c".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) else {
        return;
    };
    procfs::any_entry(names, |name| {
        if name.starts_with("table-")
            && name.as_bytes() != FILE_NAME.to_bytes()
            && let Ok(stat) = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)
        {
            see(stat.st_dev, stat.st_ino);
        }
        false
    });
}

/// The file beside the table in which processes note what they have written to the log; made if there is none. `None`: there is no
/// directory, or none that is trusted.
pub fn open_notes(location: &TableLocation<'_>) -> Option<OwnedFd> {
    const NAME: &CStr = c"said";
    let (directory, mode) = open_directory(location).ok()?;
    let flags = OPENED.union(OFlags::CREATE).union(OFlags::APPEND);
    let file = rustix::fs::openat(&directory, NAME, flags, Mode::from_raw_mode(mode)).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if stat.st_mode & 0o777 != mode && !permission::forbids(Sysno::fchmod) {
        // The process that made it had a mask. Only its user can change that.
        let _ = rustix::fs::fchmod(&file, Mode::from_raw_mode(mode));
    }
    (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & 0o002 == 0).then_some(file)
}

/// Whether there is a table at `location` with a snapshot in it. It is as cheap as that can be, and makes nothing.
pub fn is_in_use(location: &TableLocation<'_>) -> bool {
    let mut active = [0u8; 8];
    let at = core::mem::offset_of!(Header, active) as u64;
    open_existing(location).and_then(|file| rustix::io::pread(&file, &mut active, at).map_err(Refusal::File)) == Ok(8)
        && u64::from_ne_bytes(active) & 1 == 1
}

/// Opens the table at `location`, if it is one of this version.
fn open_to_raise(location: &TableLocation<'_>) -> Result<OwnedFd, Refusal> {
    let file = open_existing(location)?;
    let mut start = [0u8; 16];
    let is_table = rustix::io::pread(&file, &mut start, 0) == Ok(16)
        && start == *[MAGIC.to_ne_bytes(), LAYOUT.to_ne_bytes()].as_flattened();
    if is_table { Ok(file) } else { Err(Refusal::NotATable) }
}

/// Maps the table's first page, for as long as the caller wants it.
fn map_header(file: &OwnedFd) -> Result<&'static Header, Errno> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let page = unsafe { rustix::mm::mmap(ptr::null_mut(), size_of::<Header>(), access, MapFlags::SHARED, file, 0) };
    // SAFETY: the mapping is as large as a header, every bit pattern is one, and others change it only through atomics.
    page.map(|page| unsafe { &*page.cast::<Header>() })
}

/// Notes in the table at `location`, which the caller cannot map whole, that `who` changes files unseen from now on. It takes one
/// page of address space, or none. True if no process has logged it yet.
pub fn raise_unseen(location: &TableLocation<'_>, who: Who) -> Result<bool, Refusal> {
    let file = open_to_raise(location)?;
    match map_header(&file) {
        Ok(header) => {
            header.unseen.raise(who);
            let is_first = header.unseen.begin_to_say();
            // SAFETY: mapped above, and no other thread was told.
            let _ = unsafe { rustix::mm::munmap(ptr::from_ref(header).cast_mut().cast(), size_of::<Header>()) };
            Ok(is_first)
        }
        Err(_) => {
            let at = core::mem::offset_of!(Header, unseen) + core::mem::offset_of!(Unseen, beyond);
            rustix::io::pwrite(&file, &1u64.to_ne_bytes(), at as u64).map(|_| true).map_err(Refusal::File)
        }
    }
}

/// The same for a process whose pid means nothing to the processes that use the table. A lock tells them that it is not over. The
/// lock is the open file's, which the mapping keeps open: so it ends with this image and all children that have executed nothing.
pub fn raise_nameless(location: &TableLocation<'_>) -> Result<bool, Refusal> {
    let file = open_to_raise(location)?;
    let header = map_header(&file).map_err(Refusal::File)?;
    Lock::of_the_first_byte(Lock::SHARED).ask(&file, Lock::SET).map_err(Refusal::File)?;
    header.unseen.raise_nameless();
    Ok(header.unseen.begin_to_say())
}

/// `struct flock` (fcntl(2), asm-generic/fcntl.h) for the lock of an open file, which has no pid.
#[repr(C)]
struct Lock {
    kind: i16,
    whence: i16,
    start: i64,
    length: i64,
    pid: i32,
}

impl Lock {
    const SHARED: i16 = 0;
    const EXCLUSIVE: i16 = 1;
    const NONE: i16 = 2;
    /// F_OFD_GETLK and F_OFD_SETLK.
    const GET: u32 = 36;
    const SET: u32 = 37;

    const fn of_the_first_byte(kind: i16) -> Self {
        Self { kind, whence: 0, start: 0, length: 1, pid: 0 }
    }

    /// The answer. To `GET` it is the lock that is in the way.
    fn ask(mut self, file: &OwnedFd, request: u32) -> Result<Self, Errno> {
        // SAFETY: the argument is the structure that the request takes, and fills in.
        let asked = unsafe { syscall!(Sysno::fcntl, file.as_raw_fd(), request, &raw mut self) };
        asked.map(|_| self).map_err(raw::errno)
    }
}

/// Maps the table at `location` if there is one, for a process that only looks.
pub fn attach_existing(location: &TableLocation<'_>) -> Result<Option<Attached>, Refusal> {
    let directory = match raw::open(location.directory, OFlags::DIRECTORY | OFlags::NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened.map_err(Refusal::Directory)?,
    };
    match rustix::fs::statat(&directory, FILE_NAME, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        _ => attach(location, ptr::null_mut()).map(Some),
    }
}

/// Whether later processes meet at this table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The path names it.
    Current,
    /// It was removed or replaced, or something was mounted over it: later processes meet at another one.
    Gone,
    /// The process has another root or other mounts than when it attached, or may not look any more: it cannot tell.
    Unknown,
}

impl Attached {
    /// Whether a process holds the lock of the unseen processes that have no name. Yes where that cannot be told.
    #[must_use]
    pub fn is_held_by_nameless(&self) -> bool {
        let Ok(path) = CStr::from_bytes_until_nul(&self.path) else { return true };
        let Ok(file) = rustix::fs::openat(CWD, path, OPENED, Mode::empty()) else { return true };
        if !rustix::fs::fstat(&file).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.file) {
            return true;
        }
        let found = Lock::of_the_first_byte(Lock::EXCLUSIVE).ask(&file, Lock::GET);
        !found.is_ok_and(|found| found.kind == Lock::NONE)
    }

    /// Whether the path still names this table. Yes where that cannot be told.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.standing() != Standing::Gone
    }

    /// Whether later processes meet here. It opens nothing.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let Ok(path) = CStr::from_bytes_until_nul(&self.path) else { return Standing::Unknown };
        match rustix::fs::lstat(path) {
            Ok(stat) if (stat.st_dev, stat.st_ino) == self.file => Standing::Current,
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) if outlook() == self.outlook => Standing::Gone,
            _ => Standing::Unknown,
        }
    }
}

/// What paths mean to the calling process: device and inode of its root, and its mount namespace.
fn outlook() -> [u64; 3] {
    let root = rustix::fs::stat(c"/").map_or((0, 0), |root| (root.st_dev, root.st_ino));
    [root.0, root.1, rustix::fs::stat(ProcPath::thread_self("ns/mnt").as_c_str()).map_or(0, |space| space.st_ino)]
}

/// The longest path that is remembered. The standing of a table with a longer path is unknown.
const LONGEST_PATH: usize = 256;

/// The table's path, followed by NULs. Only NULs if the path is too long.
fn path_of(location: &TableLocation<'_>) -> [u8; LONGEST_PATH] {
    let mut path = [0; LONGEST_PATH];
    let parts = [location.directory.to_bytes(), b"/", FILE_NAME.to_bytes()];
    if parts.iter().map(|part| part.len()).sum::<usize>() < LONGEST_PATH {
        let bytes = parts.iter().flat_map(|part| part.iter());
        path.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    }
    path
}

const PRIVATE: u32 = 0o600;
const SHARED: u32 = 0o660;

/// Makes the directory unless it is there. True if it was made.
fn make_directory(location: &TableLocation<'_>) -> Result<bool, Refusal> {
    if permission::forbids(Sysno::mkdirat) {
        return Ok(false);
    }
    match rustix::fs::mkdir(location.directory, Mode::from_raw_mode(0o700)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(Refusal::Directory(error)),
    }
}

/// Opens the directory, and decides with which mode tables are made in it.
fn open_directory(location: &TableLocation<'_>) -> Result<(OwnedFd, u32), Refusal> {
    let directory = raw::open(location.directory, OFlags::DIRECTORY | OFlags::NOFOLLOW).map_err(Refusal::Directory)?;
    let stat = rustix::fs::fstat(&directory).map_err(Refusal::Directory)?;
    let own = rustix::process::geteuid().as_raw();
    if stat.st_mode & 0o002 != 0 {
        return Err(Refusal::DirectoryOpen);
    }
    let is_shared = location.is_chosen && stat.st_mode & 0o020 != 0;
    let is_trusted =
        stat.st_uid == own || location.is_chosen && (stat.st_uid == 0 || is_shared && is_member(stat.st_gid));
    if !is_trusted {
        return Err(Refusal::DirectoryOwner(stat.st_uid));
    }
    Ok((directory, if is_shared { SHARED } else { PRIVATE }))
}

/// Whether the calling process belongs to a group, as the kernel judges its access to files.
fn is_member(group: u32) -> bool {
    let mut groups = [0u32; 200];
    // SAFETY: the buffer has room for as many groups as the call is told; if there are more, it fails.
    let found = unsafe { syscall!(Sysno::getgroups, groups.len(), groups.as_mut_ptr()) }.unwrap_or(0);
    rustix::process::getegid().as_raw() == group || groups[..found].contains(&group)
}

/// The flags that a table is opened with. A file that is no table, a terminal for one, must not react to being looked at.
const OPENED: OFlags =
    OFlags::RDWR.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW).union(OFlags::NOCTTY).union(OFlags::NONBLOCK);

/// Opens the table, or makes it. True if it was made.
fn open_table(directory: &OwnedFd, mode: u32) -> Result<(OwnedFd, bool), Refusal> {
    match rustix::fs::openat(directory, FILE_NAME, OPENED, Mode::empty()) {
        Err(Errno::NOENT) => {}
        opened => return opened.map(|file| (file, false)).map_err(Refusal::File),
    }
    if own_namespace() == 0 {
        return Err(Refusal::WithoutProc);
    }
    if permission::forbids_any(&[Sysno::fchmod, Sysno::linkat]) {
        return Err(Refusal::File(Errno::PERM));
    }
    let made = make(directory, mode)?;
    let unnamed = ProcPath::thread_self("fd").slash(rustix::fd::AsRawFd::as_raw_fd(&made) as u32);
    match rustix::fs::linkat(CWD, unnamed.as_c_str(), directory, FILE_NAME, AtFlags::SYMLINK_FOLLOW) {
        Ok(()) => Ok((made, true)),
        Err(Errno::EXIST) => {
            let found = rustix::fs::openat(directory, FILE_NAME, OPENED, Mode::empty());
            found.map(|file| (file, false)).map_err(Refusal::File)
        }
        Err(error) => Err(Refusal::File(error)),
    }
}

/// An unnamed file that is a whole, empty table.
fn make(directory: &OwnedFd, mode: u32) -> Result<OwnedFd, Refusal> {
    // The kernel would send SIGXFSZ, which ends most programs.
    if rustix::process::getrlimit(Resource::Fsize).current.is_some_and(|most| most < size_of::<Table>() as u64) {
        return Err(Refusal::File(Errno::FBIG));
    }
    let full = |error| if matches!(error, Errno::NOSPC | Errno::DQUOT) { Refusal::Full } else { Refusal::File(error) };
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, c".", flags, Mode::from_raw_mode(mode)).map_err(full)?;
    // The umask of the application must not keep the group out.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(Refusal::File)?;
    rustix::fs::ftruncate(&file, size_of::<Table>() as u64).map_err(full)?;
    for (start, length) in super::growth::BACKED {
        rustix::fs::fallocate(&file, FallocateFlags::empty(), start, length).map_err(full)?;
    }
    let start = [MAGIC.to_ne_bytes(), LAYOUT.to_ne_bytes()];
    let written = rustix::io::pwrite(&file, start.as_flattened(), 0).and_then(|count| {
        let at = core::mem::offset_of!(Header, namespace) as u64;
        rustix::io::pwrite(&file, &own_namespace().to_ne_bytes(), at).map(|more| count + more)
    });
    match written {
        Ok(24) => Ok(file),
        Ok(_) => Err(Refusal::Full),
        Err(error) => Err(full(error)),
    }
}

/// The pid namespace, because pids mean something only within one; 0 where /proc does not say.
fn own_namespace() -> u64 {
    rustix::fs::stat(c"/proc/self/ns/pid").map_or(0, |stat| stat.st_ino)
}

fn is_other_version(file: &OwnedFd) -> bool {
    let mut magic = [0u8; 8];
    rustix::io::pread(file, &mut magic, 0) == Ok(8) && magic == MAGIC.to_ne_bytes()
}

fn map(file: &OwnedFd, at: *mut c_void) -> Result<&'static Table, Refusal> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let flags = if at.is_null() { MapFlags::SHARED } else { MapFlags::SHARED | MapFlags::FIXED };
    // SAFETY: the mapping replaces what the caller may replace, or lies at an address that the kernel chooses.
    let address = unsafe { rustix::mm::mmap(at, size_of::<Table>(), access, flags, file, 0) };
    let address = address.map_err(Refusal::File)?;
    // SAFETY: the mapping is as large as a table (checked against the file's size), page-aligned, never unmapped, and every bit
    // pattern is a table (zerocopy::FromBytes). Others change it only through atomics.
    Ok(unsafe { &*address.cast::<Table>() })
}

#[cfg(test)]
mod tests {
    use super::outer_of;

    #[test]
    fn a_user_is_who_it_is_in_the_namespace_around() {
        let identity = b"         0          0 4294967295\n";
        assert_eq!(outer_of(1000, identity), Some(1000));
        assert_eq!(outer_of(0, b"         0       1000          1\n"), Some(1000));
        assert_eq!(outer_of(5, b"0 1000 1\n1 100000 65536\n"), Some(100_004));
        assert_eq!(outer_of(5, b"0 1000 1\n"), None);
        assert_eq!(outer_of(5, b""), None);
    }
}

//! What an exec runs, and whether the library will be in it: one question for every way to ask for an exec, and for the command.
//!
//! The file is read as the kernel and the loader will read it (execve(2), elf(5), ld.so(8)). A script is its interpreter. What
//! cannot be opened or read is the kernel's to refuse.

use core::ffi::{CStr, c_char, c_int};

use elf::abi;
use elf::endian::AnyEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::note::{Note, NoteIterator};
use elf::parse::ParseAt;
use elf::segment::ProgramHeader;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, OFlags};
use syscalls::{Sysno, syscall};

use crate::protocol::unreached::Why;
use crate::sys::procfs::ProcPath;
use crate::sys::{permission, raw};

/// What is to be executed, as execveat(2) has it.
#[derive(Debug)]
pub struct Program {
    /// The directory that a relative path begins at.
    pub directory: c_int,
    /// The path, as the program has it.
    pub path: *const c_char,
    /// AT_EMPTY_PATH and AT_SYMLINK_NOFOLLOW.
    pub flags: c_int,
}

/// What the library will be to a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is loaded, as far as can be told.
    Loaded,
    /// The program runs without it.
    Absent(Why),
    /// The program's loader cannot load it, and complains or ends the program for that.
    Refused(Why),
}

impl Fate {
    /// Why the program runs without the library; `None`: it is loaded.
    #[must_use]
    pub const fn why(self) -> Option<Why> {
        match self {
            Self::Loaded => None,
            Self::Absent(why) | Self::Refused(why) => Some(why),
        }
    }
}

/// The beginning of a file: as much as the loader reads at once, so that the program headers are in it.
const START: usize = 832;

/// So much of a script's first line the kernel reads (BINPRM_BUF_SIZE).
const LINE: usize = 256;

/// So many interpreters, one for the other, the kernel follows (exec_binprm, fs/exec.c).
const INTERPRETERS: usize = 5;

impl Program {
    /// The program of execve(2).
    pub fn at(path: *const c_char) -> Self {
        Self { directory: CWD.as_raw_fd(), path, flags: 0 }
    }

    /// The path, for a message.
    ///
    /// # Safety
    /// The kernel has opened a file by this path, so that it can be read to its end.
    pub unsafe fn name(&self) -> &CStr {
        // SAFETY: the caller's promise.
        let name = if self.path.is_null() { c"" } else { unsafe { CStr::from_ptr(self.path) } };
        if name.is_empty() { c"a file by its descriptor" } else { name }
    }

    /// Opens the file to read it; `None` if the kernel does not let this process.
    pub fn open(&self) -> Option<OwnedFd> {
        let mut flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        if self.flags & AtFlags::SYMLINK_NOFOLLOW.bits() as c_int != 0 {
            flags |= OFlags::NOFOLLOW;
        }
        // SAFETY: the kernel checks the application's pointer.
        let opened = unsafe { syscall!(Sysno::openat, self.directory, self.path, flags.bits()) };
        match opened {
            // SAFETY: opened for this function alone.
            Ok(number) => Some(unsafe { raw::adopt_fd(number as c_int) }),
            // The path is empty, and the descriptor is what is executed.
            Err(syscalls::Errno::ENOENT) if self.flags & AtFlags::EMPTY_PATH.bits() as c_int != 0 => {
                let number = u32::try_from(self.directory).ok()?;
                raw::open(ProcPath::thread_self("fd").slash(number).as_c_str(), flags).ok()
            }
            Err(_) => None,
        }
    }
}

/// What the library will be to the program in `file`, if LD_PRELOAD names it. `is_asked`: whether it matters that the program runs
/// without it, which takes a longer look.
pub fn fate(mut file: OwnedFd, is_asked: bool) -> Fate {
    let mut start = [0u8; START];
    for _ in 0..=INTERPRETERS {
        let Ok(length) = rustix::io::pread(&file, &mut start, 0) else { return Fate::Loaded };
        let Some(interpreter) = interpreter_of_script(&mut start[..length.min(LINE)]) else {
            return Image { file: &file, start: &start[..length] }.fate(is_asked).unwrap_or(Fate::Loaded);
        };
        match Program::at(interpreter.as_ptr()).open() {
            Some(next) => file = next,
            None => return Fate::Loaded,
        }
    }
    Fate::Loaded
}

/// The path behind `#!`.
fn interpreter_of_script(line: &mut [u8]) -> Option<&CStr> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let rest = line.strip_prefix(b"#!")?;
    let begin = 2 + rest.iter().position(|byte| !is_space(byte))?;
    let length = line[begin..].iter().position(|byte| is_space(byte) || matches!(byte, b'\n' | 0))?;
    line[begin + length] = 0;
    CStr::from_bytes_until_nul(&line[begin..]).ok()
}

/// A program that is no script.
struct Image<'a> {
    file: &'a OwnedFd,
    start: &'a [u8],
}

impl Image<'_> {
    /// `None`: it is no program of a kind that is known here.
    fn fate(&self, is_asked: bool) -> Option<Fate> {
        let header = self.header()?;
        if header.class != Class::ELF64 {
            return Some(Fate::Refused(Why::Bits32));
        }
        if header.e_machine != abi::EM_X86_64 {
            return Some(Fate::Refused(Why::Processor));
        }
        let loader = match self.segment(&header, abi::PT_INTERP) {
            Some(segment) => self.loader(&segment)?,
            None => Loader::Nothing,
        };
        match loader {
            Loader::Foreign(why) => return Some(Fate::Refused(why)),
            // Without a dynamic section it is not the loader itself, nor a program that moves itself.
            Loader::Nothing if self.segment(&header, abi::PT_DYNAMIC).is_none() => {
                return Some(Fate::Absent(Why::Static));
            }
            _ if !is_asked => return Some(Fate::Loaded),
            Loader::Nothing if !self.is_loader(&header) => return Some(Fate::Absent(Why::Static)),
            _ => {}
        }
        if let Some(why) = self.gain_of_rights() {
            return Some(Fate::Absent(why));
        }
        self.is_of_go(&header).then_some(Fate::Absent(Why::Go))
    }

    fn header(&self) -> Option<FileHeader<AnyEndian>> {
        // Of fewer bytes the crate takes more than there are.
        let ident = parse_ident::<AnyEndian>(self.start.get(..abi::EI_NIDENT)?).ok()?;
        FileHeader::parse_tail(ident, self.start.get(abi::EI_NIDENT..)?).ok()
    }

    /// The first segment of that kind.
    fn segment(&self, header: &FileHeader<AnyEndian>, kind: u32) -> Option<ProgramHeader> {
        self.segments(header).find(|segment| segment.p_type == kind)
    }

    fn segments(&self, header: &FileHeader<AnyEndian>) -> impl Iterator<Item = ProgramHeader> {
        let (endian, class, table) = (header.endianness, header.class, header.e_phoff);
        let size = u64::from(header.e_phentsize);
        (0..u64::from(header.e_phnum)).filter_map(move |index| {
            let mut bytes = [0u8; 56];
            let read = self.read(table.checked_add(index * size)?, &mut bytes)?;
            ProgramHeader::parse_at(endian, class, &mut 0, read).ok()
        })
    }

    /// Bytes of the file; fewer at its end.
    fn read<'b>(&self, offset: u64, into: &'b mut [u8]) -> Option<&'b [u8]> {
        let in_start = usize::try_from(offset).ok().and_then(|offset| self.start.get(offset..)?.get(..into.len()));
        if let Some(bytes) = in_start {
            into.copy_from_slice(bytes);
            return Some(into);
        }
        let length = rustix::io::pread(self.file, &mut *into, offset).ok()?;
        Some(&into[..length])
    }

    fn loader(&self, segment: &ProgramHeader) -> Option<Loader> {
        let mut path = [0u8; LINE];
        let length = usize::try_from(segment.p_filesz).ok()?.min(LINE);
        let path = self.read(segment.p_offset, &mut path[..length])?;
        let path = CStr::from_bytes_until_nul(path).ok()?.to_bytes();
        let name = path.rsplit(|byte| *byte == b'/').next()?;
        Some(if name.starts_with(b"ld-linux-x86-64.so") {
            Loader::Glibc
        } else if name.starts_with(b"ld-musl") {
            Loader::Foreign(Why::Musl)
        } else {
            Loader::Foreign(Why::Loader)
        })
    }

    /// Whether it is glibc's loader, which is given a program and loads that: a library of a name, without a loader of its own.
    fn is_loader(&self, header: &FileHeader<AnyEndian>) -> bool {
        let Some(segment) = self.segment(header, abi::PT_DYNAMIC) else { return false };
        // Up to DT_NULL, which is 0, or the end of the file: the kernel does not look at the segment's size.
        let tag_at = |index| {
            let mut entry = [0u8; 8];
            let read = self.read(segment.p_offset.saturating_add(index * 16), &mut entry)?;
            read.first_chunk::<8>().copied().filter(|tag| *tag != [0; 8])
        };
        (0..segment.p_filesz / 16).map_while(tag_at).any(|tag| tag == abi::DT_SONAME.to_le_bytes())
    }

    /// Whether the loader will ignore LD_PRELOAD, because the program gets more rights than this process has (AT_SECURE).
    fn gain_of_rights(&self) -> Option<Why> {
        const SET_ID: u32 = 0o6000;
        let stat = rustix::fs::fstat(self.file).ok()?;
        let own = rustix::process::geteuid().as_raw();
        let sets_id = stat.st_mode & SET_ID != 0 && (stat.st_uid != own || stat.st_mode & 0o2000 != 0);
        let is_root = !permission::forbids(Sysno::getuid) && rustix::process::getuid().is_root();
        // Where the library may not look, the file may have some.
        let has_capabilities = !is_root
            && (permission::forbids(Sysno::fgetxattr)
                || rustix::fs::fgetxattr(self.file, c"security.capability", &mut [0u8; 32][..]).is_ok());
        let why = if sets_id {
            Why::SetId
        } else if has_capabilities {
            Why::Capabilities
        } else {
            return None;
        };
        let gains_none = rustix::thread::no_new_privs().unwrap_or(false) || self.is_on_nosuid();
        (!gains_none).then_some(why)
    }

    fn is_on_nosuid(&self) -> bool {
        rustix::fs::fstatvfs(self.file).is_ok_and(|mount| mount.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID))
    }

    /// Whether Go's linker has made it: its build id is in a note.
    fn is_of_go(&self, header: &FileHeader<AnyEndian>) -> bool {
        self.segments(header).filter(|segment| segment.p_type == abi::PT_NOTE).any(|segment| {
            let mut bytes = [0u8; 512];
            let length = bytes.len().min(segment.p_filesz as usize);
            let Some(notes) = self.read(segment.p_offset, &mut bytes[..length]) else { return false };
            let mut notes = NoteIterator::new(header.endianness, header.class, segment.p_align as usize, notes);
            notes.any(|note| matches!(note, Note::Unknown(note) if note.name.starts_with(b"Go")))
        })
    }
}

enum Loader {
    Glibc,
    Foreign(Why),
    /// The program has none.
    Nothing,
}

//! The environment of an exec: whether LD_PRELOAD names the library there, and the same environment without it, for a program whose
//! loader cannot load it.
//!
//! The application's array and strings are read through the kernel: what cannot be read is the kernel's to refuse. A process that
//! is confined reads them as they are. They are never changed: other threads read them. The new array lies in one of a few pieces
//! of memory that are used again. A child of vfork(2) that has executed its program leaves its piece taken, so a piece also says
//! which thread took it.

use core::ffi::{CStr, c_char};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use snapshim::sys::procfs::{ProcPath, ProcStat};
use snapshim::sys::{permission, raw};
use syscalls::{Errno, Sysno};

use crate::base::arena;
use crate::base::user_memory::{read_own, read_value};
use crate::process::identity;

/// As execve(2) takes it.
pub type Array = *const *const c_char;

const NAME: &[u8] = b"LD_PRELOAD=";
/// What the name of the library's file contains.
const LIBRARY: &[u8] = b"libsnapshim";
const WHOLE: usize = LIBRARY.len();

unsafe extern "C" {
    /// libc's: what execv(3) and its kin pass on.
    static environ: Array;
}

/// The address of LD_PRELOAD's string, and its place in the array; `None`: it is not there. Error: the array cannot be read to its
/// end.
fn find(environment: Array) -> Result<Option<(u64, usize)>, Errno> {
    // SAFETY: libc's variable.
    if environment == unsafe { environ } || permission::is_confined() {
        // SAFETY: libc and the program read libc's array so at any time, and the kernel reads another one next.
        return Ok(unsafe { find_in_own(environment) });
    }
    const AT_ONCE: usize = 32;
    let mut chunk = [0u64; AT_ONCE];
    let mut index = 0;
    while !environment.is_null() {
        let at = environment.wrapping_add(index) as u64;
        // Up to the end of the page: the next one need not be there.
        let whole = ((snapshim::PAGE - at % snapshim::PAGE) / 8).clamp(1, AT_ONCE as u64);
        let length = read_own(at, chunk.as_mut_ptr() as u64, whole * 8) as usize / 8;
        let variables = &chunk[..chunk[..length].iter().position(|variable| *variable == 0).unwrap_or(length)];
        if let Some(found) = variable_named(variables)? {
            return Ok(Some((variables[found], index + found)));
        }
        if length == 0 {
            return Err(Errno::EFAULT);
        }
        if variables.len() < length {
            return Ok(None);
        }
        index += variables.len();
    }
    Ok(None)
}

/// # Safety
/// `environment` is null or a null-terminated array of C strings.
unsafe fn find_in_own(environment: Array) -> Option<(u64, usize)> {
    // SAFETY: the caller's promise.
    unsafe {
        (0..)
            .map_while(|index| environment.as_ref().map(|_| *environment.add(index)).filter(|string| !string.is_null()))
            .position(|string| CStr::from_ptr(string).to_bytes().starts_with(NAME))
            .map(|index| (*environment.add(index) as u64, index))
    }
}

/// Which of some strings begins with [`NAME`]. Error: one cannot be read.
fn variable_named(variables: &[u64]) -> Result<Option<usize>, Errno> {
    const LENGTH: usize = NAME.len();
    let mut names = [[0u8; LENGTH]; 32];
    let mut done = 0;
    while done < variables.len() {
        let rest = &variables[done..];
        let read = raw::read_remote_pieces(raw::own_tid(), rest, names.as_flattened_mut(), LENGTH) / LENGTH;
        if let Some(found) = names[..read].iter().position(|name| name == NAME) {
            return Ok(Some(done + found));
        }
        done += read;
        // It may be shorter than the name, and lie at the end of what can be read.
        if rest.get(read).is_some_and(|next| read_value::<u8>(*next).is_none()) && read < names.len() {
            return Err(Errno::EFAULT);
        }
        done += usize::from(read < names.len());
    }
    Ok(None)
}

/// Whether LD_PRELOAD in `environment` names the library. Error: the kernel will refuse the environment, which cannot be read.
pub fn preloads(environment: Array) -> Result<bool, Errno> {
    Ok(find(environment)?.is_some_and(|(string, _)| names_library(string + NAME.len() as u64)))
}

/// How much of [`LIBRARY`] a file's name contains so far, and goes on with. No letter of it is like the first one.
fn with_next(found: usize, byte: u8) -> usize {
    match found {
        _ if byte == b'/' || is_between(byte) => 0,
        WHOLE => WHOLE,
        _ if byte == LIBRARY[found] => found + 1,
        _ => usize::from(byte == LIBRARY[0]),
    }
}

/// The parts of LD_PRELOAD are separated by spaces or colons (ld.so(8)).
fn is_between(byte: u8) -> bool {
    matches!(byte, b' ' | b':')
}

/// Whether a part of the list at `address`, which ends with a NUL, is a file that is called as the library.
fn names_library(mut address: u64) -> bool {
    let mut chunk = [0u8; 256];
    let mut found = 0;
    loop {
        let length = read_text(address, &mut chunk);
        for byte in &chunk[..length] {
            if found == WHOLE && (*byte == 0 || is_between(*byte)) {
                return true;
            }
            found = with_next(found, *byte);
        }
        if length == 0 || chunk[..length].contains(&0) {
            return false;
        }
        address += length as u64;
    }
}

/// Reads a string at `address`, of which `to` may be a part; how many bytes, of which the last may lie behind the string's end.
fn read_text(address: u64, to: &mut [u8]) -> usize {
    if !permission::is_confined() {
        return read_own(address, to.as_mut_ptr() as u64, to.len() as u64) as usize;
    }
    // SAFETY: the application's promise to the kernel, which reads the string next.
    let text = unsafe { CStr::from_ptr(ptr::with_exposed_provenance(address as usize)) }.to_bytes_with_nul();
    let length = text.len().min(to.len());
    to[..length].copy_from_slice(&text[..length]);
    length
}

/// Enough for some thousand variables; what is larger is left as it is.
const LENGTH: usize = 64 << 10;

struct Piece {
    /// The thread that took it, with [`IS_TAKEN`], and [`BY_CHILD`] if that is a child of vfork(2); 0: it is free.
    taker: AtomicU32,
    memory: AtomicPtr<u8>,
}

const IS_TAKEN: u32 = 1 << 31;
const BY_CHILD: u32 = 1 << 30;

static PIECES: [Piece; 4] = [const { Piece { taker: AtomicU32::new(0), memory: AtomicPtr::new(ptr::null_mut()) } }; 4];

/// An environment without the library.
pub struct Without {
    piece: &'static Piece,
}

impl Without {
    /// Has memory ready for a process that may not ask for any later.
    pub fn prepare() {
        if let Some(piece) = PIECES.iter().find(|piece| piece.take()) {
            let _ = Self { piece }.piece.memory();
        }
    }

    /// Makes it; `None`: there is no memory, or `environment` is too large or cannot be read.
    pub fn new(environment: Array) -> Option<Self> {
        let (string, place) = find(environment).ok()??;
        let taken = Self { piece: PIECES.iter().find(|piece| piece.take())? };
        let memory = taken.piece.memory()?;
        // SAFETY: the memory is this piece's, which this thread alone has taken, and lives as long as the process.
        let memory = unsafe { core::slice::from_raw_parts_mut(memory, LENGTH) };
        let (text, array) = memory.split_at_mut(LENGTH / 2);
        let is_left = write_value(string + NAME.len() as u64, text)?;
        copy_array(environment, place, is_left.then_some(text.as_ptr()), array)?;
        Some(taken)
    }

    /// The array.
    pub fn array(&self) -> Array {
        // Relaxed: this thread has taken the piece.
        self.piece.memory.load(Ordering::Relaxed).wrapping_add(LENGTH / 2) as Array
    }
}

impl Drop for Without {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `take`: what is written next comes after what was read.
        self.piece.taker.store(0, Ordering::Release);
    }
}

impl Piece {
    fn take(&self) -> bool {
        let own = raw::own_tid() | IS_TAKEN | if identity::is_vfork_child() { BY_CHILD } else { 0 };
        let taker = self.taker.load(Ordering::Relaxed);
        if taker != 0 && !is_gone(taker) {
            return false;
        }
        // Acquire: pairs with the Release in `drop`.
        self.taker.compare_exchange(taker, own, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Relaxed: only the taker makes the memory, or uses it.
    fn memory(&self) -> Option<*mut u8> {
        let known = self.memory.load(Ordering::Relaxed);
        if !known.is_null() {
            return Some(known);
        }
        if permission::forbids_any(&[Sysno::mmap, Sysno::mprotect]) {
            return None;
        }
        let made = arena::memory(LENGTH)?.cast();
        self.memory.store(made, Ordering::Relaxed);
        Some(made)
    }
}

/// Whether a taker was a child of vfork(2) and has executed its program, or has ended. Any other gives its piece back.
fn is_gone(taker: u32) -> bool {
    let thread = taker & !(IS_TAKEN | BY_CHILD);
    let has_executed = || ProcStat::read(&ProcPath::of(thread, "stat")).is_ok_and(|stat| stat.has_executed());
    // Number 0: the thread could not ask for its own.
    taker & BY_CHILD != 0
        && thread != 0
        && (raw::test_process(thread) == Err(rustix::io::Errno::SRCH) || has_executed())
}

/// Writes `LD_PRELOAD=` and the parts of the value at `address` that do not name the library. False: no part is left; `None`: it is
/// too long, or cannot be read.
fn write_value(address: u64, to: &mut [u8]) -> Option<bool> {
    to[..NAME.len()].copy_from_slice(NAME);
    let value = &mut to[NAME.len()..];
    let length = read_text(address, value);
    let end = value[..length].iter().position(|byte| *byte == 0)?;
    let mut written = 0;
    let mut begin = 0;
    while begin < end {
        let length = value[begin..end].iter().position(|byte| is_between(*byte)).unwrap_or(end - begin);
        let part = begin..begin + length;
        begin += length + 1;
        let is_library = value[part.clone()].iter().fold(0, |found, byte| with_next(found, *byte)) == WHOLE;
        if part.is_empty() || is_library {
            continue;
        }
        if written > 0 {
            value[written] = b':';
            written += 1;
        }
        value.copy_within(part.clone(), written);
        written += part.len();
    }
    value[written] = 0;
    Some(written > 0)
}

/// Copies the array with another string at `place`, or without one there. `None`: it does not fit, or cannot be read.
fn copy_array(from: Array, place: usize, string: Option<*const u8>, to: &mut [u8]) -> Option<()> {
    let mut words = to.chunks_exact_mut(8);
    for index in 0.. {
        let variable = match string {
            _ if index != place => read_value::<u64>(from.wrapping_add(index) as u64)?,
            Some(string) => string as u64,
            None => continue,
        };
        words.next()?.copy_from_slice(&variable.to_ne_bytes());
        if variable == 0 {
            return Some(());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest_of(value: &[u8]) -> Option<Vec<u8>> {
        let mut to = [0u8; 256];
        let is_left = write_value(value.as_ptr() as u64, &mut to)?;
        let end = to.iter().position(|byte| *byte == 0).unwrap();
        is_left.then(|| to[NAME.len()..end].to_vec())
    }

    #[test]
    fn only_the_library_is_taken_out() {
        assert_eq!(rest_of(b"/a/libsnapshim.so\0"), None);
        assert_eq!(rest_of(b"/a/x.so /b/libsnapshim.so:/c/y.so\0").unwrap(), b"/a/x.so:/c/y.so");
        assert_eq!(rest_of(b":/b/libsnapshim.so.1: z.so\0").unwrap(), b"z.so");
        assert_eq!(rest_of(b"library.so.liblibsnapshim z.so\0").unwrap(), b"z.so");
        let others = b"/libsnapshim/x.so:/a/libsnapsham.so:lib\0";
        assert_eq!(rest_of(others).unwrap(), others[..others.len() - 1]);
        assert!(!names_library(others.as_ptr() as u64));
    }

    #[test]
    fn the_other_variables_stay() {
        let strings = [c"A=1", c"LD_PRELOAD=/x/libsnapshim.so", c"B=2"];
        let array = [strings[0].as_ptr(), strings[1].as_ptr(), strings[2].as_ptr(), ptr::null()];
        assert_eq!(preloads(array.as_ptr()), Ok(true));
        let without = Without::new(array.as_ptr()).unwrap();
        // SAFETY: the array ends with a null pointer.
        let left = unsafe { core::slice::from_raw_parts(without.array(), 3) };
        assert_eq!(left, [array[0], array[2], ptr::null()]);
        assert_eq!(preloads(without.array()), Ok(false));
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_kernel() {
        assert!(preloads(ptr::without_provenance(16)).is_err());
        assert!(Without::new(ptr::without_provenance(16)).is_none());
    }
}

//! A program's environment without the library: for a program that it would only end.

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicBool, Ordering};

use snapshim::sys::permission;
use snapshim::sys::rare::Rare;
use syscalls::Sysno;

use super::arena;

/// Variables, and bytes of LD_PRELOAD, that there is room for without memory of the kernel's.
const VARIABLES: usize = 256;
const BYTES: usize = 2048;

struct Room {
    variables: UnsafeCell<[*const c_char; VARIABLES]>,
    text: UnsafeCell<[u8; BYTES]>,
}

// SAFETY: only the thread that has set `IS_TAKEN` uses it.
unsafe impl Sync for Room {}

#[unsafe(link_section = ".bss.rare")]
static ROOM: Rare<Room> =
    Rare(Room { variables: UnsafeCell::new([core::ptr::null(); VARIABLES]), text: UnsafeCell::new([0; BYTES]) });
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

const NAME: &[u8] = b"LD_PRELOAD=";

/// Makes `call` with `environment`, in which LD_PRELOAD does not name the library, and says whether it did. Where there is no room
/// for that, the environment is as it was.
///
/// # Safety
/// `environment` is null or an array of C strings that ends with a null pointer, as execve(2) takes it.
pub unsafe fn without_library<R>(
    environment: *const *const c_char,
    call: impl FnOnce(*const *const c_char) -> R,
) -> (R, bool) {
    // SAFETY: the caller's promise.
    let Some((count, at, value)) = (unsafe { find(environment) }) else { return (call(environment), false) };
    // Acquire: pairs with the Release below.
    let is_mine = !IS_TAKEN.swap(true, Ordering::Acquire);
    let room = if is_mine && count < VARIABLES && value.len() + NAME.len() < BYTES {
        Some((ROOM.variables.get().cast(), ROOM.text.get().cast()))
    } else {
        let length = (count + 1) * size_of::<*const c_char>();
        let may_ask = !permission::forbids_any(&[Sysno::mmap, Sysno::mprotect]);
        let memory = if may_ask { arena::memory(length + NAME.len() + value.len() + 1) } else { None };
        memory.map(|memory| {
            let start = memory.cast::<u8>();
            // SAFETY: the memory is that long.
            (start.cast::<*const c_char>(), unsafe { start.add(length) })
        })
    };
    let answer = match room {
        None => call(environment),
        // SAFETY: both have room for what is copied; the strings are the caller's.
        Some((pointers, text)) => unsafe {
            pointers.copy_from_nonoverlapping(environment, count + 1);
            write_rest(text, value);
            pointers.add(at).write(text.cast());
            call(pointers)
        },
    };
    if is_mine {
        IS_TAKEN.store(false, Ordering::Release);
    }
    (answer, room.is_some())
}

/// How many variables there are, which of them is LD_PRELOAD, and its value, if that names the library.
unsafe fn find(environment: *const *const c_char) -> Option<(usize, usize, &'static [u8])> {
    let (mut count, mut found) = (0, None);
    // SAFETY: the caller's promise.
    unsafe {
        while !environment.is_null() && !(*environment.add(count)).is_null() {
            let variable = CStr::from_ptr(*environment.add(count)).to_bytes();
            if let Some(value) = variable.strip_prefix(NAME).filter(|_| found.is_none()) {
                found = value.split(is_between).any(is_library).then_some((count, value));
            }
            count += 1;
        }
    }
    found.map(|(at, value)| (count, at, value))
}

/// ld.so takes both.
fn is_between(byte: &u8) -> bool {
    matches!(byte, b':' | b' ')
}

fn is_library(path: &[u8]) -> bool {
    path.rsplit(|byte| *byte == b'/').next().is_some_and(|name| name.starts_with(b"libsnapshim"))
}

/// Writes LD_PRELOAD with the other libraries of `value`.
unsafe fn write_rest(text: *mut u8, value: &[u8]) {
    let mut end = 0;
    let mut put = |bytes: &[u8]| {
        // SAFETY: what is written is no longer than the name, the value and a NUL.
        unsafe { text.add(end).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        end += bytes.len();
    };
    put(NAME);
    let mut is_first = true;
    for path in value.split(is_between).filter(|path| !path.is_empty() && !is_library(path)) {
        if !is_first {
            put(b":");
        }
        put(path);
        is_first = false;
    }
    put(b"\0");
}

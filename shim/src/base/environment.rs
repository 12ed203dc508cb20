//! The environment as it was at exec, and memory that lives as long as the process.
//!
//! It is read from /proc/self/environ, because a hook may need it before libc has set `environ` up. Where /proc cannot be read, it
//! is read from `environ`.

use core::ffi::{CStr, c_char};

use snapshim::sys::{procfs, raw};

/// The environment as it was at exec: NAME=value, each followed by a NUL.
pub struct Environment {
    bytes: &'static [u8],
}

impl Environment {
    /// Reads it.
    pub fn read() -> Self {
        Self { bytes: Self::from_proc().unwrap_or_else(Self::from_libc) }
    }

    fn from_proc() -> Option<&'static [u8]> {
        let mut size = 64 << 10;
        loop {
            let buffer = memory(size)?;
            let length = procfs::read_file(c"/proc/self/environ", buffer).ok()?.len();
            // One byte stays free, so that a NUL follows the last variable in any case.
            if length < size - 1 {
                return Some(&buffer[..length]);
            }
            size *= 4;
        }
    }

    /// Copies the shim's own variables; there are few.
    fn from_libc() -> &'static [u8] {
        unsafe extern "C" {
            static environ: *const *const c_char;
        }
        let Some(buffer) = memory(64 << 10) else { return b"" };
        let mut length = 0;
        // SAFETY: libc's environ is null or a null-terminated array of C strings.
        unsafe {
            let mut variable = environ;
            while !variable.is_null() && !(*variable).is_null() {
                let text = CStr::from_ptr(*variable).to_bytes_with_nul();
                if text.starts_with(b"SNAPSHIM_") && length + text.len() < buffer.len() {
                    buffer[length..length + text.len()].copy_from_slice(text);
                    length += text.len();
                }
                variable = variable.add(1);
            }
        }
        &buffer[..length]
    }

    /// The value of a variable; `None` if it is not set.
    pub fn get(&self, name: &str) -> Option<&'static [u8]> {
        self.bytes
            .split(|byte| *byte == 0)
            .find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
}

/// Zeroed memory that lives as long as the process.
fn memory(size: usize) -> Option<&'static mut [u8]> {
    let address = crate::base::arena::memory(size)?;
    // SAFETY: the arena gives this memory out once, `size` bytes of it, and never takes it back.
    Some(unsafe { core::slice::from_raw_parts_mut(address.cast::<u8>(), size) })
}

/// Moves `value` to memory that lives as long as the process; `None` if there is no memory.
pub fn try_leak<T>(value: T) -> Option<&'static T> {
    const { assert!(align_of::<T>() <= 4096) };
    let place = memory(size_of::<T>())?.as_mut_ptr().cast::<T>();
    // SAFETY: the memory is aligned to a page, large enough, and known to this function alone.
    unsafe {
        place.write(value);
        Some(&*place)
    }
}

/// The same where nothing works without it, before `main`: ends the process if there is no memory.
pub fn leak<T>(value: T) -> &'static T {
    try_leak(value).unwrap_or_else(|| raw::abort())
}

//! The arguments of mmap(2), and the call itself.

use core::ffi::c_void;
use core::ptr;

use rustix::io::Errno;
use snapshim::PAGE;
use snapshim::sys::raw;

/// The arguments of mmap(2).
#[derive(Clone, Copy)]
pub struct Mmap {
    pub address: *mut c_void,
    pub length: usize,
    pub protection: i32,
    pub flags: i32,
    pub descriptor: i32,
    pub offset: i64,
}

impl Mmap {
    /// Makes the system call.
    pub fn call(&self) -> Result<*mut c_void, Errno> {
        // SAFETY: the application's own arguments, or a new mapping at an address that the kernel chooses.
        unsafe {
            syscalls::syscall!(
                syscalls::Sysno::mmap,
                self.address,
                self.length,
                self.protection,
                self.flags,
                self.descriptor,
                self.offset
            )
        }
        .map(ptr::with_exposed_provenance_mut)
        .map_err(raw::errno)
    }

    /// The same arguments for a private mapping.
    pub fn as_private(&self) -> Self {
        Self { flags: self.flags & !libc::MAP_TYPE | libc::MAP_PRIVATE, ..*self }
    }

    /// Whether it takes the place of what is mapped at its addresses. With both flags the kernel lets MAP_FIXED_NOREPLACE win.
    pub fn replaces(&self) -> bool {
        self.flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) == libc::MAP_FIXED
    }

    /// The length in whole pages.
    pub fn pages(&self) -> u64 {
        (self.length as u64).div_ceil(PAGE)
    }
}

/// The bit of mmap's flags that asks for a snapshot; see snapshim.h.
pub const MAP_SNAPSHOT: i32 = 0x0100_0000;

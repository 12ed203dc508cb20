//! What a call would change of a file.

use libc::{off64_t, size_t};
use snapshim::cooperate::locate::target_of_descriptor;
use snapshim::protocol::origin::Target;

/// The bytes of a file that a call would change.
pub trait Touch {
    /// How many bytes at the most.
    fn length(&self) -> u64;
    /// At which offset; `None`: at the descriptor's file position.
    fn offset(&self) -> Option<i64>;
    /// Whether the bytes go to the end of the file, given that the descriptor was opened with O_APPEND or not.
    fn appends(&self, opened_with_append: bool) -> bool {
        opened_with_append
    }
    /// The offset from which on the call removes or moves the file's content; `None`: it only replaces bytes.
    fn truncates_from(&self) -> Option<u64> {
        None
    }
    /// Which file it is, if that is known without a look at the descriptor.
    fn known_target(&self) -> Target {
        Target::Unknown
    }
    /// Which file it is, by the descriptor that the call is made with.
    fn target(&self, descriptor: u32) -> Target {
        target_of_descriptor(descriptor)
    }
}

/// What the gate is told of a change without a descriptor: its target is known, and it moves no file position.
pub struct NoBytes;

impl Touch for NoBytes {
    fn length(&self) -> u64 {
        0
    }
    fn offset(&self) -> Option<i64> {
        Some(0)
    }
}

/// The most bytes that one system call writes (MAX_RW_COUNT, include/linux/fs.h).
pub const LONGEST_WRITE: u64 = 0x7fff_f000;

/// One buffer.
pub struct Plain {
    pub length: size_t,
    pub offset: Option<off64_t>,
}

impl Touch for Plain {
    fn length(&self) -> u64 {
        (self.length as u64).min(LONGEST_WRITE)
    }

    fn offset(&self) -> Option<i64> {
        self.offset
    }
}

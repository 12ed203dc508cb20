//! Causes: why a snapshot is doubtful or broken, in the words that the log, `snapshim_why` and `snapshim status` share.
//!
//! A snapshot's state word holds the cause beside the state, so one exchange sets both.

use core::fmt::{self, Display};

/// Why a snapshot is not exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// The record does not say.
    Untold = 0,
    /// The file was changed, and no process has counted the change.
    ForeignChange,
    /// The file was truncated so, and pages may be gone.
    ForeignTruncation,
    /// The file was truncated so, and a writer has found pages gone.
    PagesGone,
    /// A program that does not cooperate has the file mapped shared and writable.
    ForeignMapping,
    /// A process changes files unannounced.
    Unseen,
    /// The file system changes files by itself.
    FileSystem,
    /// Processes that start do not find the table.
    TableGone,
    /// The table cannot be trusted.
    TableDamaged,
    /// Another program can mount or overwrite the device.
    ClaimLost,
    /// The kernel uses the device.
    DeviceInUse,
    /// The same bytes are changed through another page cache.
    Alias,
    /// A ring of io_uring may write the file.
    Ring,
    /// A command may have changed the file past its page cache.
    PastTheCache,
    /// The file has come to a name at which a truncation was under way.
    NameTaken,
    /// A libc has no hooks.
    SecondLibc,
    /// A write went on that had been given up as left.
    WriteCameBack,
    /// A write goes to a file that is not known.
    UnknownTarget,
    /// A child goes on with a write that no process sees.
    ForkedInCall,
    /// A process opened its shared mappings for good before pages could be preserved.
    LeftOpen,
    /// A write went elsewhere than was preserved for.
    WentElsewhere,
    /// The kernel refuses access to the mapper, and its agent did not answer in time or does not exist.
    NoAccess,
    /// Access is granted, but copy-on-write could not be broken.
    NoCopy,
    /// The mapper's agent has not moved the pages off the file.
    NoAgent,
    /// The mapper was changing its mapping for too long.
    MapperBusy,
    /// The mapper is at the limit of its memory cgroup.
    NoMemory,
    /// A person has ended it.
    Dropped,
}

/// What a person is told: a sentence of a subject and what it did, and what to do. The log has a better subject at times.
struct Words {
    subject: &'static str,
    deed: &'static str,
    remedy: &'static str,
}

const fn words(subject: &'static str, deed: &'static str, remedy: &'static str) -> Words {
    Words { subject, deed, remedy }
}

const RUN_UNDER_THE_SHIM: &str =
    "run every program that writes it under the shim, on the same table, and take the snapshot again";

impl Cause {
    const ALL: [Self; 27] = [
        Self::Untold,
        Self::ForeignChange,
        Self::ForeignTruncation,
        Self::PagesGone,
        Self::ForeignMapping,
        Self::Unseen,
        Self::FileSystem,
        Self::TableGone,
        Self::TableDamaged,
        Self::ClaimLost,
        Self::DeviceInUse,
        Self::Alias,
        Self::Ring,
        Self::PastTheCache,
        Self::NameTaken,
        Self::SecondLibc,
        Self::WriteCameBack,
        Self::UnknownTarget,
        Self::ForkedInCall,
        Self::LeftOpen,
        Self::WentElsewhere,
        Self::NoAccess,
        Self::NoCopy,
        Self::NoAgent,
        Self::MapperBusy,
        Self::NoMemory,
        Self::Dropped,
    ];

    /// Bits that hold any cause.
    pub const BITS: u32 = 5;

    /// As a number of the table.
    #[must_use]
    pub const fn code(self) -> u64 {
        self as u64
    }

    /// From a number of the table, which may be damaged.
    #[must_use]
    pub const fn from_code(code: u64) -> Self {
        if code < Self::ALL.len() as u64 { Self::ALL[code as usize] } else { Self::Untold }
    }

    /// The sentence with a subject of its own.
    #[must_use]
    pub const fn of<S: Display>(self, subject: S) -> Told<S> {
        Told { subject, cause: self }
    }

    /// The sentence, and what to do.
    #[must_use]
    pub const fn in_full(self) -> InFull<Told<&'static str>> {
        self.of(self.subject()).in_full()
    }

    /// The subject of the sentence, where nothing more is known.
    #[must_use]
    pub const fn subject(self) -> &'static str {
        self.words().subject
    }

    /// What to do about it; empty: nothing but what the sentence says.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        self.words().remedy
    }

    const fn words(self) -> Words {
        match self {
            Self::Untold => words("the library's log", "says why", ""),
            Self::ForeignChange => words(
                "something",
                "changed the file without the shim, so the snapshot may show its bytes",
                RUN_UNDER_THE_SHIM,
            ),
            Self::ForeignTruncation => words(
                "something",
                "truncated the file without the shim, so pages of the snapshot may be gone (SIGBUS)",
                RUN_UNDER_THE_SHIM,
            ),
            Self::PagesGone => words(
                "a program without the shim",
                "has truncated the file, and pages of the snapshot are gone with that",
                "run every program that writes it under the shim",
            ),
            Self::ForeignMapping => words(
                "a program",
                "has it mapped shared and writable without the shim, and its stores are not seen",
                "run that program under the shim, on the same table, and have it map the file by libc's mmap; then take the snapshot \
                 again",
            ),
            Self::Unseen => words(
                "some process",
                "takes no part, and its changes are not seen",
                "end it, or the cause that its log names, and take the snapshot again",
            ),
            Self::FileSystem => words(
                "files on its file system",
                "can change without a system call here",
                "copy the file, or keep it on ext4, xfs, btrfs, f2fs, tmpfs or overlayfs",
            ),
            Self::WentElsewhere => words(
                "while a process wrote,",
                "another thread or process moved the file position, cleared O_APPEND or replaced the descriptor that it wrote to",
                "take the snapshot again",
            ),
            Self::Dropped => words(
                "a user",
                "has dropped it by hand (snapshim drop), and it faults from then on",
                "take the snapshot again, if it is still needed",
            ),
            Self::TableGone | Self::TableDamaged => self.words_of_table(),
            Self::ClaimLost | Self::DeviceInUse | Self::Alias | Self::PastTheCache => self.words_of_device(),
            Self::NoAccess | Self::NoCopy | Self::NoAgent | Self::MapperBusy | Self::NoMemory => self.words_of_mapper(),
            _ => self.words_of_process(),
        }
    }

    const fn words_of_table(self) -> Words {
        match self {
            Self::TableGone => words(
                "the table",
                "was removed or replaced, and programs that start now do not see the snapshot",
                "restart all programs that cooperate",
            ),
            _ => words("the table", "is damaged", "end the programs that use it and remove its file"),
        }
    }

    const fn words_of_device(self) -> Words {
        match self {
            Self::ClaimLost => words(
                "the program closed the descriptor,",
                "which was the exclusive claim that SNAPSHIM_CLAIM=1 asks for, so other programs can mount or overwrite the device",
                "take the snapshot again, after the program has closed the descriptors that it did not open",
            ),
            Self::DeviceInUse => words(
                "a mount or another device uses",
                "it, so the kernel changes it without a system call",
                "unmount or detach it and take the snapshot again, with SNAPSHIM_CLAIM=1 to keep mounts away",
            ),
            Self::Alias => words(
                "a program or the kernel uses a device or file of the same bytes,",
                "which has a page cache of its own, so a write there changes the snapshot unseen",
                "end that use and take the snapshot again, or take a snapshot of the one that is written to",
            ),
            _ => words("a process", "made a call that may change it past its page cache", "take the snapshot again"),
        }
    }

    const fn words_of_process(self) -> Words {
        match self {
            Self::Ring => words(
                "a program",
                "has the file open for writing and uses io_uring, whose writes are not seen",
                "end it, or run it without SNAPSHIM_IO_URING=allow, and take the snapshot again",
            ),
            Self::NameTaken => words(
                "the file",
                "took the name of another one, which was truncated at that very moment",
                "take the snapshot again",
            ),
            Self::SecondLibc => words(
                "a process",
                "loaded a second libc by dlmopen, whose code cannot be patched, so what is written through it is NOT held back from \
                 others' snapshots",
                "end it, and take the snapshot again",
            ),
            Self::WriteCameBack => words(
                "a write",
                "went on although its thread had jumped out of it (longjmp) to a place further up the same stack",
                "take the snapshot again; a program that divides one stack between threads of its own may do that",
            ),
            Self::UnknownTarget => words(
                "a process",
                "writes, and the kernel does not say to which file (statx, fstat and newfstatat are refused, by a filter of seccomp \
                 or for lack of memory)",
                "allow one of these calls",
            ),
            Self::ForkedInCall => words(
                "a process",
                "was forked inside a call that may write a file, and no process can wait for that call (its parent died)",
                "take the snapshot again",
            ),
            _ => words(
                "a process",
                "may store through shared mappings without a trap, and a page could not be preserved before",
                "take the snapshot again",
            ),
        }
    }

    const fn words_of_mapper(self) -> Words {
        match self {
            Self::NoAccess => words(
                "the kernel",
                "refuses access to its process, whose agent did not answer (is it stopped? SNAPSHIM_PUSH=auto tries both ways)",
                "",
            ),
            Self::NoAgent => words(
                "only the agent of its process",
                "can move it off the file, and did not answer (is it stopped?)",
                "",
            ),
            Self::NoCopy => words(
                "the memory of its process",
                "could not be copied (no memory left, or it changed the mapping behind the shim's back)",
                "",
            ),
            Self::NoMemory => words(
                "the memory cgroup of its process",
                "is at its limit, and the kernel would kill it for one page more",
                "raise the limit",
            ),
            _ => words("its process", "was changing its mapping and did not finish (is it stopped?)", ""),
        }
    }
}

impl Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.of(self.subject()).fmt(formatter)
    }
}

/// A cause, with a subject that says more than the cause alone.
#[derive(Clone, Copy, Debug)]
pub struct Told<S> {
    subject: S,
    cause: Cause,
}

impl<S: Display> Display for Told<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.subject, self.cause.words().deed)
    }
}

impl<S> Told<S> {
    /// The sentence, and what to do.
    pub const fn in_full(self) -> InFull<Self> {
        InFull { remedy: self.cause.words().remedy, sentence: self }
    }
}

/// A sentence, and what to do about it.
#[derive(Clone, Copy, Debug)]
pub struct InFull<T> {
    sentence: T,
    remedy: &'static str,
}

impl<T: Display> Display for InFull<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sentence.fmt(formatter)?;
        match self.remedy {
            "" => Ok(()),
            remedy => write!(formatter, "; {remedy}"),
        }
    }
}

/// What a snapshot is worth when it is published, and when it is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// As promised.
    Exact,
    /// Readable, but the shim can no longer vouch for it.
    Doubtful(Cause),
    /// A page could not be preserved.
    Broken(Cause),
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;

    #[test]
    fn each_cause_has_a_number_and_words_of_its_own() {
        for (number, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!((cause.code(), Cause::from_code(cause.code())), (number as u64, cause));
            assert!(cause.code() < 1 << Cause::BITS);
            let others = Cause::ALL.iter().filter(|other| **other != cause);
            assert!(others.clone().all(|other| other.to_string() != cause.to_string()), "{cause}");
        }
        assert_eq!(Cause::from_code(31), Cause::Untold);
    }

    #[test]
    fn the_log_may_know_the_subject() {
        let told = Cause::ForeignChange.of(format_args!("process {}", 7)).to_string();
        assert!(told.starts_with("process 7 changed the file without the shim"), "{told}");
    }
}

//! Memory that outlives its process: a child of vfork(2) or posix_spawn(3) acts in it until it executes its program, and goes on
//! with that when its parent is killed, or when another thread of the parent calls exec.

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::protocol::process::Process;
use crate::protocol::process_id::ProcessId;
use crate::sys::procfs::{self, ProcPath, Stat};
use crate::sys::raw;

impl Process {
    /// From now on a child may act in the memory of `id`, for the user that the caller acts for: the end of the process is not the
    /// end of its calls.
    pub fn note_lending(&self, id: ProcessId) {
        self.set_lender(id, rustix::process::geteuid().as_raw());
    }
}

/// Whether a process other than `id`'s may still act in the memory of that image.
pub fn is_memory_in_use(record: &Process, id: ProcessId) -> bool {
    let Some(user) = record.lender(id) else { return false };
    // Without it the process has told nobody of anything.
    let Some(cookie) = record.cookie(id) else { return false };
    let image = Image { cookie, word: id.to_word(), start: record.earliest_start(id), user };
    let acts = |pid: u32| pid != id.pid() && image.may_be_memory_of(pid);
    let Ok(all) = raw::open(c"/proc", OFlags::DIRECTORY | OFlags::RDONLY) else { return true };
    procfs::any_entry(all, |name| name.parse().is_ok_and(acts))
}

/// What is known of the memory of an image whose process may be gone.
struct Image {
    cookie: u64,
    word: u64,
    start: u64,
    user: u32,
}

impl Image {
    /// The memory of those who have executed their program is another, and is left alone: one that is stuck would have us wait with
    /// it.
    fn may_be_memory_of(&self, pid: u32) -> bool {
        match Stat::read(&ProcPath::of(pid, "stat")) {
            Ok(stat) if !stat.has_first_memory() || stat.is_over() || stat.start < self.start => return false,
            Err(Errno::NOENT | Errno::SRCH) => return false,
            Ok(_) | Err(_) => {}
        }
        match raw::read_remote_word(pid, self.cookie) {
            Ok(found) => found == self.word,
            // Nothing is there, or nobody.
            Err(Errno::FAULT | Errno::SRCH) => false,
            Err(_) => effective_user(pid).is_none_or(|user| user == self.user),
        }
    }
}

/// proc_pid_status(5), Uid: the real one and the effective one. `None`: it cannot be told.
fn effective_user(pid: u32) -> Option<u32> {
    let mut buffer = [0u8; 512];
    let text = procfs::read_file(ProcPath::of(pid, "status").as_c_str(), &mut buffer).ok()?;
    let mut lines = text.split(|byte| *byte == b'\n');
    let line = core::str::from_utf8(lines.find(|line| line.starts_with(b"Uid:"))?).ok()?;
    line.split_ascii_whitespace().nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_says_who_it_is() {
        assert_eq!(effective_user(raw::own_pid()), Some(rustix::process::geteuid().as_raw()));
        assert_eq!(effective_user(u32::MAX), None);
    }
}

//! This machine: whether the calls that the library needs are made, and do what they have to.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mprotect, munmap};
use nix::sys::statfs;
use snapshim::sys::filesystem::TMPFS;
use snapshim::sys::raw;

use super::{Finding, Grade, Report, tables};
use crate::failure::{Failure, shown, words};
use crate::snapshot::PAGE;
use crate::{library, table};

/// What a table takes when it is made.
const TABLE_BYTES: u64 = 5 << 20;

pub fn report() -> Report {
    let system = nix::sys::utsname::uname().map_or_else(
        |_| "this machine".to_owned(),
        |name| format!("this machine: {} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy()),
    );
    let directory = directory();
    let can_be_made = directory.grade < Grade::NoTable;
    let mut findings = vec![
        preload_library(),
        pushing(),
        storing(),
        populating(),
        patching(),
        filtering(),
        yama(),
        mappings(),
        directory,
        remove_ipc(),
        view(),
    ];
    findings.extend(relative());
    findings.extend(table::attached_or_none().map_or_else(
        |failure| vec![Finding::of("table", failure)],
        |attached| match attached {
            Some(attached) => tables::own(attached.table, attached.is_current()),
            None if can_be_made => {
                vec![Finding::well("table", "no table yet: the first program under the library makes it")]
            }
            // It has been said that there can be none.
            None => Vec::new(),
        },
    ));
    findings.extend(tables::strays());
    Report { subject: system, findings }
}

fn preload_library() -> Finding {
    match library::path() {
        Ok(path) => Finding::well("library", format!("the library is {}", shown(&path))),
        Err(failure) => Finding::of("library", failure),
    }
}

/// A private mapping of a page of a file.
struct Private(NonNull<c_void>);

impl Private {
    fn new(access: ProtFlags) -> nix::Result<Self> {
        let file = memfd_create(c"snapshim-doctor", MFdFlags::MFD_CLOEXEC)?;
        nix::unistd::ftruncate(&file, PAGE as i64)?;
        let length = NonZeroUsize::new(PAGE as usize).expect("a page has bytes");
        // SAFETY: a new mapping at an address that the kernel chooses.
        let memory = unsafe { mmap(None, length, access, MapFlags::MAP_PRIVATE, file.as_fd(), 0)? };
        if access.contains(ProtFlags::PROT_READ) {
            // SAFETY: the page can be read.
            unsafe { memory.cast::<u8>().read_volatile() };
        }
        Ok(Self(memory))
    }

    fn address(&self) -> u64 {
        self.0.addr().get() as u64
    }

    /// Whether the page is the mapping's own by now.
    fn is_own(&self) -> std::io::Result<bool> {
        const FILE: u64 = 1 << 61;
        const PRESENT: u64 = 1 << 63;
        let mut entry = [0; 8];
        File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, self.address() / PAGE * 8)?;
        Ok(u64::from_ne_bytes(entry) & (FILE | PRESENT) == PRESENT)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        _ = unsafe { munmap(self.0, PAGE as usize) };
    }
}

/// Tells what the look at the pagemap is worth.
fn seen(check: &'static str, own: std::io::Result<bool>, how: &str, otherwise: Finding) -> Finding {
    match own {
        Ok(true) => Finding::well(check, format!("{how} preserves a page")),
        Ok(false) => otherwise,
        Err(error) => Finding::new(
            check,
            Grade::Failed,
            format!("cannot read /proc/self/pagemap: {}; no page can be shown to be preserved", words(&error)),
        )
        .helped_by("mount /proc (mount -t proc proc /proc), and let its users read it"),
    }
}

fn unmappable(check: &'static str, error: nix::errno::Errno) -> Finding {
    Finding::new(check, Grade::Failed, format!("cannot make and map a memfd: {}", words(&error.into())))
        .helped_by("the kernel, or a filter of seccomp, refuses memfd_create(2) or mmap(2): allow them")
}

/// How a writer preserves a page of a mapper: see `snapshim::preserve::unshare`.
fn pushing() -> Finding {
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let (page, unreadable) = match (Private::new(access), Private::new(ProtFlags::PROT_NONE)) {
        (Ok(page), Ok(unreadable)) => (page, unreadable),
        (Err(error), _) | (_, Err(error)) => return unmappable("push", error),
    };
    let refusal = raw::break_copy_on_write(raw::own_tid(), page.address(), 1, unreadable.0.as_ptr());
    let why = words(&std::io::Error::from_raw_os_error(refusal.raw_os_error()));
    let otherwise = Finding::new(
        "push",
        Grade::Note,
        format!(
            "process_vm_writev(2) preserves no page here: {why}; the agent of the mapper does it, which takes longer"
        ),
    )
    .helped_by("allow the call: a filter of seccomp refuses it (containers: --cap-add SYS_PTRACE, or another profile)");
    seen("push", page.is_own(), "process_vm_writev(2)", otherwise)
}

/// The same where the mapper may not write.
fn storing() -> Finding {
    let page = match Private::new(ProtFlags::PROT_READ) {
        Ok(page) => page,
        Err(error) => return unmappable("store", error),
    };
    let memory = File::options().write(true).open("/proc/self/mem");
    let stored = memory.and_then(|memory| memory.write_all_at(&[0], page.address()));
    let why = stored.err().map_or_else(|| "it has no effect".to_owned(), |error| words(&error));
    let otherwise = Finding::new(
        "store",
        Grade::Note,
        format!("a store through /proc/PID/mem preserves no page: {why}; the agent of the mapper does it, which takes longer"),
    )
    .helped_by("boot without proc_mem.force_override=never, if snapshots that are only read shall cost less");
    seen("store", page.is_own(), "a store through /proc/PID/mem", otherwise)
}

/// How a process preserves a page of its own.
fn populating() -> Finding {
    /// MADV_POPULATE_WRITE (linux/mman.h).
    const POPULATE_WRITE: i32 = 23;
    let page = match Private::new(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE) {
        Ok(page) => page,
        Err(error) => return unmappable("populate", error),
    };
    // SAFETY: the page is ours; the call makes it present and changes no byte.
    unsafe { libc::madvise(page.0.as_ptr(), PAGE as usize, POPULATE_WRITE) };
    let why = words(&std::io::Error::last_os_error());
    let otherwise =
        Finding::new("populate", Grade::Failed, format!("MADV_POPULATE_WRITE preserves no page here: {why}"))
            .helped_by("use Linux 5.14 or later");
    seen("populate", page.is_own(), "MADV_POPULATE_WRITE", otherwise)
}

/// Whether libc's own calls can be led to the library.
fn patching() -> Finding {
    let code = (libc::getppid as *const c_void).addr() / PAGE as usize * PAGE as usize;
    let code = NonNull::new(std::ptr::with_exposed_provenance_mut::<c_void>(code)).expect("code has an address");
    let usual = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
    // SAFETY: the page of code can be executed all the time, and nothing is stored there.
    let opened = unsafe { mprotect(code, PAGE as usize, usual | ProtFlags::PROT_WRITE) };
    // SAFETY: as it was before.
    _ = unsafe { mprotect(code, PAGE as usize, usual) };
    match opened {
        Ok(()) => Finding::well("patch", "the code of libc can be patched: calls that libc makes itself are seen"),
        Err(error) => Finding::new(
            "patch",
            Grade::Note,
            format!(
                "the code of libc cannot be patched here: {}; calls that libc makes itself are led to the library in another way",
                words(&error.into())
            ),
        )
        .helped_by("SELinux (execmod), systemd's MemoryDenyWriteExecute= or PR_SET_MDWE forbids it; see docs/not-covered.md"),
    }
}

/// Filters of seccomp(2) on this process: what is started from here has them, too.
fn filtering() -> Finding {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
    match mode {
        Some("2") => Finding::new(
            "seccomp",
            Grade::Note,
            "a filter of seccomp is on what is started from here; the checks before this one say what it refuses",
        ),
        _ => Finding::well("seccomp", "no filter of seccomp is on what is started from here"),
    }
}

fn yama() -> Finding {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
    match scope.as_deref().map(str::trim) {
        None => Finding::well("yama", "Yama is not there: processes of one user reach each other's memory"),
        Some("0") => Finding::well("yama", "kernel.yama.ptrace_scope is 0: processes of one user reach each other's memory"),
        Some("1") => Finding::well("yama", "kernel.yama.ptrace_scope is 1: a process with snapshots lets writers reach its memory"),
        Some(scope) => Finding::new(
            "yama",
            Grade::Note,
            format!(
                "kernel.yama.ptrace_scope is {scope}: no process without CAP_SYS_PTRACE reaches the memory of another; agents of \
                 mappers preserve, which takes longer, and a stopped mapper holds its writers up"
            ),
        )
        .helped_by("sysctl kernel.yama.ptrace_scope=1, if that shall cost less"),
    }
}

fn mappings() -> Finding {
    /// What the kernel sets by itself.
    const USUAL: u64 = 65530;
    let read = fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|text| text.trim().parse::<u64>().ok());
    match read {
        Some(most) if most < USUAL => Finding::new(
            "max_map_count",
            Grade::Note,
            format!(
                "a process may have {most} mappings (vm.max_map_count): stores into shared mappings can use them up"
            ),
        )
        .helped_by(format!("sysctl vm.max_map_count={USUAL}, or more")),
        Some(most) => Finding::well("max_map_count", format!("a process may have {most} mappings (vm.max_map_count)")),
        None => Finding::new("max_map_count", Grade::Note, "cannot read /proc/sys/vm/max_map_count"),
    }
}

/// Where the table is, or will be.
fn directory() -> Finding {
    let directory = table::directory().0;
    let existing = directory.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
    let name = shown(&directory);
    let find = match statfs::statfs(existing) {
        Ok(found) => found,
        Err(error) => return Finding::of("directory", Failure::of_file("look at", existing, &error.into())),
    };
    let free = find.blocks_available() as u64 * find.block_size() as u64;
    let is_ours = existing == directory;
    if !is_ours && directory.parent() != Some(existing) {
        return Finding::new("directory", Grade::NoTable, format!("{name} cannot be made: its parent is not there"))
            .helped_by("make it first, or set SNAPSHIM_DIR to another directory, on a tmpfs");
    }
    let opened = File::options().write(true).custom_flags(libc::O_TMPFILE).open(existing);
    if let Err(error) = opened {
        return Finding::new("directory", Grade::NoTable, format!("no table can be made in {name}: {}", words(&error)))
            .helped_by("make it writable for you, or set SNAPSHIM_DIR to another directory, on a tmpfs");
    }
    if free < TABLE_BYTES {
        return Finding::new(
            "directory",
            Grade::NoTable,
            format!("{name} has {} KiB free: too few for a table", free >> 10),
        )
        .helped_by("free 5 MiB there, or set SNAPSHIM_DIR to another tmpfs");
    }
    let is_tmpfs = find.filesystem_type().0 as u64 == TMPFS;
    if !is_tmpfs {
        return Finding::new(
            "directory",
            Grade::Note,
            format!("{name} is not on a tmpfs: the table is written to a disk"),
        )
        .helped_by("set SNAPSHIM_DIR to a directory on a tmpfs (/dev/shm, /run)");
    }
    Finding::well("directory", format!("{name}: on a tmpfs with {} MiB free", free >> 20))
}

/// A relative SNAPSHIM_DIR: programs that get it by another way than this command use another table.
fn relative() -> Option<Finding> {
    let chosen = table::chosen().filter(|chosen| chosen.is_relative())?;
    let what = format!(
        "SNAPSHIM_DIR={} is relative: the library takes the default directory instead, and this command {}",
        shown(&chosen),
        shown(&table::directory().0)
    );
    Some(
        Finding::new("relative", Grade::Partly, what)
            .helped_by("set an absolute path, or start the programs by `snapshim run`, which makes it one"),
    )
}

/// Whether logind takes the table away when its user logs out (logind.conf(5)).
fn remove_ipc() -> Finding {
    let user = nix::unistd::geteuid().as_raw();
    if !Path::new("/run/systemd/system").is_dir() {
        return Finding::well("remove_ipc", "systemd does not run here: no table is removed at logout");
    }
    /// Users below are the system's own (SYS_UID_MAX), and logind leaves their files alone.
    const FIRST_PERSON: u32 = 1000;
    let name = nix::unistd::User::from_uid(user.into()).ok().flatten().map(|user| user.name);
    let lingers = name.is_some_and(|name| Path::new("/var/lib/systemd/linger").join(name).exists());
    if user < FIRST_PERSON || lingers || !table::directory().0.starts_with("/dev/shm/") {
        return Finding::well("remove_ipc", "logind does not remove the table at logout");
    }
    if !removes_ipc(&configuration()) {
        return Finding::well("remove_ipc", "logind leaves the table alone at logout (RemoveIPC=no)");
    }
    Finding::new(
        "remove_ipc",
        Grade::Partly,
        "logind removes the table when the last session of this user ends (RemoveIPC=yes): snapshots are doubtful then",
    )
    .helped_by(
        "set RemoveIPC=no in /etc/systemd/logind.conf, or loginctl enable-linger, or SNAPSHIM_DIR in /run/user/UID",
    )
}

/// Where programs keep their configuration, from what counts least on (logind.conf(5)).
const FOLDERS: [&str; 4] = ["/usr/lib/systemd", "/usr/local/lib/systemd", "/run/systemd", "/etc/systemd"];

/// All that configures logind, in the order in which it counts. Of the main files that which counts most is read alone.
fn configuration() -> String {
    let folders = FOLDERS.map(Path::new);
    let main = folders.iter().rev().map(|folder| folder.join("logind.conf")).find(|file| file.exists());
    let files = main.into_iter().chain(drop_ins(&folders.map(|folder| folder.join("logind.conf.d"))));
    files.filter_map(|file| fs::read_to_string(file).ok()).collect::<Vec<_>>().join("\n")
}

/// The drop-ins of all folders by their names, wherever they are; of several with one name that in the last folder.
fn drop_ins(folders: &[PathBuf]) -> Vec<PathBuf> {
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let by_name: BTreeMap<_, _> = entries.map(|entry| (entry.file_name(), entry.path())).collect();
    by_name.into_values().filter(|path| path.extension().is_some_and(|end| end == "conf")).collect()
}

/// The last line that says yes or no counts, and the default is yes.
fn removes_ipc(configuration: &str) -> bool {
    let values = configuration.lines().filter_map(|line| line.split_once('='));
    let mut values = values.filter(|(name, _)| name.trim() == "RemoveIPC").filter_map(|(_, value)| {
        match value.trim().to_ascii_lowercase().as_str() {
            "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
            "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
            _ => None,
        }
    });
    values.next_back().unwrap_or(true)
}

fn view() -> Finding {
    match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Finding::well("fuse", "/dev/fuse can be opened: `snapshim freeze` works"),
        Err(error) => Finding::new(
            "fuse",
            Grade::Note,
            format!("cannot open /dev/fuse: {}; `snapshim freeze` and `snapshim mount` need it", words(&error)),
        )
        .helped_by("modprobe fuse (containers: --device /dev/fuse); `snapshim cp` needs it not"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_about_ipc_counts() {
        assert!(removes_ipc("") && removes_ipc("#RemoveIPC=no\n[Login]\nRemoveIPC=yes"));
        assert!(!removes_ipc("RemoveIPC=yes\n RemoveIPC=no ") && removes_ipc("RemoveIPC=no\nRemoveIPC=yes"));
        assert!(!removes_ipc("RemoveIPC = No") && !removes_ipc("RemoveIPC=no\nRemoveIPC=perhaps"));
    }

    #[test]
    fn drop_ins_count_by_their_names_and_the_last_folder_masks() {
        let path = std::env::temp_dir().join(format!("snapshim-drop-ins-{}", std::process::id()));
        let folders = ["lib", "run", "etc"].map(|name| path.join(name));
        folders.iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
        let files =
            ["lib/90-a.conf", "lib/20-b.conf", "run/50-c.conf", "etc/20-b.conf", "etc/10-d.conf", "etc/99-no.txt"];
        files.iter().for_each(|name| fs::write(path.join(name), "").unwrap());
        let wanted = ["etc/10-d.conf", "etc/20-b.conf", "run/50-c.conf", "lib/90-a.conf"].map(|name| path.join(name));
        assert_eq!(drop_ins(&folders), wanted);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_page_is_shown_to_be_preserved() {
        let page = Private::new(ProtFlags::PROT_READ).unwrap();
        assert!(!page.is_own().unwrap());
        assert_eq!(pushing().grade, Grade::Well);
        assert_eq!(populating().grade, Grade::Well);
    }
}

//! What the library takes from libc, and what it puts in front of it.
//!
//! A hook may run in a signal handler, under malloc's locks, and before libc's constructors: what it calls has to stand that. A new
//! import is put into its group here after a look at its callers; one that is no longer needed is taken out.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::common::{library, run_ok, skip};

/// Called by hooks and by the agent: no memory is allocated, no lock taken, nothing looked up, errno left alone.
const HOOK_PATH: &[&str] = &[
    // Plain computation.
    "bcmp",
    "memcpy",
    "memmove",
    "memset",
    "strlen",
    // This thread's storage and errno: ours is in the static block, because the library is there from the start.
    "__errno_location",
    "__tls_get_addr",
    // Data: which environment an exec passes on.
    "environ",
    // Plain reads of what ld.so has noted.
    "__libc_stack_end",
    "getauxval",
];

/// Called by the constructor, before the program has a second thread: our own look at libc, and the crate `detour`, which would
/// stop other threads if there were any.
const CONSTRUCTOR: &[&str] =
    &["__libc_current_sigrtmin", "clock_gettime", "getpid", "pthread_equal", "pthread_self", "sigfillset"];

/// What the Rust runtime brings along: messages and backtraces of panics, and what the linker adds to every library. Hooks do not
/// panic; parking_lot takes memory and yields when a mapper's threads change snapshots at once.
const RUNTIME: &[&str] = &[
    "_ITM_deregisterTMCloneTable",
    "_ITM_registerTMCloneTable",
    "__cxa_finalize",
    "__gmon_start__",
    "abort",
    "dl_iterate_phdr",
    "free",
    "getcwd",
    "getenv",
    "lseek64",
    "readlink",
    "realpath",
    "sched_yield",
];

/// What the library needs beside libc: the loader, for the storage of threads.
const NEEDED: &[&str] = &["libc.so.6", "ld-linux-x86-64.so.2"];

/// The oldest glibc that loads the library: no import has a newer version.
const OLDEST: (u32, u32) = (2, 18);

/// What stands before libc's functions of the same names, and our own three.
const EXPORTS: &[&str] = &[
    "__snapshim_active __snapshim_check __snapshim_mapv __snapshim_stat __snapshim_version __snapshim_why",
    "__snapshim_active __snapshim_check __snapshim_drop __snapshim_mapv __snapshim_stat __snapshim_version",
    // write
    "write __write pwrite pwrite64 __pwrite64 writev pwritev pwritev64 pwritev2 pwritev64v2",
    // read
    "read __read __read_chk pread pread64 __pread64 readv preadv preadv64 preadv2 preadv64v2 getrandom process_vm_readv",
    // receive
    "recv recvfrom recvmsg recvmmsg",
    // resize
    "truncate truncate64 ftruncate ftruncate64 fallocate fallocate64 posix_fallocate posix_fallocate64",
    // times
    "futimens utimensat utimes lutimes futimes futimesat utime",
    "open open64 openat openat64 creat creat64 __open __open64 __openat __openat64 open_by_handle_at openat2",
    // taken as a whole where libc's code cannot be patched
    "fopen fopen64 _IO_fopen freopen freopen64 __open_2 __open64_2 __openat_2 __openat64_2 posix_spawn posix_spawnp pidfd_spawn pidfd_spawnp",
    // message
    "herror",
    // what loads libraries
    "dlopen dlmopen",
    // whose child acts in the caller's memory
    "vfork __vfork",
    "aio_write aio_write64 lio_listio lio_listio64",
    // copy
    "sendfile sendfile64 splice copy_file_range vmsplice ioctl",
    // asynchronous and bare calls
    "io_submit io_setup io_queue_init io_destroy io_queue_release io_uring_setup io_uring_queue_init io_uring_queue_init_params io_uring_queue_init_mem io_uring_get_probe",
    "syscall",
    // descriptors
    "close __close close_range dup2 __dup2 dup3 __dup3",
    // map
    "mmap mmap64 munmap mremap remap_file_pages mprotect pkey_mprotect mlock mlock2 munlock mlockall munlockall mseal shmat",
    "madvise posix_madvise process_madvise",
    // process
    "daemon forkpty",
    "fork __fork _Fork clone execve execveat fexecve _exit _Exit",
    // rights
    "setuid setgid seteuid setegid setreuid setregid setresuid setresgid setgroups capset unshare setns",
    // confine
    "chroot pivot_root mount umount umount2 move_mount mount_setattr setrlimit setrlimit64 prlimit prlimit64 setfsuid setfsgid prctl",
    // signal
    "sigaction __sigaction sigprocmask pthread_sigmask sigpending sigsuspend __sigsuspend sigtimedwait signalfd",
    "signal bsd_signal ssignal sysv_signal __sysv_signal sigwait sigwaitinfo",
    "ppoll pselect epoll_pwait epoll_pwait2 setcontext swapcontext pthread_create pthread_attr_setsigmask_np",
    // jump
    "longjmp _longjmp siglongjmp __longjmp_chk sigaltstack __sigaltstack",
];

/// The names in one column of nm's output, without versions.
fn symbols(selection: &str) -> BTreeSet<String> {
    let listed = run_ok(Command::new("nm").args(["-D", selection]).arg(library()));
    let last =
        |line: &str| line.split_whitespace().last().map(|name| name.split('@').next().unwrap_or(name).to_owned());
    listed.lines().filter_map(last).collect()
}

fn set(lists: &[&[&str]]) -> BTreeSet<String> {
    lists.concat().iter().flat_map(|names| names.split_whitespace()).map(str::to_owned).collect()
}

fn assert_same(found: &BTreeSet<String>, listed: &BTreeSet<String>, what: &str) {
    let new: Vec<_> = found.difference(listed).collect();
    let gone: Vec<_> = listed.difference(found).collect();
    assert!(new.is_empty() && gone.is_empty(), "{what} that are not listed: {new:?}; listed, but gone: {gone:?}");
}

#[test]
fn nothing_is_imported_that_is_not_listed() {
    assert_same(&symbols("--undefined-only"), &set(&[HOOK_PATH, CONSTRUCTOR, RUNTIME]), "imports");
}

/// Once it needed GLIBC_2.34 and libgcc_s: with an older libc, or without the other, no program started that inherited it.
#[test]
fn what_is_imported_is_in_any_libc_of_the_last_years() {
    let dynamic = run_ok(Command::new("readelf").arg("-dW").arg(library()));
    let needed: BTreeSet<_> = dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned()))
        .collect();
    assert_eq!(needed, set(&[NEEDED]));
    let versions = run_ok(Command::new("readelf").arg("-VW").arg(library()));
    let names = versions.lines().filter_map(|line| line.split_once("Name: ")?.1.split_whitespace().next());
    let newer: Vec<_> = names
        .filter(|name| {
            let numbers = name.strip_prefix("GLIBC_").map(|text| text.split('.').map(str::parse));
            let version: Option<Vec<u32>> = numbers.and_then(|numbers| numbers.collect::<Result<_, _>>().ok());
            version.is_none_or(|version| version > vec![OLDEST.0, OLDEST.1])
        })
        .collect();
    assert!(versions.contains("GLIBC_2.2.5") && newer.is_empty(), "{newer:?}");
}

#[test]
fn nothing_is_exported_that_is_not_meant_to_be() {
    assert_same(&symbols("--defined-only"), &set(&[EXPORTS]), "exports");
}

/// Which functions of the library refer to which imports: function -> imports, from the slots that its instructions name.
fn uses() -> Option<BTreeMap<String, BTreeSet<String>>> {
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).arg(library()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let slots: BTreeMap<u64, String> = output("readelf", &["-rW"])?
        .lines()
        .filter(|line| line.contains("_GLOB_DAT") || line.contains("_JUMP_SLO"))
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let name = fields.get(4)?.split('@').next()?;
            Some((u64::from_str_radix(fields[0], 16).ok()?, name.to_owned()))
        })
        .collect();
    let mut uses = BTreeMap::<String, BTreeSet<String>>::new();
    let mut function = String::new();
    for line in output("objdump", &["-d", "--no-show-raw-insn", "--demangle=rust"])?.lines() {
        if let Some((_, name)) = line.strip_suffix(">:").and_then(|line| line.split_once(" <")) {
            name.clone_into(&mut function);
        } else if let Some((_, target)) = line.split_once("# ") {
            let slot = target.split_whitespace().next().and_then(|address| u64::from_str_radix(address, 16).ok());
            if let Some(import) = slot.and_then(|slot| slots.get(&slot)) {
                uses.entry(function.clone()).or_default().insert(import.clone());
            }
        }
    }
    Some(uses)
}

/// Looks up what has no raw system call: before the constructor, for another library's that comes first, and for liburing when it
/// came later.
const LOOKS_UP: &str = "snapshim::interpose::next_symbol";

/// The entries that redhook makes drop the payload of a panic.
const PANIC_PATH: &[&str] = &["free"];

/// What looks at the namespace that dlmopen(3) has made.
const AFTER_DLMOPEN_ITSELF: &str = "snapshim::hooks::namespace::see_libc_of";

/// What stands in for an unwinder where no library has one.
const CANNOT_UNWIND: &str = "snapshim::interpose::late::cannot_unwind";

/// The constructor, and what only it calls where that is not inlined.
const CONSTRUCTOR_ITSELF: &str = "snapshim::constructor::construct";
const OF_THE_CONSTRUCTOR: &str = "snapshim::interpose::detours::protect";

#[test]
fn our_own_code_calls_only_what_the_hook_path_may() {
    let Some(uses) = uses() else {
        return skip("our_own_code_calls_only_what_the_hook_path_may", "readelf or objdump is missing");
    };
    let (hook_path, exports) = (set(&[HOOK_PATH]), set(&[EXPORTS]));
    let is_ours = |function: &str| {
        ["snapshim::", "rustix::", "syscalls::"].iter().any(|name| function.contains(name))
            || exports.contains(function)
    };
    assert!(
        uses.keys().filter(|function| is_ours(function)).count() > 5,
        "the library has its symbols: {:?}",
        uses.keys()
    );
    for (function, imports) in uses.iter().filter(|(function, _)| is_ours(function)) {
        let allowed = match function.as_str() {
            // Before the program runs it may call what it likes.
            CONSTRUCTOR_ITSELF | OF_THE_CONSTRUCTOR | LOOKS_UP | AFTER_DLMOPEN_ITSELF | CANNOT_UNWIND => continue,
            entry if exports.contains(entry) => set(&[HOOK_PATH, PANIC_PATH]),
            _ => hook_path.clone(),
        };
        let others: Vec<_> = imports.difference(&allowed).collect();
        assert!(others.is_empty(), "{function} calls {others:?}");
    }
}

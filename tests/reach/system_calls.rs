//! The kernel's system calls on x86-64, each sorted by what it can do to a snapshot.

/// They change a file while a thread is in them. A hook announces each of them, and a creation waits for a thread that may be in
/// one.
pub const WRITES: &str = "
    write pwrite64 writev pwritev pwritev2 io_submit copy_file_range sendfile splice ioctl
    truncate ftruncate fallocate open openat openat2 creat open_by_handle_at
    utime utimes futimesat utimensat
";

/// They change a file's bytes later, what memory shows of them, what a descriptor means, or which processes share them. The library
/// has to see each: by name, and by number.
pub const CHANGES: &str = "
    io_setup io_destroy io_uring_setup vmsplice
    close close_range dup2 dup3
    mmap munmap mremap mprotect pkey_mprotect madvise process_madvise remap_file_pages shmat
    fork vfork clone clone3 execve execveat
";

/// They change no file, but another promise needs them seen: what the kernel stores into a shared mapping, SIGSEGV as the program
/// set it, locked memory, credentials and limits that decide what this process may still reach, the end of a thread
/// and of the process.
pub const SEEN: &str = "
    read pread64 readv preadv preadv2 recvfrom recvmsg recvmmsg getrandom process_vm_readv
    rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigsuspend signalfd4 sigaltstack ppoll pselect6 epoll_pwait epoll_pwait2
    mlock mlock2 munlock mlockall munlockall mseal userfaultfd
    setuid setgid setreuid setregid setresuid setresgid setgroups capset unshare setns
    chroot pivot_root mount_setattr setrlimit prlimit64 setfsuid setfsgid prctl seccomp landlock_restrict_self
    exit exit_group
";

/// They change what a snapshot may show, and docs/not-covered.md says so in these words.
pub const NOT_COVERED: [(&str, &str); 15] = [
    ("brk", "`brk`"),
    ("process_vm_writev", "`process_vm_writev`"),
    ("ptrace", "a debugger"),
    // By a ring that the program set up by its own instruction, or received.
    ("io_uring_enter", "io_uring"),
    ("io_uring_register", "io_uring"),
    // The kernel changes a block device, or a file, by itself.
    ("mount", "a mounted block device"),
    ("umount2", "a mounted block device"),
    ("fsconfig", "a mounted block device"),
    ("fsmount", "a mounted block device"),
    ("move_mount", "a mounted block device"),
    ("swapon", "swap file"),
    ("swapoff", "swap file"),
    ("acct", "process accounting"),
    ("quotactl", "quota file"),
    ("quotactl_fd", "quota file"),
];

/// They change no byte of a file and no mapping of one.
pub const CANNOT_CHANGE: &str = "
    accept accept4 access add_key adjtimex alarm arch_prctl bind bpf cachestat capget chdir chmod chown clock_adjtime
    clock_getres clock_gettime clock_nanosleep clock_settime connect delete_module dup epoll_create epoll_create1 epoll_ctl epoll_wait
    eventfd eventfd2 faccessat faccessat2 fadvise64 fanotify_init fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown
    fchownat fcntl fdatasync fgetxattr file_getattr file_setattr finit_module flistxattr flock fremovexattr fsetxattr fsopen fspick
    fstat fstatfs fsync futex futex_requeue futex_wait futex_waitv futex_wake get_mempolicy get_robust_list get_thread_area getcpu
    getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority
    getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr getxattrat init_module
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_getevents io_pgetevents ioperm iopl ioprio_get
    ioprio_set kcmp kexec_file_load kexec_load keyctl kill landlock_add_rule landlock_create_ruleset lchown
    lgetxattr link linkat listen listmount listns listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lsm_get_self_attr
    lsm_list_modules lsm_set_self_attr lstat map_shadow_stack mbind membarrier memfd_create memfd_secret migrate_pages mincore mkdir
    mkdirat mknod mknodat modify_ldt move_pages mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend
    mq_unlink msgctl msgget msgrcv msgsnd msync name_to_handle_at nanosleep newfstatat open_tree open_tree_attr pause
    perf_event_open personality pidfd_getfd pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free poll     process_mrelease readahead readlink readlinkat reboot removexattr removexattrat rename renameat renameat2 request_key
    restart_syscall rmdir rseq rt_sigqueueinfo rt_sigreturn rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield select semctl semget semop semtimedop sendmmsg sendmsg sendto set_mempolicy
    set_mempolicy_home_node set_robust_list set_thread_area set_tid_address setdomainname sethostname setitimer
    setpgid setpriority setsid setsockopt settimeofday setxattr setxattrat shmctl shmdt shmget shutdown signalfd
    socket socketpair stat statfs statmount statx symlink symlinkat sync sync_file_range syncfs sysfs sysinfo syslog tee tgkill time
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill
    umask uname unlink unlinkat uprobe uretprobe uselib ustat vhangup wait4 waitid
";

/// In the kernel's header, but in no kernel that the library runs on (syscalls(2)).
pub const GONE: &str = "
    _sysctl afs_syscall create_module epoll_ctl_old epoll_wait_old get_kernel_syms getpmsg lookup_dcookie nfsservctl putpmsg query_module
    security tuxcall vserver
";

/// In the kernel's symbols, but under no number of this machine's table: other machines', other word sizes', or other names of
/// numbers above.
pub const OTHER_TABLES: &str = "
    chown16 fchown16 getegid16 geteuid16 getgid16 getgroups16 getresgid16 getresuid16 getuid16 lchown16 setfsgid16 setfsuid16 setgid16
    setgroups16 setregid16 setresgid16 setresuid16 setreuid16 setuid16
    adjtimex_time32 clock_adjtime32 clock_getres_time32 clock_gettime32 clock_nanosleep_time32 clock_settime32 futex_time32
    futimesat_time32 io_getevents_time32 io_pgetevents_time32 mq_timedreceive_time32 mq_timedsend_time32 nanosleep_time32 ppoll_time32
    pselect6_time32 recvmmsg_time32 rt_sigtimedwait_time32 sched_rr_get_interval_time32 semtimedop_time32 stime32 time32
    timer_gettime32 timer_settime32 timerfd_gettime32 timerfd_settime32 utime32 utimensat_time32 utimes_time32
    fadvise64_64 fstatfs64 ia32_fadvise64 ia32_fadvise64_64 ia32_fallocate ia32_ftruncate64 ia32_pread64 ia32_pwrite64 ia32_readahead
    ia32_sync_file_range ia32_truncate64 sendfile64 statfs64 sync_file_range2
    gethostname ipc llseek mmap_pgoff newfstat newlstat newstat newuname ni_syscall nice old_getrlimit old_mmap old_msgctl old_readdir
    old_select old_semctl old_shmctl oldumount olduname recv send sgetmask signal sigpending sigprocmask sigsuspend socketcall ssetmask
    stime umount vm86 vm86old waitpid
    pciconfig_iobase pciconfig_read pciconfig_write rtas s390_ipc s390_pci_mmio_read s390_pci_mmio_write spu_create spu_run
    subpage_prot
";

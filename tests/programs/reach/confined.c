/* confined HOW SCENARIO [more]: confines itself to the system calls that the scenario makes natively, then changes "file" by it.
 * HOW is kill or trap: what a filter does at any other call, or strict (SECCOMP_MODE_STRICT), for scenarios that only write. With
 * "more" it may also make the calls that a thread sleeps and wakes by. Says "done"; whatever a call does natively is in "file".
 *
 * confined under COMMAND...: executes a program under a filter.
 * confined but NUMBER: may make every system call but that one, writes to page 20 * NUMBER of "file", stores and splices into two
 * behind it, and asks for a ring.
 * confined refused: asks for a filter that the kernel refuses; a snapshot taken afterwards is "kept", natively "changed".
 * confined beside SIZE DELAY grow|open: another thread has a shared mapping of the half of "file" grow to SIZE bytes, or makes the
 * page before it writable, DELAY microseconds after this one has begun to confine itself. Then it stores there.
 * confined again: has a snapshot, installs a filter that kills, and then another one. */
#include "check.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>

/* DISTANCE: pages between two writers. No writer preserves pages of the next one, ahead of its own. */
enum { PAGES = 16, DISTANCE = 20 };

static int file, other, ends[2];
static unsigned char *shared;
static unsigned char page[4096];

static void install(const int *allowed, const int *more, unsigned action)
{
    struct sock_filter code[100];
    size_t length = 0, count = 0;
    const int always[] = {SYS_write, SYS_exit, SYS_exit_group, SYS_rt_sigreturn, -1};
    const int *lists[] = {always, allowed, more};
    code[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    code[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    code[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t list = 0; list < 3; list++)
        for (const int *number = lists[list]; *number >= 0; number++, count++) {
            code[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)*number, 0, 1);
            code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        }
    code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
    CHECK(length <= sizeof code / sizeof *code);
    struct sock_fprog program = {.len = (unsigned short)length, .filter = code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static void to_pipe(void)
{
    CHECK(write(ends[1], page, 100) == 100);
}

static void by_write(void)
{
    CHECK(write(file, page, PAGE) == (ssize_t)PAGE && write(file, page, 10) == 10);
}

static void by_pwrite(void)
{
    CHECK(pwrite(file, page, PAGE, 2 * PAGE + 5) == (ssize_t)PAGE);
}

static void by_writev(void)
{
    struct iovec parts[] = {{page, 100}, {page, 5000 - 4096}};
    CHECK(writev(file, parts, 2) == 1004 && pwritev(file, parts, 2, 3 * PAGE) == 1004);
}

static void to_the_end(void)
{
    CHECK(write(other, page, PAGE) == (ssize_t)PAGE);
}

static void by_ftruncate(void)
{
    CHECK(ftruncate(file, 3 * PAGE + 7) == 0);
}

static void by_truncate(void)
{
    CHECK(truncate("file", PAGE + 1) == 0);
}

static void by_open(void)
{
    CHECK(open("file", O_WRONLY | O_TRUNC) >= 0);
}

static void by_creat(void)
{
    CHECK(creat("file", 0600) >= 0);
}

static void by_punching(void)
{
    CHECK(fallocate(file, 3, PAGE, PAGE) == 0);
}

static void by_copying(void)
{
    off_t from = 0, to = 5 * PAGE;
    CHECK(copy_file_range(other, &from, file, &to, PAGE, 0) == (ssize_t)PAGE);
}

static void by_sendfile(void)
{
    off_t from = 0;
    CHECK(sendfile(file, other, &from, PAGE) == (ssize_t)PAGE);
}

static void after_opening(void)
{
    int now = open("file", O_WRONLY);
    CHECK(now >= 0 && pwrite(now, page, 10, 9) == 10);
}

static void after_reopening(void)
{
    int was = ends[0];
    CHECK(close(was) == 0 && open("file", O_WRONLY) == was && write(was, page, 10) == 10);
}

static void after_duplicating(void)
{
    CHECK(dup2(file, ends[1]) == ends[1] && write(ends[1], page, 10) == 10);
}

static void by_storing(void)
{
    for (size_t at = 0; at < PAGES * PAGE; at += PAGE)
        shared[at] = 0x77;
}

static void after_mapping(void)
{
    unsigned char *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(at != MAP_FAILED);
    at[1] = 0x77;
    CHECK(munmap(at, PAGE) == 0);
}

static void after_growing(void)
{
    unsigned char *at = mremap(shared, 4 * PAGE, PAGES * PAGE, MREMAP_MAYMOVE);
    CHECK(at != MAP_FAILED);
    at[10 * PAGE] = 0x77;
}

static void *write_there(void *nothing)
{
    by_pwrite();
    return nothing;
}

static void in_a_thread(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, write_there, NULL) == 0 && pthread_join(thread, NULL) == 0);
}

static void in_a_child(void)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        by_pwrite();
        _exit(0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
}

static void with_memory(void)
{
    unsigned char *at = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED && read(other, at, PAGE) == (ssize_t)PAGE && mprotect(at, PAGE, PROT_READ) == 0);
    CHECK(madvise(at, PAGE, MADV_DONTNEED) == 0 && munmap(at + PAGE, PAGE) == 0);
    CHECK(mremap(at + 2 * PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE) != MAP_FAILED);
    by_pwrite();
}

static void await_end_of_input(void)
{
    char byte;
    CHECK(write(1, "ready\n", 6) == 6);
    while (read(0, &byte, 1) > 0)
        ;
}

/* Holds a snapshot, which it has taken before; natively an ordinary mapping. */
static void as_mapper(void)
{
    await_end_of_input();
    int is_kept = 1;
    for (size_t at = 0; at < PAGES * PAGE; at++)
        is_kept &= shared[at] == 1;
    CHECK(is_kept ? write(1, "kept\n", 5) == 5 : write(1, "changed\n", 8) == 8);
}

/* Stores into a mapping that it has made before, and goes on. */
static void as_sharer(void)
{
    by_storing();
    await_end_of_input();
    by_storing();
}

static void to_execute(void)
{
    char *const nothing[] = {(char[]){"true"}, NULL};
    extern char **environ;
    CHECK(execve("/bin/true", nothing, environ) == 0);
}

#define CALLS(...) (const int[]){__VA_ARGS__ __VA_OPT__(,) -1}

static const struct {
    const char *name;
    void (*act)(void);
    const int *allowed;
} SCENARIOS[] = {
    {"to_pipe", to_pipe, CALLS()},
    {"by_write", by_write, CALLS()},
    {"by_pwrite", by_pwrite, CALLS(SYS_pwrite64)},
    {"by_writev", by_writev, CALLS(SYS_writev, SYS_pwritev)},
    {"to_the_end", to_the_end, CALLS()},
    {"by_ftruncate", by_ftruncate, CALLS(SYS_ftruncate)},
    {"by_truncate", by_truncate, CALLS(SYS_truncate)},
    {"by_open", by_open, CALLS(SYS_openat)},
    {"by_creat", by_creat, CALLS(SYS_openat, SYS_creat)},
    {"by_punching", by_punching, CALLS(SYS_fallocate)},
    {"by_copying", by_copying, CALLS(SYS_copy_file_range)},
    {"by_sendfile", by_sendfile, CALLS(SYS_sendfile)},
    {"after_opening", after_opening, CALLS(SYS_openat, SYS_pwrite64)},
    {"after_reopening", after_reopening, CALLS(SYS_openat, SYS_close)},
    {"after_duplicating", after_duplicating, CALLS(SYS_dup2)},
    {"by_storing", by_storing, CALLS()},
    {"after_mapping", after_mapping, CALLS(SYS_mmap, SYS_munmap)},
    {"after_growing", after_growing, CALLS(SYS_mremap)},
    {"in_a_thread", in_a_thread,
     CALLS(SYS_pwrite64, SYS_clone, SYS_clone3, SYS_mmap, SYS_munmap, SYS_mprotect, SYS_madvise, SYS_rt_sigprocmask,
           SYS_set_robust_list, SYS_rseq, SYS_futex, SYS_rt_sigaction, SYS_getrandom, SYS_brk)},
    {"in_a_child", in_a_child, CALLS(SYS_pwrite64, SYS_clone, SYS_wait4, SYS_set_robust_list, SYS_rt_sigprocmask)},
    {"as_mapper", as_mapper, CALLS(SYS_read)},
    {"as_sharer", as_sharer, CALLS(SYS_read)},
    {"to_execute", to_execute,
     CALLS(SYS_execve, SYS_brk, SYS_arch_prctl, SYS_access, SYS_openat, SYS_newfstatat, SYS_mmap, SYS_close, SYS_read, SYS_pread64,
           SYS_set_tid_address, SYS_set_robust_list, SYS_rseq, SYS_mprotect, SYS_prlimit64, SYS_munmap, SYS_getrandom, SYS_fstat)},
    {"with_memory", with_memory, CALLS(SYS_pwrite64, SYS_read, SYS_mmap, SYS_mprotect, SYS_madvise, SYS_munmap, SYS_mremap)},
};

/* Executes a program under a filter that kills for calls that few programs make, with $library in LD_PRELOAD. */
static int execute_under_filter(char **command)
{
    const unsigned rare[] = {SYS_process_vm_readv, SYS_process_vm_writev, SYS_pidfd_open, SYS_pidfd_getfd, SYS_close_range};
    struct sock_filter code[20];
    size_t length = 0;
    code[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t at = 0; at < sizeof rare / sizeof *rare; at++) {
        code[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, rare[at], 0, 1);
        code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    }
    code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = (unsigned short)length, .filter = code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
    CHECK(setenv("LD_PRELOAD", getenv("library"), 1) == 0);
    execvp(command[0], command);
    return 1;
}

static struct sock_fprog kills_for(unsigned number)
{
    static struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    code[1].k = number;
    return (struct sock_fprog){.len = sizeof code / sizeof *code, .filter = code};
}

/* Installs a filter that kills for one system call. */
static void forbid(unsigned number)
{
    struct sock_fprog program = kills_for(number);
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static size_t half;
static useconds_t delay;
static _Atomic int is_mapped;

static void *change_beside(void *how)
{
    while (!is_mapped)
        ;
    usleep(delay);
    if (strcmp(how, "grow") == 0)
        CHECK(mremap(shared, half, 2 * half, 0) == shared);
    else
        CHECK(mprotect(shared - 2 * PAGE, PAGE, PROT_READ | PROT_WRITE) == 0);
    return how;
}

static int confine_beside(char *how)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, change_beside, how) == 0);
    unsigned char *first = free_range(2 * half + 2 * PAGE);
    file = open("file", O_RDWR);
    shared = first + 2 * PAGE;
    CHECK(file >= 0 && mmap(first, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, file, (off_t)half) == first);
    CHECK(mmap(shared, half, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == shared);
    is_mapped = 1;
    forbid(SYS_memfd_create);
    CHECK(pthread_join(thread, NULL) == 0);
    *(strcmp(how, "grow") == 0 ? shared + half : first) = 0x77;
    CHECK(write(1, "done\n", 5) == 5);
    _exit(0);
}

static int confine_again(void)
{
    file = open("file", O_RDONLY);
    CHECK(file >= 0 && mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, file, 0) != MAP_FAILED);
    forbid(SYS_memfd_create);
    forbid(SYS_memfd_create);
    CHECK(write(1, "done\n", 5) == 5);
    _exit(0);
}

/* Writes, under a filter that kills for one system call. */
static int write_under_filter(unsigned number)
{
    file = open("file", O_RDWR);
    CHECK(file >= 0);
    shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, (off_t)((number * DISTANCE + 10) * PAGE));
    CHECK(shared != MAP_FAILED && pipe(ends) == 0);
    pid_t feeder = fork();
    if (feeder == 0) {
        usleep(20000);
        CHECK(write(ends[1], "spliced", 7) == 7);
        _exit(0);
    }
    forbid(number);
    CHECK(pwrite(file, "written", 7, (off_t)(number * DISTANCE * PAGE)) == 7);
    shared[0] = 0x77;
    loff_t behind = (off_t)((number * DISTANCE + 5) * PAGE);
    CHECK(splice(ends[0], NULL, file, &behind, 7, 0) == 7);
    /* The library has to say something, unless it may not: that a ring is refused. */
    unsigned char parameters[120] = {0};
    syscall(SYS_io_uring_setup, 1, parameters);
    CHECK(write(1, "done\n", 5) == 5);
    _exit(0);
}

static void *have_own_filter(void *nothing)
{
    char byte;
    struct sock_fprog program = kills_for(SYS_reboot);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
    CHECK(write(other, "", 1) == 1 && read(ends[0], &byte, 1) == 1);
    return nothing;
}

/* Asks for a filter for all threads, of which one has another: the kernel answers with its number. */
static int be_refused_filter(void)
{
    pthread_t thread;
    char byte;
    int has_filter[2];
    file = open("file", O_RDWR);
    CHECK(file >= 0 && pipe(ends) == 0 && pipe(has_filter) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    other = has_filter[1];
    CHECK(pthread_create(&thread, NULL, have_own_filter, NULL) == 0 && read(has_filter[0], &byte, 1) == 1);
    struct sock_fprog program = kills_for(SYS_memfd_create);
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) > 0);
    unsigned char *at = snapshot(file, 0, PAGES * PAGE, PROT_READ);
    by_pwrite();
    printf("%s\n", at[2 * PAGE + 5] == 1 ? "kept" : "changed");
    CHECK(write(ends[1], "", 1) == 1 && pthread_join(thread, NULL) == 0);
    return 0;
}

int main(int argc, char **argv)
{
    memset(page, 0x77, sizeof page);
    if (argc == 2 && strcmp(argv[1], "refused") == 0)
        return be_refused_filter();
    if (argc == 2 && strcmp(argv[1], "again") == 0)
        return confine_again();
    CHECK(argc >= 3);
    if (strcmp(argv[1], "beside") == 0) {
        CHECK(argc == 5);
        half = strtoul(argv[2], NULL, 0) / 2;
        delay = (useconds_t)atoi(argv[3]);
        return confine_beside(argv[4]);
    }
    if (strcmp(argv[1], "but") == 0)
        return write_under_filter((unsigned)atoi(argv[2]));
    if (strcmp(argv[1], "under") == 0)
        return execute_under_filter(argv + 2);
    file = open("file", O_RDWR);
    int appends = strcmp(argv[2], "to_the_end") == 0;
    other = open(appends ? "file" : "other", O_RDWR | (appends ? O_APPEND : 0));
    CHECK(file >= 0 && other >= 0 && pipe(ends) == 0);
    if (strcmp(argv[2], "by_storing") == 0 || strcmp(argv[2], "as_sharer") == 0)
        shared = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (strcmp(argv[2], "after_growing") == 0)
        shared = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (strcmp(argv[2], "as_mapper") == 0)
        shared = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, file, 0);
    CHECK(shared != MAP_FAILED);
    const int sleeping[] = {SYS_futex, SYS_sched_yield, SYS_nanosleep, SYS_clock_nanosleep, SYS_rt_sigprocmask, -1}, none[] = {-1};
    for (size_t at = 0; at < sizeof SCENARIOS / sizeof *SCENARIOS; at++) {
        if (strcmp(argv[2], SCENARIOS[at].name) != 0)
            continue;
        if (strcmp(argv[1], "strict") == 0)
            CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
        else
            install(SCENARIOS[at].allowed, argc > 3 ? sleeping : none,
                    strcmp(argv[1], "kill") == 0 ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_TRAP);
        SCENARIOS[at].act();
        CHECK(write(1, "done\n", 5) == 5);
        syscall(SYS_exit, 0);
    }
    return 1;
}

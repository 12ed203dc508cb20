/* A handler that interrupted a call forks: both processes go on with that call, and both are waited for.
 *
 * Where the call is interrupted is no matter of luck: a filter of system calls (seccomp(2)) has the call itself, or the look at its
 * file, raise SIGSYS. */
#include "check.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <pthread.h>
#include <ucontext.h>

#define PAGES ((size_t)16)
#define SIZE (PAGES * PAGE)
/* Bytes from here on raise the signal. */
#define TRAPPED (4 * PAGE)
/* What a call that is made in the handler has in its last register. */
enum { PASS = 0x51a5 };

static int file;
/* Where the handler forks, what it does in each process before the call is made, and in which process it is. */
static int forks_at;
static void (*before)(int number, unsigned char *bytes);
static int is_forked, is_child, is_told;
/* Of the handler, besides SA_SIGINFO. */
static int flags;

static long call(long number, long long *r)
{
    register long r10 __asm__("r10") = (long)r[REG_R10];
    register long r8 __asm__("r8") = (long)r[REG_R8];
    register long r9 __asm__("r9") = PASS;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(r[REG_RDI]), "S"(r[REG_RSI]), "d"(r[REG_RDX]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static void on_trap(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    long long *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (info->si_syscall == forks_at && !is_forked) {
        is_forked = 1;
        pid_t pid = fork();
        CHECK(pid >= 0);
        is_child = pid == 0;
        if (is_child)
            prctl(PR_SET_PDEATHSIG, SIGKILL);
    }
    before(info->si_syscall, info->si_syscall == SYS_pwrite64 ? (unsigned char *)registers[REG_RSI] : NULL);
    registers[REG_RAX] = call(info->si_syscall, registers);
}

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define SKIP_UNLESS(value, count) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, count)
#define SKIP_IF(value, count) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, count, 0)

static void trap(void)
{
    struct sock_filter filter[] = {
        LOAD(args[5]), SKIP_IF(PASS, 8),
        LOAD(args[0]), SKIP_UNLESS((unsigned)file, 6),
        LOAD(nr), SKIP_IF(SYS_statx, 3),
        SKIP_UNLESS(SYS_pwrite64, 3),
        LOAD(args[3]), BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, TRAPPED, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | flags};
    CHECK(sigaction(SIGSYS, &action, NULL) == 0);
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static int to_parent[2], to_child[2], from_both[2];

static void tell(const int *pipe)
{
    CHECK(write(pipe[1], "", 1) == 1);
}

static void await(const int *pipe)
{
    char byte;
    CHECK(read(pipe[0], &byte, 1) == 1);
}

static void open_pipes(void)
{
    CHECK(pipe(to_parent) == 0 && pipe(to_child) == 0 && pipe(from_both) == 0);
}

/* Writes version 1, or 2 in the child, with the handler in between; then, when told, version 3 without. */
static void write_in_both(void)
{
    /* With a signal blocked, nobody takes a call for over because its thread waits elsewhere. */
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &blocked, NULL) == 0);
    trap();
    overwrite(file, TRAPPED, PAGE, 1);
    tell(from_both);
    await(is_child ? to_child : to_parent);
    overwrite(file, 0, PAGE, 3);
    tell(from_both);
    for (;;)
        pause();
}

static pid_t start_writing(int number, void (*before_call)(int, unsigned char *))
{
    open_pipes();
    forks_at = number, before = before_call;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        write_in_both();
    }
    return pid;
}

static void end_writing(pid_t pid)
{
    int status;
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid);
}

/* Both write once more, at once, while a snapshot is held. */
static void both_write_on(unsigned char *at, int version)
{
    tell(to_parent), tell(to_child);
    await(from_both), await(from_both);
    CHECK(shows(at + TRAPPED, TRAPPED, PAGE, version) && shows(at, 0, PAGE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
    unsigned char *after = snapshot(file, 0, SIZE, PROT_READ);
    CHECK(shows(after, 0, PAGE, 3));
}

static void child_waits(int number, unsigned char *bytes)
{
    if (number != SYS_pwrite64 || !is_child)
        return;
    memset(bytes, stamp(TRAPPED / PAGE, 2), PAGE);
    tell(from_both);
    await(to_child);
}

static void a_call_goes_on_in_both(int protection)
{
    file = make_file("file", SIZE);
    pid_t writer = start_writing(SYS_pwrite64, child_waits);
    /* The parent's call is over, the child's is not. */
    await(from_both), await(from_both);
    unsigned char *at = mmap(NULL, SIZE, protection, MAP_PRIVATE | MAP_SNAPSHOT, file, 0);
    CHECK(at != MAP_FAILED || errno == ETIMEDOUT);
    tell(to_child);
    await(from_both);
    if (at != MAP_FAILED)
        CHECK(shows(at + TRAPPED, TRAPPED, PAGE, 1));
    at = snapshot(file, 0, SIZE, protection);
    both_write_on(at, 2);
    end_writing(writer);
}

static void a_call_that_a_handler_forked_in_is_waited_for(int protection, enum who who)
{
    (void)who;
    a_call_goes_on_in_both(protection);
    /* A handler that blocks no signal, as who left a call by a jump does not. */
    flags = SA_NODEFER;
    a_call_goes_on_in_both(protection);
}

static void a_child_that_dies_in_an_inherited_call_is_not_waited_for(int protection, enum who who)
{
    (void)who;
    file = make_file("file", SIZE);
    pid_t writer = start_writing(SYS_pwrite64, child_waits);
    await(from_both), await(from_both);
    /* The child with it. */
    end_writing(writer);
    unsigned char *at = snapshot(file, 0, SIZE, protection);
    overwrite(file, 0, SIZE, 3);
    CHECK(shows(at + TRAPPED, TRAPPED, PAGE, 1) && shows(at, 0, PAGE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
}

/* The child waits where it was forked: at the look at the file, announced and not passed. */
static void child_waits_announced(int number, unsigned char *bytes)
{
    if (!is_child)
        return;
    if (number == SYS_pwrite64)
        memset(bytes, stamp(TRAPPED / PAGE, 2), PAGE);
    else if (!is_told++)
        await(to_child);
}

static void an_announcement_is_each_process_its_own(int protection, enum who who)
{
    (void)who;
    int other = make_file("other", PAGE);
    unsigned char *held = snapshot(other, 0, PAGE, PROT_READ);
    file = make_file("file", SIZE);
    pid_t writer = start_writing(SYS_statx, child_waits_announced);
    /* The parent is through before the child goes on. */
    await(from_both);
    unsigned char *before = snapshot(file, 0, SIZE, protection);
    tell(to_child);
    await(from_both);
    CHECK(shows(before + TRAPPED, TRAPPED, PAGE, 1));
    unsigned char *at = snapshot(file, 0, SIZE, protection);
    both_write_on(at, 2);
    CHECK(shows(before + TRAPPED, TRAPPED, PAGE, 1) && shows(before, 0, PAGE, 0) && shows(held, 0, PAGE, 0));
    end_writing(writer);
}

static void waits(int number, unsigned char *bytes)
{
    (void)bytes;
    if (number != SYS_pwrite64)
        return;
    tell(from_both);
    await(to_child);
}

/* A process lends its memory, and the thread that the table knows, to a child of vfork(2). */
static void a_call_of_a_vfork_child_is_waited_for(int protection, enum who who)
{
    (void)who;
    for (int is_known = 0; is_known < 2; is_known++) {
        file = make_file("file", SIZE);
        open_pipes();
        before = waits;
        pid_t writer = fork();
        if (writer == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (is_known)
                overwrite(file, 0, PAGE, 1);
            trap();
            pid_t pid = vfork();
            if (pid == 0) {
                static unsigned char bytes[PAGE];
                memset(bytes, stamp(TRAPPED / PAGE, 1), PAGE);
                _exit(pwrite(file, bytes, PAGE, TRAPPED) != PAGE);
            }
            int status;
            _exit(waitpid(pid, &status, 0) != pid || status != 0);
        }
        CHECK(writer > 0);
        await(from_both);
        unsigned char *at = mmap(NULL, SIZE, protection, MAP_PRIVATE | MAP_SNAPSHOT, file, 0);
        CHECK(at != MAP_FAILED || errno == ETIMEDOUT);
        tell(to_child);
        int status;
        CHECK(waitpid(writer, &status, 0) == writer && status == 0);
        if (at != MAP_FAILED)
            CHECK(shows(at + TRAPPED, TRAPPED, PAGE, 0));
        at = snapshot(file, 0, SIZE, protection);
        CHECK(shows(at + TRAPPED, TRAPPED, PAGE, 1));
    }
}

/* How the parent of a child of vfork(2) ends while the child writes. */
enum end { REAPED, ZOMBIE, REPLACED };

static void *replace_image(void *nothing)
{
    await(to_parent);
    execlp("sleep", "sleep", "1000", NULL);
    return nothing;
}

static void lend_memory_to_a_writer(enum end end)
{
    pthread_t thread;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    trap();
    if (end == REPLACED)
        CHECK(pthread_create(&thread, NULL, replace_image, NULL) == 0);
    pid_t pid = vfork();
    CHECK(pid == 0);
    static unsigned char bytes[PAGE];
    memset(bytes, stamp(TRAPPED / PAGE, 1), PAGE);
    if (pwrite(file, bytes, PAGE, TRAPPED) == PAGE)
        tell(from_both);
    _exit(0);
}

static void await_image(pid_t pid, const char *name)
{
    char path[64], found[64] = "";
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    while (strncmp(found, name, strlen(name)) != 0) {
        FILE *comm = fopen(path, "r");
        CHECK(comm && fgets(found, sizeof found, comm));
        fclose(comm);
    }
}

static void a_call_of_a_vfork_child_is_waited_for_when_its_parent_is_gone(int protection, enum who who)
{
    (void)who;
    for (enum end end = REAPED; end <= REPLACED; end++) {
        file = make_file("file", SIZE);
        open_pipes();
        before = waits;
        pid_t writer = fork();
        if (writer == 0)
            lend_memory_to_a_writer(end);
        CHECK(writer > 0);
        await(from_both);
        siginfo_t info;
        if (end == REPLACED)
            tell(to_parent), await_image(writer, "sleep");
        else
            CHECK(kill(writer, SIGKILL) == 0 && waitid(P_PID, writer, &info, WEXITED | (end == ZOMBIE ? WNOWAIT : 0)) == 0);
        unsigned char *at = mmap(NULL, SIZE, protection, MAP_PRIVATE | MAP_SNAPSHOT, file, 0);
        CHECK(at != MAP_FAILED || errno == ETIMEDOUT);
        tell(to_child);
        await(from_both);
        if (at != MAP_FAILED)
            CHECK(shows(at + TRAPPED, TRAPPED, PAGE, 0));
        at = snapshot(file, 0, SIZE, protection);
        CHECK(shows(at + TRAPPED, TRAPPED, PAGE, 1));
        if (end == REPLACED)
            CHECK(kill(writer, SIGKILL) == 0);
        if (end != REAPED)
            CHECK(waitid(P_PID, writer, &info, WEXITED) == 0);
    }
}

static const struct scenario scenarios[] = {
    ONCE(a_call_that_a_handler_forked_in_is_waited_for),
    ONCE(a_child_that_dies_in_an_inherited_call_is_not_waited_for),
    ONCE(an_announcement_is_each_process_its_own),
    ONCE(a_call_of_a_vfork_child_is_waited_for),
    ONCE(a_call_of_a_vfork_child_is_waited_for_when_its_parent_is_gone),
};
MAIN(scenarios)

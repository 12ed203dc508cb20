/* Calls that are interrupted by a handler where the test wants it.
 *
 * Where that is is no matter of luck: a filter of system calls (seccomp(2)) has the call itself, or the look at its file, raise
 * SIGSYS. */
#ifndef LIFE_TRAP_H
#define LIFE_TRAP_H

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
static int is_forked, is_child;
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

/* A snapshot beside a call that goes on only then. MAP_FAILED: it was refused, as the call did not come to its end. */
static unsigned char *snapshot_beside_call(int protection)
{
    unsigned char *at = mmap(NULL, SIZE, protection, MAP_PRIVATE | MAP_SNAPSHOT, file, 0);
    CHECK(at != MAP_FAILED || errno == ETIMEDOUT);
    tell(to_child);
    return at;
}

/* Afterwards: the call, which wrote version 1, came behind that snapshot, and in front of the next. */
static void check_call_came_between(const unsigned char *before_it, int protection)
{
    if (before_it != MAP_FAILED)
        CHECK(shows(before_it + TRAPPED, TRAPPED, PAGE, 0));
    const unsigned char *after = snapshot(file, 0, SIZE, protection);
    CHECK(shows(after + TRAPPED, TRAPPED, PAGE, 1));
}

enum { STACK = 1 << 17 };

/* Does `body` in a thread that has the lower half of the memory, which it is handed, for its stack; the end of the process. */
static void __attribute__((noreturn)) run_below(void *(*body)(void *memory))
{
    pthread_t thread;
    pthread_attr_t attributes;
    unsigned char *memory = mmap(NULL, 2 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    CHECK(memory != MAP_FAILED && pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstack(&attributes, memory, STACK) == 0);
    CHECK(pthread_create(&thread, &attributes, body, memory) == 0 && pthread_join(thread, NULL) == 0);
    _exit(0);
}

#endif

#include "trace.h"

/* Until the process that the thread is in has its stack held. */
static void have_stack_held(int thread)
{
    shared->wishes[thread] = 1;
    for (int tries = 0; shared->wishes[thread] && tries < 200; tries++)
        usleep(20);
    shared->wishes[thread] = 0;
}

/* Whether a call that copies into the thread's memory copies no more than a byte or two from each place, as a thread that preserves
 * does. */
static int is_of_bytes(pid_t tid, const struct __ptrace_syscall_info *information)
{
    const uint64_t *arguments = (const uint64_t *)information->entry.args;
    if (information->entry.nr == SYS_pread64)
        return arguments[2] <= 2;
    errno = 0;
    long length = ptrace(PTRACE_PEEKDATA, tid, (void *)(uintptr_t)(arguments[3] + 8), 0);
    return errno == 0 && length <= 2;
}

/* At the entry of a call that is worth it: one by which a preserving thread copies another's memory, or any that copies. */
static int is_place(pid_t tid, int is_for_bytes)
{
    struct __ptrace_syscall_info information = {0};
    ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof information, &information);
    if (information.op != PTRACE_SYSCALL_INFO_ENTRY)
        return 0;
    switch (information.entry.nr) {
    case SYS_process_vm_readv:
    case SYS_pread64: return is_for_bytes ? is_of_bytes(tid, &information) : below(2) == 0;
    case SYS_read:
    case SYS_ioctl: return !is_for_bytes && below(2) == 0;
    default: return !is_for_bytes && below(40) == 0;
    }
}

/* The next stop of the thread; 0 if none comes. */
static int await_stop(pid_t tid, int *status, int milliseconds)
{
    for (int tries = 0; tries < milliseconds * 20; tries++) {
        pid_t got = waitpid(tid, status, __WALL | WNOHANG);
        if (got != 0)
            return got == tid && WIFSTOPPED(*status);
        usleep(50);
    }
    return 0;
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void trace_one(int thread)
{
    pid_t tid = shared->tids[thread];
    int64_t begin = now_ms();
    int status, calls = 0, signal = 0, is_for_bytes = below(4) != 0;
    if (tid <= 0)
        return;
    if (ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACESYSGOOD) != 0) {
        if (errno == EPERM && kill(tid, 0) == 0 && shared->tids[thread] == tid) /* and not because the thread has ended */
            shared->has_no_tracer = EPERM;
        return;
    }
    ptrace(PTRACE_INTERRUPT, tid, 0, 0);
    while (await_stop(tid, &status, EPISODE_MS)) {
        int number = WSTOPSIG(status), event = status >> 16;
        if (event && number != SIGTRAP) { /* the process has been stopped */
            ptrace(PTRACE_DETACH, tid, 0, 0);
            return;
        }
        signal = event || number == (SIGTRAP | 0x80) ? 0 : number;
        /* On a busy machine each stop takes long, and others wait for the thread. */
        int is_over = ++calls > MOST_CALLS || now_ms() - begin > LONGEST_EPISODE_MS;
        if (number == (SIGTRAP | 0x80) && (is_over || is_place(tid, is_for_bytes))) {
            if (!is_over)
                have_stack_held(thread);
            ptrace(PTRACE_DETACH, tid, 0, 0);
            return;
        }
        ptrace(PTRACE_SYSCALL, tid, 0, signal);
    }
    /* It sleeps. A tracer that ends lets it go. */
    shared->alone = 0;
    _exit(0);
}

static void __attribute__((noreturn)) trace_some(void)
{
    uint64_t seen = 0;
    random_state = seed + 99;
    while (!shared->stop) {
        for (int tries = 0; shared->snapshots == seen && tries < 50; tries++)
            usleep(20);
        seen = shared->snapshots;
        int thread = (int)below((size_t)thread_count);
        for (int tries = 0; !threads[thread].is_held && tries < thread_count; tries++)
            thread = (thread + 1) % thread_count;
        if (!threads[thread].is_held)
            continue;
        shared->alone = below(4) ? thread + 1 : 0;
        trace_one(thread);
        for (int tries = 0; shared->alone && tries < 200; tries++) /* until it is held */
            usleep(50);
        shared->alone = 0;
    }
    _exit(0);
}

void __attribute__((noreturn)) run_tracer(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (!shared->stop) {
        pid_t pid = fork();
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            seed += shared->snapshots;
            trace_some();
        }
        while (pid > 0 && waitpid(pid, NULL, 0) == -1 && errno == EINTR)
            ;
    }
    _exit(0);
}

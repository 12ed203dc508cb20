/* What reaches an armed mapping without a hook: the kernel, at the program's own system call instruction or at its death, and other
 * processes. A process of its own maps the file; this one holds the snapshot. */
#include "check.h"
#include <pthread.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

enum { PAGES = 256, SIZE = PAGES * 4096, BEFORE = 4 << 20 };

static int fd;
/* What the processes tell each other. */
static volatile int *stage;
/* [ordinary memory][the file] */
static unsigned char *before, *at, *held;
static unsigned char copy[SIZE];

static long by_instruction(long number, long a, long b, long c, long d)
{
    long result;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return result;
}

static void await(int wanted)
{
    for (int i = 0; *stage != wanted; i++) {
        CHECK(i < 100000);
        usleep(100);
    }
}

static void begin(void)
{
    stage = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    before = mmap(NULL, BEFORE + SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stage != MAP_FAILED && before != MAP_FAILED);
    at = before + BEFORE;
    fd = make_file("file", SIZE);
}

static void map_file(void)
{
    CHECK(mmap(at, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == at);
}

static pid_t fork_bound(void)
{
    *stage = 0;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
        alarm(200);
    }
    return pid;
}

static void hold(void)
{
    held = snapshot(fd, 0, SIZE, PROT_READ);
    memcpy(copy, held, SIZE);
}

static void check_held(void)
{
    CHECK(memcmp(held, copy, SIZE) == 0);
    CHECK(stat_of(held).state == SNAPSHIM_EXACT);
}

static void end_of(pid_t pid)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFEXITED(status) ? WEXITSTATUS(status) == 0 : WTERMSIG(status) == SIGKILL);
}

static void a_read_past_libc_reaches_no_snapshot(int protection, enum who who)
{
    (void)protection, (void)who;
    begin();
    int source = make_file("source", SIZE);
    overwrite(source, 0, SIZE, 1);
    pid_t pid = fork_bound();
    if (pid == 0) {
        map_file();
        *stage = 1;
        await(2);
        long result = by_instruction(SYS_pread64, source, (long)at, SIZE, 0);
        CHECK(result == -EFAULT || (result >= 0 && shows(at, 0, (size_t)result, 1)));
        for (size_t page = 0; page < PAGES; page++)
            at[page * PAGE] = 0xff;
        CHECK(by_instruction(SYS_pread64, source, (long)at, SIZE, 0) == SIZE);
        CHECK(shows(at, 0, SIZE, 1));
        _exit(0);
    }
    await(1);
    hold();
    *stage = 2;
    end_of(pid);
    check_held();
}

/* The kernel copies while the threads of the process end, one by one: what keeps it out of the mapping has to outlive them. */
static void who_is_killed_in_the_middle_of_a_read_reaches_no_snapshot(int protection, enum who who)
{
    (void)protection, (void)who;
    begin();
    int source = make_file("source", BEFORE + SIZE);
    overwrite(source, BEFORE, SIZE, 1);
    for (unsigned round = 0; round < 100; round++) {
        pid_t pid = fork_bound();
        if (pid == 0) {
            map_file();
            *stage = 1;
            await(2);
            *stage = 3;
            by_instruction(SYS_pread64, source, (long)before, BEFORE + SIZE, 0);
            for (;;)
                pause();
        }
        await(1);
        hold();
        *stage = 2;
        while (*stage != 3)
            ;
        usleep(round * 7919 % 2500);
        CHECK(kill(pid, SIGKILL) == 0);
        end_of(pid);
        check_held();
        CHECK(munmap(held, SIZE) == 0);
        overwrite(fd, 0, SIZE, 0);
    }
}

static void stores_of_others_reach_no_snapshot(int protection, enum who who)
{
    (void)protection, (void)who;
    begin();
    pid_t pid = fork_bound();
    if (pid == 0) {
        map_file();
        *stage = 1;
        await(2);
        _exit(0);
    }
    await(1);
    hold();
    static const char bytes[] = "stored by another";
    struct iovec local = {(void *)bytes, sizeof bytes}, remote = {at + PAGE, sizeof bytes};
    if (by_instruction(SYS_process_vm_writev, pid, (long)&local, 1, (long)&remote) == -1)
        CHECK(memcmp(at + PAGE, held + PAGE, PAGE) == 0);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
    int memory = open(path, O_RDWR);
    CHECK(memory >= 0);
    by_instruction(SYS_pwrite64, memory, (long)bytes, sizeof bytes, (long)(at + 2 * PAGE));
    CHECK(ptrace(PTRACE_ATTACH, pid, NULL, NULL) == 0 && waitpid(pid, NULL, 0) == pid);
    ptrace(PTRACE_POKEDATA, pid, at + 3 * PAGE, (void *)0x4141414141414141);
    CHECK(ptrace(PTRACE_DETACH, pid, NULL, NULL) == 0);
    check_held();
    *stage = 2;
    end_of(pid);
    check_held();
}

static void closing_every_descriptor_opens_nothing(int protection, enum who who)
{
    (void)protection, (void)who;
    begin();
    pid_t pid = fork_bound();
    if (pid == 0) {
        map_file();
        *stage = 1;
        await(2);
        for (int i = 0; i < 2000; i++)
            by_instruction(SYS_close, i, 0, 0, 0);
        by_instruction(SYS_close_range, 0, ~0u, 0, 0);
        for (size_t page = 0; page < PAGES; page++)
            at[page * PAGE]++;
        _exit(0);
    }
    await(1);
    hold();
    *stage = 2;
    end_of(pid);
    check_held();
}

/* Robust mutexes: one in each of some pages, of both kinds. */
enum { MUTEXES = 4 };

static pthread_mutex_t *mutex(size_t i)
{
    return (pthread_mutex_t *)(at + (3 + 17 * i) * PAGE + 128);
}

static void make_mutexes(void)
{
    for (size_t i = 0; i < MUTEXES; i++) {
        pthread_mutexattr_t kind;
        CHECK(pthread_mutexattr_init(&kind) == 0 && pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED) == 0);
        CHECK(pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST) == 0);
        CHECK(pthread_mutexattr_setprotocol(&kind, i % 2 ? PTHREAD_PRIO_INHERIT : PTHREAD_PRIO_NONE) == 0);
        memset(mutex(i), 0, sizeof *mutex(i));
        CHECK(pthread_mutex_init(mutex(i), &kind) == 0);
    }
}

static void lock_mutexes(void)
{
    for (size_t i = 0; i < MUTEXES; i++)
        CHECK(pthread_mutex_lock(mutex(i)) == 0);
}

static void await_open(pid_t pid)
{
    for (size_t i = 0; i < MUTEXES; i++)
        while (!is_open(pid, mutex(i)))
            usleep(1000);
}

/* All of them are told of, and can be had. */
static void check_told(void)
{
    for (size_t i = 0; i < MUTEXES; i++) {
        struct timespec until;
        CHECK(clock_gettime(CLOCK_REALTIME, &until) == 0);
        until.tv_sec += 5;
        errno = pthread_mutex_timedlock(mutex(i), &until);
        CHECK(errno == EOWNERDEAD);
        CHECK(pthread_mutex_consistent(mutex(i)) == 0 && pthread_mutex_unlock(mutex(i)) == 0);
    }
}

enum death { KILLED, EXITED, EXECUTED, THREAD_ENDED, DEATHS };

static void *own_for_a_while(void *unused)
{
    lock_mutexes();
    *stage = 1;
    await(2);
    return unused;
}

static void own_in_another(enum death how, int before_snapshot)
{
    pid_t pid = fork_bound();
    if (pid == 0) {
        if (!before_snapshot) {
            *stage = 3;
            await(4);
        }
        pthread_t thread;
        if (how == THREAD_ENDED) {
            CHECK(pthread_create(&thread, NULL, own_for_a_while, NULL) == 0 && pthread_join(thread, NULL) == 0);
            *stage = 5;
        } else {
            own_for_a_while(NULL);
        }
        if (how == EXITED)
            _exit(0);
        if (how == EXECUTED)
            execl("/bin/true", "true", NULL);
        for (;;)
            pause();
    }
    if (before_snapshot) {
        await(1);
        hold();
    } else {
        await(3);
        hold();
        *stage = 4;
        await(1);
    }
    await_open(pid);
    if (how != KILLED)
        *stage = 2;
    if (how == THREAD_ENDED)
        await(5);
    if (how == KILLED || how == THREAD_ENDED)
        CHECK(kill(pid, SIGKILL) == 0);
    end_of(pid);
    check_held();
    check_told();
    check_held();
    CHECK(munmap(held, SIZE) == 0);
}

static void the_mark_of_a_dead_owner_comes(int protection, enum who who)
{
    (void)protection, (void)who;
    begin();
    map_file();
    make_mutexes();
    for (enum death how = KILLED; how < DEATHS; how++)
        for (int before_snapshot = 0; before_snapshot < 2; before_snapshot++)
            own_in_another(how, before_snapshot);
}

static void the_mark_of_a_thread_of_the_mapper_comes(int protection, enum who who)
{
    (void)protection, (void)who;
    begin();
    map_file();
    make_mutexes();
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, own_for_a_while, NULL) == 0);
    await(1);
    hold();
    await_open(getpid());
    *stage = 2;
    CHECK(pthread_join(thread, NULL) == 0);
    check_told();
    check_held();
}

static const struct scenario scenarios[] = {
    ONCE(a_read_past_libc_reaches_no_snapshot),
    ONCE(who_is_killed_in_the_middle_of_a_read_reaches_no_snapshot),
    ONCE(stores_of_others_reach_no_snapshot),
    ONCE(closing_every_descriptor_opens_nothing),
    ONCE(the_mark_of_a_dead_owner_comes),
    ONCE(the_mark_of_a_thread_of_the_mapper_comes),
};

MAIN(scenarios)

/* Processes with shared mappings are stopped, killed and forked while snapshots are made. */
#include "suspend.h"
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>

enum { PAGES = 64, SIZE = PAGES * 4096 };

static double seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static volatile uint64_t *map_shared(int fd)
{
    void *at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

static uint64_t *try_snapshot(int fd)
{
    return mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, fd, 0);
}

/* Stores one number into the first word of each half of the file, then into the second of each, and so on, for ever. */
enum { HALF = SIZE / 2 / 8 };

static void store_pairs(volatile uint64_t *words, size_t first, size_t last)
{
    for (uint64_t number = words[first];; number++)
        for (size_t i = first; i < last; i++) {
            words[i] = number;
            words[HALF + i] = number;
        }
}

/* Each pair was caught before, after or between its two stores, and only one of them all between. */
static void check_pairs(const uint64_t *words, size_t first, size_t last)
{
    size_t between = 0;
    for (size_t i = first; i < last; i++) {
        CHECK(words[i] == words[HALF + i] || words[i] == words[HALF + i] + 1);
        between += words[i] != words[HALF + i];
        CHECK(i == first || words[i] == words[i - 1] || words[i] + 1 == words[i - 1]);
    }
    CHECK(between <= 1);
}

/* A child that does not outlive its parent, nor the test. */
static pid_t fork_bound(void)
{
    pid_t parent = getpid(), pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(200);
        if (getppid() != parent)
            _exit(1);
    }
    return pid;
}

static pid_t start_storing(int fd)
{
    int ready[2];
    char byte = 0;
    CHECK(pipe(ready) == 0);
    pid_t pid = fork_bound();
    if (pid == 0) {
        volatile uint64_t *words = map_shared(fd);
        words[0]++;
        words[HALF] = words[0];
        CHECK(write(ready[1], &byte, 1) == 1);
        store_pairs(words, 0, HALF);
    }
    CHECK(read(ready[0], &byte, 1) == 1);
    close(ready[0]), close(ready[1]);
    return pid;
}

static void a_suspended_process_is_named(int protection, enum who who)
{
    (void)protection, (void)who;
    int fd = open("file", O_RDWR | O_CREAT, 0600), status;
    CHECK(fd >= 0 && ftruncate(fd, SIZE) == 0);
    pid_t pid = start_storing(fd);
    suspend(pid);
    printf("suspended: process %d\n", (int)pid);
    for (int round = 0; round < 2; round++) {
        double start = seconds();
        CHECK_ERRNO(try_snapshot(fd), MAP_FAILED, ETIMEDOUT);
        CHECK(seconds() - start < 30);
    }
    resume(pid);
    uint64_t *at;
    /* It goes on, but a busy machine may let it wait. */
    while ((at = try_snapshot(fd)) == MAP_FAILED)
        CHECK(errno == ETIMEDOUT);
    check_pairs(at, 0, HALF);
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid);
    check_pairs(at, 0, HALF);
}

static void a_stopped_process_is_killed_meanwhile(int protection, enum who who)
{
    (void)protection, (void)who;
    int fd = open("file", O_RDWR | O_CREAT, 0600), status;
    CHECK(fd >= 0 && ftruncate(fd, SIZE) == 0);
    pid_t pid = start_storing(fd);
    CHECK(kill(pid, SIGSTOP) == 0 && waitpid(pid, &status, WUNTRACED) == pid);
    pid_t killer = fork();
    if (killer == 0) {
        usleep(200000);
        _exit(kill(pid, SIGKILL));
    }
    uint64_t *at = try_snapshot(fd);
    CHECK(at != MAP_FAILED);
    check_pairs(at, 0, HALF);
    CHECK(waitpid(killer, &status, 0) == killer && status == 0);
    CHECK(waitpid(pid, &status, 0) == pid);
}

/* Killed at any moment of a store that traps: no process waits for it, and what it leaves is none of a snapshot's. */
static void a_killed_process_leaves_nothing_behind(int protection, enum who who)
{
    (void)protection, (void)who;
    static uint64_t copy[SIZE / 8];
    int fd = open("file", O_RDWR | O_CREAT, 0600), status;
    CHECK(fd >= 0 && ftruncate(fd, SIZE) == 0);
    for (unsigned round = 0; round < 150; round++) {
        pid_t pid = start_storing(fd);
        uint64_t *at = try_snapshot(fd), *second;
        CHECK(at != MAP_FAILED);
        memcpy(copy, at, SIZE);
        usleep(round * 7919 % 1500);
        CHECK(kill(pid, SIGKILL) == 0);
        second = try_snapshot(fd);
        CHECK(second != MAP_FAILED);
        CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
        uint64_t word = round;
        CHECK(pwrite(fd, &word, 8, SIZE - 8) == 8);
        word = ((uint64_t *)second)[HALF - 1];
        CHECK(pwrite(fd, &word, 8, SIZE - 8) == 8);
        CHECK(memcmp(at, copy, SIZE) == 0);
        CHECK(munmap(at, SIZE) == 0 && munmap(second, SIZE) == 0);
        CHECK(ftruncate(fd, 0) == 0 && ftruncate(fd, SIZE) == 0);
    }
}

/* Children store through the mapping that they inherited, each into words of its own, while others are being forked. */
static void fifty_children_store_while_snapshots_are_taken(int protection, enum who who)
{
    (void)protection, (void)who;
    enum { CHILDREN = 50, SHARE = HALF / CHILDREN, SNAPSHOTS = 60 };
    static uint64_t copy[SIZE / 8];
    int fd = open("file", O_RDWR | O_CREAT, 0600), status;
    CHECK(fd >= 0 && ftruncate(fd, SIZE) == 0);
    volatile uint64_t *words = map_shared(fd);
    pid_t bomb = fork_bound();
    if (bomb == 0) {
        for (size_t child = 0; child < CHILDREN; child++)
            if (fork_bound() == 0)
                store_pairs(words, child * SHARE, (child + 1) * SHARE);
        for (;;)
            pause();
    }
    uint64_t *before = NULL;
    /* A busy machine may be slow to start them all. */
    size_t stored = 0;
    for (size_t taken = 0; taken < SNAPSHOTS || stored < CHILDREN; taken++) {
        uint64_t *at = try_snapshot(fd);
        CHECK(at != MAP_FAILED);
        if (before) {
            CHECK(memcmp(before, copy, SIZE) == 0);
            CHECK(munmap(before, SIZE) == 0);
        }
        memcpy(copy, at, SIZE);
        for (size_t child = 0; child < CHILDREN; child++)
            check_pairs(copy, child * SHARE, (child + 1) * SHARE);
        before = at;
        usleep(10000);
        stored = 0;
        for (size_t child = 0; child < CHILDREN; child++)
            stored += words[child * SHARE] > 0;
    }
    CHECK(kill(bomb, SIGKILL) == 0 && waitpid(bomb, &status, 0) == bomb);
}

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

/* The kernel opens the page before the sealed one, and then refuses. */
static void what_a_failed_mprotect_opened_reaches_no_snapshot(int protection, enum who who)
{
    (void)protection, (void)who;
    int fd = make_file("file", 3 * PAGE);
    unsigned char *at = mmap(NULL, 3 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED);
    if (syscall(SYS_mseal, at + PAGE, PAGE, 0ul) != 0)
        SKIP("this kernel has no mseal(2)");
    for (int round = 0; round < 2; round++) {
        CHECK_ERRNO(mprotect(at, 3 * PAGE, PROT_READ | PROT_WRITE), -1, EPERM);
        unsigned char *taken = mmap(NULL, 3 * PAGE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, fd, 0);
        CHECK(taken != MAP_FAILED);
        struct sigaction action = {.sa_handler = on_fault}, old;
        CHECK(sigaction(SIGSEGV, &action, &old) == 0);
        if (sigsetjmp(fault_escape, 1) == 0)
            *(volatile unsigned char *)at = stamp(0, 1);
        CHECK(sigaction(SIGSEGV, &old, NULL) == 0);
        CHECK(shows(taken, 0, 3 * PAGE, 0));
    }
}

/* The agent that opens what is shared is asked to arm it meanwhile. */
static void snapshots_are_made_while_the_agent_opens(int protection, enum who who)
{
    (void)protection, (void)who;
    enum { LARGE = 64 << 20, SNAPSHOTS = 400 };
    int fd = open("file", O_RDWR | O_CREAT, 0600), status;
    CHECK(fd >= 0 && ftruncate(fd, LARGE) == 0);
    int ready[2];
    char byte = 0;
    CHECK(pipe(ready) == 0);
    pid_t pid = fork_bound();
    if (pid == 0) {
        volatile unsigned char *at = mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(at != MAP_FAILED && write(ready[1], &byte, 1) == 1);
        for (;;)
            pause();
    }
    CHECK(read(ready[0], &byte, 1) == 1);
    double worst = 0;
    for (unsigned i = 0; i < SNAPSHOTS; i++) {
        double start = seconds();
        uint64_t *at = try_snapshot(fd);
        CHECK(at != MAP_FAILED);
        worst = seconds() - start > worst ? seconds() - start : worst;
        CHECK(munmap(at, SIZE) == 0);
        usleep(i * 37 % 900);
    }
    printf("the slowest took %.3f s\n", worst);
    CHECK(worst < 30);
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid);
}

/* The agent preserves in a snapshot of its own process, whose own agent it is. */
static void the_agent_breaks_no_snapshot(int protection, enum who who)
{
    (void)who;
    int fd = make_file("file", SIZE);
    volatile uint64_t *words = map_shared(fd);
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    usleep(500000);
    CHECK(stat_of(at).state == SNAPSHIM_EXACT);
    for (size_t page = 0; page < PAGES; page++)
        words[page * PAGE / 8] = 0;
    CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
}

/* Keeps its thread from answering signals, with SIGSEGV blocked, until it is told. */
static void *be_deaf(void *pipes)
{
    const int *ready = pipes, *end = ready + 2;
    sigset_t fault;
    char byte = 0;
    sigemptyset(&fault);
    sigaddset(&fault, SIGSEGV);
    CHECK(pthread_sigmask(SIG_BLOCK, &fault, NULL) == 0);
    pid_t pid = vfork();
    if (pid == 0) {
        syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
        syscall(SYS_write, ready[1], &byte, 1);
        syscall(SYS_read, end[0], &byte, 1);
        _exit(0);
    }
    CHECK(waitpid(pid, NULL, 0) == pid);
    return NULL;
}

/* Whether a snapshot is given up before a process with a deaf thread has armed. */
static int arms_too_late(int fd, int source, int large)
{
    int begin[2], pipes[4], status;
    char byte = 0;
    CHECK(pipe(begin) == 0 && pipe(pipes) == 0 && pipe(pipes + 2) == 0);
    pid_t pid = fork_bound();
    if (pid == 0) {
        unsigned char *at = mmap(NULL, (size_t)large, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(at != MAP_FAILED && pread(source, at, (size_t)large, 0) == large);
        pthread_t deaf;
        CHECK(pthread_create(&deaf, NULL, be_deaf, pipes) == 0);
        CHECK(read(begin[0], &byte, 1) == 1);
        for (double end = seconds() + 0.2; seconds() < end;)
            CHECK(pread(source, at, (size_t)large, 0) == large);
        CHECK(write(pipes[3], &byte, 1) == 1 && pthread_join(deaf, NULL) == 0);
        _exit(0);
    }
    CHECK(read(pipes[0], &byte, 1) == 1);
    uint64_t *at = try_snapshot(fd);
    CHECK(at != MAP_FAILED || errno == ETIMEDOUT);
    CHECK(write(begin[1], &byte, 1) == 1);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    for (int i = 0; i < 2; i++)
        CHECK(close(begin[i]) == 0 && close(pipes[i]) == 0 && close(pipes[i + 2]) == 0);
    if (at != MAP_FAILED)
        CHECK(munmap(at, SIZE) == 0);
    return at == MAP_FAILED;
}

/* The first arming is slow here, because a thread does not answer; the creation is given up before. What the kernel stores meanwhile
 * is as little disturbed as without it. */
static void who_arms_too_late_disturbs_nobody(int protection, enum who who)
{
    (void)protection, (void)who;
    enum { LARGE = 8 << 20 };
    int fd = open("file", O_RDWR | O_CREAT, 0600), source = open("source", O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0 && ftruncate(fd, LARGE) == 0 && source >= 0 && ftruncate(source, LARGE) == 0);
    /* The creator may have been kept from running for longer than the arming takes. */
    while (!arms_too_late(fd, source, LARGE))
        ;
    CHECK(unlink("source") == 0);
}

/* A child stores through the mapping that it inherited, whichever call made it. */
static void who_is_forked_by_number_stores_into_no_snapshot(int protection, enum who who)
{
    (void)who;
    for (int by_clone = 0; by_clone < 2; by_clone++) {
        int fd = make_file("file", SIZE), ready[2], begin[2], status;
        char byte = 0;
        CHECK(pipe(ready) == 0 && pipe(begin) == 0);
        volatile uint64_t *words = map_shared(fd);
        words[0] = words[0];
        pid_t pid = (pid_t)(by_clone ? syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) : syscall(SYS_fork));
        CHECK(pid >= 0);
        if (pid == 0) {
            CHECK(write(ready[1], &byte, 1) == 1 && read(begin[0], &byte, 1) == 1);
            for (size_t page = 0; page < PAGES; page++)
                words[page * PAGE / 8] = 0;
            _exit(0);
        }
        CHECK(read(ready[0], &byte, 1) == 1);
        unsigned char *at = mmap(NULL, SIZE, protection, MAP_PRIVATE | MAP_SNAPSHOT, fd, 0);
        CHECK(at != MAP_FAILED && write(begin[1], &byte, 1) == 1);
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
        CHECK(words[0] == 0 && shows(at, 0, SIZE, 0));
    }
}

static size_t cached_pages(int fd, size_t pages)
{
    unsigned char *in = malloc(pages);
    size_t count = 0;
    void *at = mmap(NULL, pages * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(in && at != MAP_FAILED && mincore(at, pages * PAGE, in) == 0 && munmap(at, pages * PAGE) == 0);
    for (size_t page = 0; page < pages; page++)
        count += in[page] & 1;
    free(in);
    return count;
}

/* Writes, and stores where the program asks for no reading ahead: the pages are read that are changed, and hardly more. */
static void preserving_reads_what_is_preserved(int protection, enum who who)
{
    (void)who;
    enum { ALL = 16384, CHANGES = 40, LARGE = ALL * 4096 };
    alarm(280); /* the disk may be busy */
    for (int stores = 0; stores < 2; stores++) {
        int fd = make_file("file", LARGE);
        CHECK(fsync(fd) == 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
        if (cached_pages(fd, ALL) > 0)
            SKIP("this file system keeps what is cached");
        volatile unsigned char *shared = mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(shared != MAP_FAILED && madvise((void *)shared, LARGE, MADV_RANDOM) == 0);
        unsigned char *at = mmap(NULL, LARGE, protection, MAP_PRIVATE | MAP_SNAPSHOT, fd, 0);
        CHECK(at != MAP_FAILED);
        for (size_t i = 0; i < CHANGES; i++) {
            size_t page = i * 7919 % ALL;
            unsigned char byte = stamp(page, 1);
            if (stores)
                shared[page * PAGE] = byte;
            else
                CHECK(pwrite(fd, &byte, 1, (off_t)(page * PAGE)) == 1);
        }
        size_t cached = cached_pages(fd, ALL);
        printf("%s: %zu pages\n", stores ? "stores" : "writes", cached);
        CHECK(cached <= 4 * CHANGES);
        CHECK(shows(at, 0, LARGE, 0));
        CHECK(munmap(at, LARGE) == 0 && munmap((void *)shared, LARGE) == 0 && close(fd) == 0);
    }
}

static const struct scenario scenarios[] = {
    ONCE(a_suspended_process_is_named),
    ONCE(a_stopped_process_is_killed_meanwhile),
    ONCE(a_killed_process_leaves_nothing_behind),
    ONCE(fifty_children_store_while_snapshots_are_taken),
    ONCE(who_arms_too_late_disturbs_nobody),
    ONCE(what_a_failed_mprotect_opened_reaches_no_snapshot),
    ONCE(snapshots_are_made_while_the_agent_opens),
    EACH(the_agent_breaks_no_snapshot),
    EACH(who_is_forked_by_number_stores_into_no_snapshot),
    EACH(preserving_reads_what_is_preserved),
};
MAIN(scenarios)

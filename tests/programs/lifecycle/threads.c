/* Threads that end in every way, more of them than the table has slots, and processes that die without a slot. */
#include "check.h"
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define PAGES ((size_t)16)
#define SIZE (PAGES * PAGE)
/* In a small table: 4096 have memory from the start, and there is room for few more. */
enum { SLOTS = 4096 + 32 };

static int file;

static void *writes_and_ends(void *how)
{
    overwrite(file, 0, PAGE, 1);
    switch ((intptr_t)how % 3) {
    case 0:
        return NULL;
    case 1:
        pthread_exit(NULL);
    default:
        pthread_cancel(pthread_self());
        overwrite(file, 0, PAGE, 1);
        pthread_testcancel();
        CHECK(!"cancelled");
        return NULL;
    }
}

static void start(pthread_t *thread, void *(*body)(void *), intptr_t argument)
{
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, 32 << 10) == 0);
    CHECK(pthread_create(thread, &attributes, body, (void *)argument) == 0);
    pthread_attr_destroy(&attributes);
}

/* One and a half times as many as there are slots, a few at a time: each finds one. */
static void thousands_of_short_threads_leave_no_slot_behind(int protection, enum who who)
{
    (void)who;
    file = make_file("file", SIZE);
    unsigned char *at = snapshot(file, 0, SIZE, protection);
    for (int round = 0; round < SLOTS * 3 / 2 / 8; round++) {
        pthread_t threads[8];
        for (int i = 0; i < 8; i++)
            start(&threads[i], writes_and_ends, i);
        for (int i = 0; i < 8; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
    unsigned char *second = snapshot(file, 0, SIZE, protection);
    CHECK(second[0] == stamp(0, 1));
}

static void ends_by_number(void)
{
    syscall(SYS_exit, 3);
}

static void *ends_thread_by_number(void *unused)
{
    syscall(SYS_exit, 3);
    return unused;
}

static void all_end_by_number(void)
{
    pthread_t thread;
    for (int i = 0; i < 8; i++)
        start(&thread, ends_thread_by_number, 0);
    syscall(SYS_exit, 3);
}

static void *outlives_the_first(void *first)
{
    pthread_join((pthread_t)first, NULL);
    overwrite(file, 0, PAGE, 2);
    exit(3);
}

static void ends_as_the_first(void)
{
    pthread_t thread;
    start(&thread, outlives_the_first, (intptr_t)pthread_self());
    pthread_exit(NULL);
}

static void *only_ends(void *unused)
{
    return unused;
}

static void ends_as_the_last(void)
{
    pthread_t thread;
    start(&thread, only_ends, 0);
    pthread_exit(NULL);
}

/* The shim's own thread keeps no process that the program has left, and changes no status of it. */
static void a_process_without_threads_ends(int protection, enum who who)
{
    (void)who;
    const struct {
        void (*end)(void);
        int status;
    } ends[] = {{ends_by_number, 3}, {all_end_by_number, 3}, {ends_as_the_first, 3}, {ends_as_the_last, 0}};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        file = make_file("file", SIZE);
        int status;
        pid_t pid = fork();
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            unsigned char *at = snapshot(file, 0, SIZE, protection);
            overwrite(file, 0, PAGE, 1);
            CHECK(shows(at, 0, SIZE, 0));
            ends[i].end();
            _exit(1);
        }
        CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == ends[i].status);
        close(file);
    }
}

/* Until a thread waits in a write to the pipe. */
static void await_full(int end)
{
    int size = fcntl(end, F_GETPIPE_SZ), filled = 0;
    while (filled < size) {
        usleep(1000);
        CHECK(ioctl(end, FIONREAD, &filled) == 0);
    }
}

static sigjmp_buf out;

static void jump_out(int number)
{
    (void)number;
    siglongjmp(out, 1);
}

/* A handler leaves a hook that it interrupted, in a pipe that is full; the thread ends without another call. */
static void *writes_to_nobody(void *pipe_end)
{
    char bytes[4096] = {0};
    if (sigsetjmp(out, 1) == 0)
        for (;;)
            CHECK(write((int)(intptr_t)pipe_end, bytes, sizeof bytes) > 0);
    return NULL;
}

static void a_hook_that_was_left_by_a_jump_holds_nobody_up(int protection, enum who who)
{
    (void)who;
    file = make_file("file", SIZE);
    unsigned char *first = snapshot(file, 0, SIZE, protection);
    struct sigaction action = {.sa_handler = jump_out};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    for (int round = 0; round < 20; round++) {
        int ends[2];
        pthread_t thread;
        CHECK(pipe(ends) == 0);
        start(&thread, writes_to_nobody, ends[1]);
        await_full(ends[0]);
        CHECK(pthread_kill(thread, SIGUSR1) == 0 && pthread_join(thread, NULL) == 0);
        close(ends[0]), close(ends[1]);
        overwrite(file, 0, SIZE, round + 1);
        unsigned char *at = snapshot(file, 0, SIZE, protection);
        CHECK(shows(at, 0, SIZE, round + 1) && shows(first, 0, SIZE, 0));
        CHECK(munmap(at, SIZE) == 0);
    }
}

static sigjmp_buf out_of_write;

static void jump_out_of_write(int number)
{
    (void)number;
    siglongjmp(out_of_write, 1);
}

/* So far down its stack. */
static void __attribute__((noinline)) write_from_below(size_t depth, size_t offset)
{
    volatile unsigned char below[depth];
    below[0] = below[depth - 1] = stamp(0, 1);
    (void)!pwrite(file, (const void *)below, 1, (off_t)offset);
}

/* A writer that left a write by a jump, and writes again from further down its stack when it is told to. */
static void __attribute__((noreturn)) write_after_a_jump(volatile int *has_jumped, int said, int told)
{
    char byte = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct sigaction action = {.sa_handler = jump_out_of_write};
    struct rlimit limit = {SIZE, SIZE};
    CHECK(sigaction(SIGXFSZ, &action, NULL) == 0 && setrlimit(RLIMIT_FSIZE, &limit) == 0);
    if (sigsetjmp(out_of_write, 1) == 0)
        write_from_below(1 << 16, SIZE);
    *has_jumped = 1; /* a write would show that it has left the other */
    CHECK(read(told, &byte, 1) == 1);
    write_from_below(1 << 18, 0);
    CHECK(write(said, &byte, 1) == 1);
    _exit(0);
}

static void __attribute__((noreturn)) store_when_continued(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    volatile char *own = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(own != MAP_FAILED);
    /* A mapping that is armed holds no snapshot back. */
    own[0] = own[0];
    raise(SIGSTOP);
    _exit(0);
}

static void __attribute__((noreturn)) snapshot_when_told(int told, int judged, int protection)
{
    char byte;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    CHECK(read(told, &byte, 1) == 1);
    unsigned char *at = snapshot(file, 0, SIZE, protection);
    CHECK(read(judged, &byte, 1) == 1);
    _exit(!shows(at, 0, SIZE, 0));
}

/* The snapshot has to wait for the stopped thread, and the writer for the snapshot. The writer is forked last: another fork would take away
 * what it left, and nothing would be left to be taken for the write that it makes then. */
static void a_hook_that_was_left_by_a_jump_lets_nobody_through(int protection, enum who who)
{
    (void)who;
    int said[2], told[2], go[2], judged[2], status;
    char byte = 0;
    file = make_file("file", SIZE);
    unsigned char *first = snapshot(file, 0, SIZE, protection);
    volatile int *has_jumped = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    volatile unsigned char *own = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(has_jumped != MAP_FAILED && own != MAP_FAILED);
    CHECK(pipe(said) == 0 && pipe(told) == 0 && pipe(go) == 0 && pipe(judged) == 0);
    /* No writer has to preserve this page any more. */
    own[0] = own[0];
    pid_t mapper = fork();
    if (mapper == 0)
        snapshot_when_told(go[0], judged[0], protection);
    pid_t sharer = fork();
    if (sharer == 0)
        store_when_continued();
    CHECK(waitpid(sharer, &status, WUNTRACED) == sharer && WIFSTOPPED(status));
    pid_t writer = fork();
    if (writer == 0)
        write_after_a_jump(has_jumped, said[1], told[0]);
    while (!*has_jumped)
        usleep(1000);
    await_asleep(writer);
    own[0] = own[0];
    CHECK(is_open(getpid(), (const void *)own) && write(go[1], &byte, 1) == 1);
    /* A sharer of the file is asked to arm once the snapshot has waited for the writers. */
    while (snapshim_active() && is_open(getpid(), (const void *)own))
        usleep(1000);
    CHECK(write(told[1], &byte, 1) == 1);
    struct pollfd watched = {.fd = said[0], .events = POLLIN};
    CHECK(poll(&watched, 1, 300) == 0);
    CHECK(kill(sharer, SIGCONT) == 0 && read(said[0], &byte, 1) == 1);
    CHECK(waitpid(sharer, &status, 0) == sharer && status == 0);
    CHECK(waitpid(writer, &status, 0) == writer && status == 0);
    CHECK(write(judged[1], &byte, 1) == 1 && waitpid(mapper, &status, 0) == mapper && status == 0);
    CHECK(shows(first, 0, SIZE, 0));
}

static int held[2];

static void *takes_a_slot(void *unused)
{
    overwrite(file, 0, 1, 1);
    CHECK(write(held[1], "", 1) == 1);
    for (;;)
        pause();
    return unused;
}

static volatile int *fork_error;

static void try_to_fork(int number)
{
    (void)number;
    pid_t pid = fork();
    *fork_error = pid < 0 ? errno : -1;
    if (pid == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* All slots are taken, and the thread that comes then dies in a call that it could not announce. */
static void a_death_without_a_slot_is_noticed(int protection, enum who who)
{
    (void)who;
    enum { HOLDERS = 4, SHARE = SLOTS / HOLDERS + 4 };
    file = make_file("file", SIZE);
    /* This process has its slot, and gives it to no other. */
    overwrite(file, 0, PAGE, 0);
    pid_t holders[HOLDERS], last;
    int started[2], full[2], status;
    char byte, bytes[4096] = {0};
    CHECK(pipe(held) == 0 && pipe(started) == 0 && pipe(full) == 0);
    fork_error = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct sigaction action = {.sa_handler = try_to_fork, .sa_flags = SA_RESTART};
    CHECK(fork_error != MAP_FAILED && sigaction(SIGUSR1, &action, NULL) == 0);
    for (int i = 0; i < HOLDERS; i++) {
        if ((holders[i] = fork()) == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (int thread = 0; thread < SHARE; thread++) {
                pthread_t started_thread;
                start(&started_thread, takes_a_slot, 0);
            }
            for (;;)
                pause();
        }
        CHECK(holders[i] > 0);
    }
    for (int i = 0; i < HOLDERS * SHARE; i++)
        CHECK(read(held[0], &byte, 1) == 1);
    if ((last = fork()) == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        overwrite(file, 0, PAGE, 2);
        CHECK(write(started[1], "", 1) == 1);
        for (;;)
            CHECK(write(full[1], bytes, sizeof bytes) > 0);
    }
    CHECK(last > 0 && read(started[0], &byte, 1) == 1);
    /* The pipe is full: the call goes on for ever. */
    await_full(full[0]);
    await_asleep(last);
    CHECK_ERRNO(mmap(NULL, SIZE, protection, MAP_PRIVATE | MAP_SNAPSHOT, file, 0), MAP_FAILED, ETIMEDOUT);
    /* A child of a handler would go on with the call, and no process could wait for that. */
    CHECK(kill(last, SIGUSR1) == 0);
    while (*fork_error == 0)
        usleep(1000);
    CHECK(*fork_error == EAGAIN);
    CHECK(kill(last, SIGKILL) == 0 && waitpid(last, &status, 0) == last);
    unsigned char *at = snapshot(file, 0, SIZE, protection);
    CHECK(shows(at, 0, PAGE, 2) && shows(at + PAGE, PAGE, SIZE - PAGE, 0));
    /* While there are snapshots, a thread that finds no slot waits; the death of others makes room. */
    pid_t late = fork();
    if (late == 0) {
        overwrite(file, 0, SIZE, 3);
        _exit(0);
    }
    for (int i = 0; i < HOLDERS; i++)
        CHECK(kill(holders[i], SIGKILL) == 0 && waitpid(holders[i], &status, 0) == holders[i]);
    CHECK(late > 0 && waitpid(late, &status, 0) == late && status == 0);
    CHECK(shows(at, 0, PAGE, 2) && shows(at + PAGE, PAGE, SIZE - PAGE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
    overwrite(file, 0, SIZE, 4);
    CHECK(shows(at, 0, PAGE, 2) && shows(at + PAGE, PAGE, SIZE - PAGE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
}

static const struct scenario scenarios[] = {
    ONCE(thousands_of_short_threads_leave_no_slot_behind),
    ONCE(a_process_without_threads_ends),
    ONCE(a_hook_that_was_left_by_a_jump_holds_nobody_up),
    ONCE(a_hook_that_was_left_by_a_jump_lets_nobody_through),
    ONCE(a_death_without_a_slot_is_noticed),
};
MAIN(scenarios)

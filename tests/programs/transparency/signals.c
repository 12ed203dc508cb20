/* signals MODE FILE: signals come while writes are under way. */
#include "blocked.h"

#include <sys/time.h>
#include <sys/uio.h>

enum { HALF = 32, STORMS = 300, JUMPS = 30 };

static const char *path;
static int file;
static volatile sig_atomic_t count;
static sigjmp_buf back;

static void handle(int number, void (*handler)(int), int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    CHECK(sigaction(number, &action, NULL) == 0);
}

static void on_alternate_stack(void)
{
    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    CHECK(stack.ss_sp && sigaltstack(&stack, NULL) == 0);
}

/* A thread that signals the main thread once it blocks in write(), and drains the pipe if told to. */
struct disturber {
    pthread_t thread;
    pid_t target;
    pthread_t main;
    int drain, has_run;
};

static void *disturb(void *argument)
{
    struct disturber *disturber = argument;
    await_blocked(disturber->target, SYS_write);
    CHECK(pthread_kill(disturber->main, SIGUSR1) == 0);
    if (disturber->drain < 0)
        return NULL;
    while (count == 0)
        sched_yield();
    await_blocked(disturber->target, SYS_write);
    char buffer[8192];
    CHECK(read(disturber->drain, buffer, sizeof buffer) > 0);
    return NULL;
}

static void start(struct disturber *disturber, int drain)
{
    disturber->target = own_tid();
    disturber->main = pthread_self();
    disturber->drain = drain;
    CHECK(pthread_create(&disturber->thread, NULL, disturb, disturber) == 0);
}

static void write_and_count(int number)
{
    (void)number;
    int saved = errno;
    CHECK(pwrite(file, "handler", 7, 50 + 10 * count) == 7);
    count++;
    errno = saved;
}

/* A blocked write and a handler that writes: EINTR, or the call goes on. */
static void interrupted(int flags)
{
    struct disturber disturber;
    int ends[2];
    full_pipe(ends);
    handle(SIGUSR1, write_and_count, flags);
    start(&disturber, flags & SA_RESTART ? ends[0] : -1);
    ssize_t written = write(ends[1], "0123456789", 10);
    int why = errno;
    CHECK(pthread_join(disturber.thread, NULL) == 0);
    printf("write = %zd, errno %d, handlers %d\n", written, written < 0 ? why : 0, (int)count);
}

/* What was written until then is the result. */
static void interrupted_half_way(void)
{
    struct disturber disturber;
    int ends[2];
    static char much[1 << 16];
    CHECK(pipe2(ends, O_CLOEXEC) == 0 && fcntl(ends[1], F_SETPIPE_SZ, 8192) == 8192);
    handle(SIGUSR1, write_and_count, SA_RESTART);
    start(&disturber, -1);
    ssize_t written = write(ends[1], much, sizeof much);
    CHECK(pthread_join(disturber.thread, NULL) == 0);
    printf("write = %zd, handlers %d\n", written, (int)count);
}

static void storm_handler(int number)
{
    (void)number;
    int saved = errno;
    size_t page = HALF + (size_t)count % HALF;
    unsigned char bytes[512];
    memset(bytes, stamp(page, 1), sizeof bytes);
    for (int part = 0; part < 8; part++)
        CHECK(pwrite(file, bytes, sizeof bytes, (off_t)(page * PAGE + (size_t)part * sizeof bytes)) == sizeof bytes);
    count++;
    errno = saved;
}

static void set_timer(int microseconds)
{
    struct itimerval timer = {{0, microseconds}, {0, microseconds}};
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

/* Handlers write the second half of the file while the program writes the first. */
static void storm(int flags)
{
    handle(SIGALRM, storm_handler, flags | SA_RESTART);
    set_timer(150);
    for (int round = 0; count < STORMS; round++) {
        size_t page = (size_t)round % HALF;
        unsigned char bytes[4096];
        memset(bytes, stamp(page, 1), sizeof bytes);
        if (round % 2) {
            CHECK(pwrite(file, bytes, PAGE, (off_t)(page * PAGE)) == (ssize_t)PAGE);
        } else {
            CHECK(lseek(file, (off_t)(page * PAGE), SEEK_SET) >= 0);
            CHECK(write(file, bytes, PAGE) == (ssize_t)PAGE);
        }
    }
    set_timer(0);
    for (size_t page = 0; page < HALF; page++)
        overwrite(file, page * PAGE, PAGE, 1);
    snapshot_is_prompt(path);
}

static void jump(int number)
{
    (void)number;
    count++;
    siglongjmp(back, 1);
}

/* Handlers leave a blocked write by siglongjmp; descriptors change afterwards. */
static void jump_out_of_blocked(int flags)
{
    handle(SIGUSR1, jump, flags);
    for (int round = 0; round < JUMPS; round++) {
        struct disturber disturber;
        int ends[2];
        full_pipe(ends);
        if (sigsetjmp(back, 1) == 0) {
            start(&disturber, -1);
            CHECK(write(ends[1], "x", 1) == 1);
        }
        CHECK(pthread_join(disturber.thread, NULL) == 0);
        close(ends[0]);
        close(ends[1]);
        if (round % 2)
            snapshot_is_prompt(path);
        CHECK(pwrite(file, "written", 7, round * 100) == 7);
        snapshot_is_prompt(path);
    }
    printf("%d jumps\n", (int)count);
}

static __attribute__((noinline)) void write_from(int depth)
{
    volatile char room[512];
    room[0] = 0;
    if (depth > 0)
        write_from(depth - 1);
    else
        CHECK(pwrite(file, "w", 1, 9) == 1);
    room[1] = room[0];
}

/* Handlers leave writes of a file by siglongjmp, at whatever instruction they come. */
static void jump_storm(int flags)
{
    handle(SIGALRM, jump, flags);
    sigset_t alarm_only;
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    for (volatile int round = 0; round < 10 * JUMPS; round++) {
        struct itimerval once = {{0, 0}, {0, 100 + round % 50}};
        if (sigsetjmp(back, 1) == 0) {
            CHECK(setitimer(ITIMER_REAL, &once, NULL) == 0);
            for (;;)
                write_from(round % 5);
        }
        if (round % 50 == 0)
            snapshot_is_prompt(path);
    }
    CHECK(sigprocmask(SIG_BLOCK, &alarm_only, NULL) == 0);
    write_from(0);
    snapshot_is_prompt(path);
    printf("%d jumps\n", (int)count);
}

static int source[2];

/* The third one brings what the call waits for. */
static void fill_at_last(int number)
{
    (void)number;
    if (++count == 3)
        CHECK(write(source[1], "at last", 7) == 7);
}

/* A signal that came before the call waits would be over by then: the call would wait for ever. */
static void interrupt_when_asleep(void)
{
    fflush(NULL);
    pid_t waiting = getpid(), pid = fork();
    CHECK(pid >= 0);
    if (pid > 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < 50; i++)
        await_asleep(waiting);
    kill(waiting, SIGALRM);
    _exit(0);
}

/* A wait for an empty pipe, and handlers: EINTR after the first of them, or the call goes on after each. */
static void splice_interrupted(int flags)
{
    CHECK(pipe2(source, O_CLOEXEC) == 0);
    handle(SIGALRM, fill_at_last, flags);
    if (flags & SA_RESTART)
        set_timer(30000);
    else
        interrupt_when_asleep();
    errno = 0;
    ssize_t moved = splice(source[0], NULL, file, NULL, 100, 0);
    int why = errno;
    set_timer(0);
    printf("splice = %zd, errno %d, handlers %d\n", moved, why, (int)count);
}

/* A handler that cannot run in the thread that waits. */
static void splice_interrupted_beside_blocked(void)
{
    sigset_t other;
    sigemptyset(&other);
    sigaddset(&other, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &other, NULL) == 0);
    handle(SIGUSR1, jump, 0);
    splice_interrupted(SA_RESTART);
}

#define SAY_ERRNO(call)                               \
    do {                                              \
        errno = 4242;                                 \
        long result_ = (long)(call);                  \
        printf("%s: errno %d\n", #call, errno);       \
        CHECK(result_ != -1);                         \
    } while (0)

static void *call_everything(void *unused)
{
    struct iovec one = {"v", 1};
    SAY_ERRNO(write(file, "a", 1));
    SAY_ERRNO(pwrite(file, "b", 1, 5000));
    SAY_ERRNO(writev(file, &one, 1));
    SAY_ERRNO(pwritev(file, &one, 1, 9000));
    SAY_ERRNO(pwritev2(file, &one, 1, 9000, 0));
    SAY_ERRNO(dup2(file, 77));
    SAY_ERRNO(dup3(file, 78, O_CLOEXEC));
    SAY_ERRNO(write(77, "c", 1));
    SAY_ERRNO(close(77));
    SAY_ERRNO(close_range(78, 78, 0));
    unsigned char *at = mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, file, 0);
    CHECK(at != MAP_FAILED);
    SAY_ERRNO(mmap(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT | MAP_FIXED, file, 0) == MAP_FAILED);
    SAY_ERRNO(pwrite(file, "d", 1, 2 * PAGE));
    SAY_ERRNO(mprotect(at, PAGE, PROT_READ | PROT_WRITE));
    SAY_ERRNO(madvise(at, PAGE, MADV_WILLNEED));
    SAY_ERRNO(mremap(at + PAGE, 3 * PAGE, 2 * PAGE, 0) == MAP_FAILED);
    SAY_ERRNO(munmap(at, 4 * PAGE));
    return unused;
}

static void print_mask(void)
{
    sigset_t mask;
    CHECK(sigprocmask(SIG_BLOCK, NULL, &mask) == 0);
    for (int number = 1; number < NSIG; number++)
        if (sigismember(&mask, number))
            printf("blocked: %d\n", number);
}

static void errno_stays(void)
{
    call_everything(NULL);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, call_everything, NULL) == 0 && pthread_join(thread, NULL) == 0);
    print_mask();
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    const char *mode = argv[1];
    path = argv[2];
    file = open(path, O_RDWR);
    CHECK(file >= 0);
    int flags = 0;
    if (strstr(mode, "-on-alternate-stack")) {
        on_alternate_stack();
        flags = SA_ONSTACK;
    }
    if (strcmp(mode, "interrupted") == 0)
        interrupted(0);
    else if (strcmp(mode, "restarted") == 0)
        interrupted(SA_RESTART);
    else if (strcmp(mode, "splice-interrupted") == 0)
        splice_interrupted(0);
    else if (strcmp(mode, "splice-interrupted-once") == 0)
        splice_interrupted((int)SA_RESETHAND);
    else if (strcmp(mode, "splice-restarted") == 0)
        splice_interrupted(SA_RESTART);
    else if (strcmp(mode, "splice-restarted-beside-blocked") == 0)
        splice_interrupted_beside_blocked();
    else if (strcmp(mode, "half-way") == 0)
        interrupted_half_way();
    else if (strncmp(mode, "storm", 5) == 0)
        storm(flags);
    else if (strncmp(mode, "jump-blocked", 12) == 0)
        jump_out_of_blocked(flags);
    else if (strncmp(mode, "jump-storm", 10) == 0)
        jump_storm(flags);
    else if (strcmp(mode, "errno") == 0)
        errno_stays();
    else
        CHECK(!"a known mode");
    print_mask();
    print_file(path);
    return 0;
}

/* delays WHAT DIRECTORY: other processes do what lasts long, while snapshots are taken.
 *
 *   pipes      500 processes are blocked in write to pipes since before any snapshot was taken
 *   threads    100 threads of a process that has made a child by posix_spawn are blocked so
 *   others     threads are blocked in writes to sockets and to a terminal
 *   closes     a thread is blocked so, and its process closes other descriptors, then that one, then puts /dev/null there
 *   hidden     a process is blocked so that no other of its user may look at (PR_SET_DUMPABLE)
 *   replaced   a blocked write goes on to a file that was put at its descriptor by a system call that no hook sees
 *   mapped     a stopped process has 300 files mapped shared; snapshots are taken of 100 others, and of one of them
 *   direct     a process that no other may look at has written a file past the page cache; snapshots of another file
 *   fork       a mapper forks while a write to an unrelated file is stuck
 *   early      the same, but the write began before there was any snapshot
 *   own        the same, but the write goes to the mapper's file; a write to another file does not wait for the fork
 *   shown      a write is stuck for as long as standard input is open; says "ready" when a snapshot was refused for it
 */
#include "blocked.h"

#include <linux/aio_abi.h>
#include <linux/userfaultfd.h>
#include <pty.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

extern char **environ;

static int file;
static char bytes[1 << 16];

/* The time that a snapshot of `fd` takes, the best of a few: others may have the processors. */
static double best_time(int fd)
{
    double best = 1e9;
    for (int i = 0; i < 20; i++) {
        double started = milliseconds();
        unsigned char *shown = snapshot(fd, 0, PAGE, PROT_READ);
        double took = milliseconds() - started;
        best = took < best ? took : best;
        CHECK(munmap(shown, PAGE) == 0);
    }
    return best;
}

static void is_fast(void)
{
    double best = best_time(file);
    if (best >= 1)
        fprintf(stderr, "the fastest of 20 snapshots took %.3f ms\n", best);
    CHECK(best < 1);
}

static int first_of_pipe(void)
{
    int ends[2];
    full_pipe(ends);
    return ends[1];
}

static pid_t tids[500];

static void *write_to(void *argument)
{
    long number = (long)argument;
    tids[number >> 16] = own_tid();
    (void)!write((int)(number & 0xffff), bytes, sizeof bytes);
    return NULL;
}

/* A thread that is blocked in write(2) to `fd`. */
static pthread_t blocked_thread(int at, int fd)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, write_to, (void *)((long)at << 16 | fd)) == 0);
    while (__atomic_load_n(&tids[at], __ATOMIC_ACQUIRE) == 0)
        sched_yield();
    await_blocked(tids[at], SYS_write);
    return thread;
}

/* A process in which `act` runs, which says when it is ready; and how it is told to go on. */
static pid_t beside(void (*act)(int step), int *steps)
{
    int ready[2], go[2];
    CHECK(pipe(ready) == 0 && pipe(go) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        char byte;
        for (int step = 0;; step++) {
            act(step);
            if (write(ready[1], "r", 1) != 1 || read(go[0], &byte, 1) != 1)
                _exit(0);
        }
    }
    char byte;
    close(ready[1]);
    CHECK(read(ready[0], &byte, 1) == 1);
    steps[0] = ready[0], steps[1] = go[1];
    return child;
}

static void next_step(const int *steps)
{
    char byte;
    CHECK(write(steps[1], "g", 1) == 1 && read(steps[0], &byte, 1) == 1);
}

static void end(pid_t child)
{
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
}

static void pipes(void)
{
    static pid_t children[500];
    for (int i = 0; i < 500; i++) {
        int fd = first_of_pipe();
        if ((children[i] = fork()) == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            (void)!write(fd, bytes, sizeof bytes);
            _exit(0);
        }
        close(fd);
    }
    for (int i = 0; i < 500; i++)
        await_asleep(children[i]);
    is_fast();
    for (int i = 0; i < 500; i++)
        end(children[i]);
}

static void block_threads(int step)
{
    (void)step;
    pid_t child;
    char *arguments[] = {"true", NULL};
    CHECK(posix_spawnp(&child, "true", NULL, NULL, arguments, environ) == 0 && waitpid(child, NULL, 0) == child);
    for (int i = 0; i < 100; i++)
        blocked_thread(i, first_of_pipe());
}

static void block_others(int step)
{
    (void)step;
    int pair[2], master, slave;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK(openpty(&master, &slave, NULL, NULL, NULL) == 0);
    int room = 4096;
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof room) == 0);
    blocked_thread(0, pair[0]);
    blocked_thread(1, slave);
}

static int blocked_at;

static void block_and_close(int step)
{
    if (step == 0) {
        blocked_at = first_of_pipe();
        blocked_thread(0, blocked_at);
        int others[80];
        for (int i = 0; i < 80; i++)
            CHECK((others[i] = open("/dev/null", O_RDONLY)) >= 0);
        for (int i = 0; i < 80; i++)
            close(others[i]);
    } else if (step == 1) {
        close(blocked_at);
    } else {
        int null = open("/dev/null", O_WRONLY);
        CHECK(null == blocked_at || dup2(null, blocked_at) == blocked_at);
    }
}

static void closes(void)
{
    int steps[2];
    pid_t child = beside(block_and_close, steps);
    is_fast();
    next_step(steps);
    is_fast();
    next_step(steps);
    is_fast();
    end(child);
}

static void block_hidden(int step)
{
    (void)step;
    CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
    blocked_at = first_of_pipe();
    /* Its own /proc files are not to be read either. */
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, write_to, (void *)(long)blocked_at) == 0);
    usleep(100000);
}

static void with(void (*act)(int step))
{
    int steps[2];
    pid_t child = beside(act, steps);
    is_fast();
    end(child);
}

static void nothing(int number)
{
    (void)number;
}

/* dup2(2) by an instruction of the program's own. */
static long raw_dup2(long from, long to)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(SYS_dup2), "D"(from), "S"(to) : "rcx", "r11", "memory");
    return result;
}

/* The write of another thread is interrupted before it has written a byte, and the kernel makes it again. */
static void replaced(void)
{
    struct sigaction action = {.sa_handler = nothing, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    blocked_at = first_of_pipe();
    pthread_t thread = blocked_thread(0, blocked_at);
    is_fast();
    CHECK(lseek(file, 0, SEEK_SET) == 0);
    CHECK(raw_dup2(file, blocked_at) == blocked_at);
    unsigned char *shown = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, file, 0);
    CHECK(pthread_kill(thread, SIGUSR1) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    struct snapshim_stat found;
    if (shown == MAP_FAILED)
        return;
    CHECK(snapshim_stat(shown, &found) == 0);
    /* The thread found it itself, after the call. */
    CHECK(found.state == SNAPSHIM_BROKEN);
    CHECK(strstr(why_of(shown), "replaced the descriptor that it wrote to"));
}

static const char *directory;

static int numbered(const char *name, int number)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s%d", directory, name, number);
    return make_file(path, PAGE);
}

static void map_many(int step)
{
    (void)step;
    for (int i = 0; i < 300; i++) {
        int fd = numbered("mapped", i);
        CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED);
        close(fd);
    }
}

static void mapped(void)
{
    int steps[2];
    pid_t child = beside(map_many, steps);
    CHECK(kill(child, SIGSTOP) == 0);
    siginfo_t info;
    CHECK(waitid(P_PID, (id_t)child, &info, WSTOPPED | WNOWAIT) == 0);
    for (int i = 0; i < 100; i++) {
        int fd = numbered("other", i);
        snapshot(fd, 0, PAGE, PROT_READ);
        close(fd);
    }
    char path[512];
    snprintf(path, sizeof path, "%s/mapped7", directory);
    int fd = open(path, O_RDWR);
    CHECK_ERRNO(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, fd, 0), MAP_FAILED, ETIMEDOUT);
    CHECK(kill(child, SIGCONT) == 0);
    unsigned char *shown = snapshot(fd, 0, PAGE, PROT_READ);
    CHECK(shows(shown, 0, PAGE, 0));
    end(child);
}

static void write_directly(int step)
{
    (void)step;
    char path[512];
    snprintf(path, sizeof path, "%s/direct", directory);
    int fd = open(path, O_RDWR | O_CREAT | O_DIRECT, 0600);
    CHECK(fd >= 0);
    static aio_context_t context;
    CHECK(syscall(SYS_io_setup, 4L, &context) == 0);
    void *data;
    CHECK(posix_memalign(&data, PAGE, PAGE) == 0);
    memset(data, 'd', PAGE);
    struct iocb block = {.aio_lio_opcode = IOCB_CMD_PWRITE,
                         .aio_fildes = (unsigned)fd,
                         .aio_buf = (uintptr_t)data,
                         .aio_nbytes = PAGE},
                *blocks = &block;
    CHECK(syscall(SYS_io_submit, context, 1L, &blocks) == 1);
    struct io_event event;
    CHECK(syscall(SYS_io_getevents, context, 1L, 1L, &event, NULL) == 1 && event.res == PAGE);
    CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
}

static void direct(void)
{
    int steps[2];
    pid_t child = beside(write_directly, steps);
    is_fast();
    char path[512];
    snprintf(path, sizeof path, "%s/direct", directory);
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    if (geteuid() != 0)
        CHECK_ERRNO(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, fd, 0), MAP_FAILED, ETIMEDOUT);
    end(child);
}

/* Memory whose page does not come (userfaultfd(2)): a write from it is stuck. */
static void *stuck_memory(void)
{
    int faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (faults < 0) {
        printf("no userfaultfd\n");
        exit(0);
    }
    struct uffdio_api api = {.api = UFFD_API};
    CHECK(ioctl(faults, UFFDIO_API, &api) == 0);
    void *memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register range = {.range = {(uintptr_t)memory, PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    CHECK(memory != MAP_FAILED && ioctl(faults, UFFDIO_REGISTER, &range) == 0);
    return memory;
}

/* A process that is stuck in a write to `fd`. */
static pid_t stuck_write(int fd)
{
    void *memory = stuck_memory();
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        memory = stuck_memory();
        (void)!pwrite(fd, memory, 100, 0);
        _exit(0);
    }
    (void)memory;
    await_asleep(child);
    return child;
}

static void forks(int is_early)
{
    int other = numbered("other", 0);
    unsigned char *shown = is_early ? NULL : snapshot(file, 0, PAGE, PROT_READ);
    pid_t writer = stuck_write(other);
    if (is_early)
        shown = snapshot(file, 0, PAGE, PROT_READ);
    double started = milliseconds();
    IN_CHILD({
        struct snapshim_stat found;
        CHECK(snapshim_stat(shown, &found) == 0 && found.state == SNAPSHIM_EXACT);
        overwrite(file, 0, PAGE, 1);
        CHECK(shows(shown, 0, PAGE, 0));
    });
    CHECK(milliseconds() - started < 1000);
    CHECK(shows(shown, 0, PAGE, 0));
    end(writer);
}

static void *fork_once(void *argument)
{
    (void)argument;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        _exit(0);
    CHECK(waitpid(child, NULL, 0) == child);
    return NULL;
}

/* The fork waits for the write, as long as SNAPSHIM_TIMEOUT_MS says. */
static void own(void)
{
    int other = numbered("other", 0);
    snapshot(file, 0, PAGE, PROT_READ);
    pid_t writer = stuck_write(file);
    pthread_t forking;
    double started = milliseconds();
    CHECK(pthread_create(&forking, NULL, fork_once, NULL) == 0);
    usleep(50000);
    double before = milliseconds();
    overwrite(other, 0, PAGE, 1);
    double took = milliseconds() - before;
    CHECK(pthread_join(forking, NULL) == 0);
    CHECK(milliseconds() - started > 500);
    CHECK(took < 200);
    end(writer);
}

static void shown(void)
{
    pid_t writer = stuck_write(file);
    CHECK_ERRNO(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, file, 0), MAP_FAILED, ETIMEDOUT);
    printf("ready %d\n", (int)writer);
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    end(writer);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    directory = argv[2];
    char path[512];
    snprintf(path, sizeof path, "%s/file", directory);
    file = make_file(path, PAGE);
    const char *what = argv[1];
    if (strcmp(what, "pipes") == 0)
        pipes();
    else if (strcmp(what, "threads") == 0)
        with(block_threads);
    else if (strcmp(what, "others") == 0)
        with(block_others);
    else if (strcmp(what, "closes") == 0)
        closes();
    else if (strcmp(what, "hidden") == 0)
        with(block_hidden);
    else if (strcmp(what, "replaced") == 0)
        replaced();
    else if (strcmp(what, "mapped") == 0)
        mapped();
    else if (strcmp(what, "direct") == 0)
        direct();
    else if (strcmp(what, "fork") == 0)
        forks(0);
    else if (strcmp(what, "early") == 0)
        forks(1);
    else if (strcmp(what, "own") == 0)
        own();
    else if (strcmp(what, "shown") == 0)
        shown();
    else
        CHECK(!"a known scenario");
    return 0;
}

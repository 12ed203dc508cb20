/* A mapper that executes something else: no process waits for what it held, and none touches what comes after it. */
#include "check.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>

enum { PAGES = 64, SIZE = PAGES * 4096 };

/* Where the next image looks for what this one left: nothing else comes there, wherever the kernel puts its parts. */
#define PLACE ((unsigned char *)0x200000000000)

extern char **environ;

static double seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void make_bait(void)
{
    static unsigned char bytes[SIZE];
    memset(bytes, 0xb7, SIZE);
    int fd = open("bait", O_RDWR | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0 && write(fd, bytes, SIZE) == SIZE && close(fd) == 0);
}

static const char *how, *what;
static char *arguments[5];

static void execute(char **environment)
{
    if (strcmp(how, "execveat") == 0)
        execveat(AT_FDCWD, what, arguments, environment, 0);
    else if (strcmp(how, "fexecve") == 0)
        fexecve(open(what, O_PATH | O_CLOEXEC), arguments, environment);
    else if (strcmp(how, "syscall") == 0)
        syscall(SYS_execve, what, arguments, environment);
    else
        execve(what, arguments, environment);
    CHECK(!"executed");
}

static void *execute_in_thread(void *environment)
{
    execute(environment);
    return NULL;
}

static unsigned char *snapshot_at(void *place, int fd)
{
    int flags = MAP_PRIVATE | MAP_SNAPSHOT | MAP_FIXED_NOREPLACE;
    unsigned char *at = mmap(place, SIZE, PROT_READ | PROT_WRITE, flags, fd, 0);
    CHECK(at == place);
    return at;
}

/* Two snapshots, of which the writer can reach one without and one only with storing bytes, and a shared mapping. */
static void become_target(int ready, int go, char **environment)
{
    int fd = open("file", O_RDWR), shared = open("shared", O_RDWR);
    unsigned char *at = snapshot_at(PLACE, fd);
    unsigned char *second = snapshot(fd, 0, SIZE, PROT_READ);
    unsigned char *stored = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
    CHECK(shared >= 0 && stored != MAP_FAILED && shows(second, 0, SIZE, 0));
    stored[0] = at[0];
    char texts[3][32];
    snprintf(texts[0], 32, "%llx", (unsigned long long)(uintptr_t)at);
    snprintf(texts[1], 32, "%d", ready);
    snprintf(texts[2], 32, "%d", go);
    arguments[0] = (char *)what;
    for (int i = 0; i < 3; i++)
        arguments[i + 1] = texts[i];
    pthread_t thread;
    if (strcmp(how, "thread") == 0) {
        CHECK(pthread_create(&thread, NULL, execute_in_thread, environment) == 0);
        pthread_join(thread, NULL);
    }
    execute(environment);
}

/* target HOW PROGRAM shim|none: says "ready" when the file has been written, and waits for the end of its input. */
static void mapper_becomes_target(const char *environment)
{
    int fd = make_file("file", SIZE), shared = make_file("shared", SIZE), ready[2], go[2], status;
    char byte = 0, *none[] = {NULL};
    make_bait();
    CHECK(pipe(ready) == 0 && pipe(go) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(go[1]);
        become_target(ready[1], go[0], strcmp(environment, "none") == 0 ? none : environ);
    }
    close(ready[1]);
    CHECK(read(ready[0], &byte, 1) == 1);
    double start = seconds();
    overwrite(fd, 0, SIZE, 1);
    unsigned char *at = snapshot(shared, 0, SIZE, PROT_READ);
    CHECK(seconds() - start < 20);
    overwrite(shared, 0, SIZE, 1);
    CHECK(at[0] == stamp(0, 0) && shows(at, 0, SIZE, 0));
    CHECK(munmap(at, SIZE) == 0);
    printf("ready\n");
    fflush(stdout);
    CHECK(read(0, &byte, 1) == 0);
    CHECK(write(go[1], &byte, 1) == 1);
    CHECK(waitpid(pid, &status, 0) == pid);
    printf("status %#x\n", (unsigned)status);
}

/* An exec that fails changes nothing: the snapshots stay, and stay exact. */
static void failure_leaves_all_as_it_was(void)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(FORKED_BEFORE, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, PROT_READ | PROT_WRITE), *second = snapshot(fd, 0, SIZE, PROT_READ);
    const char *refused[] = {"missing", "file", "/"};
    int errors[] = {ENOENT, EACCES, EACCES};
    for (int i = 0; i < 3; i++) {
        char *const none[] = {(char *)refused[i], NULL};
        CHECK_ERRNO(execve(refused[i], none, environ), -1, errors[i]);
        CHECK_ERRNO(execveat(AT_FDCWD, refused[i], none, environ, 0), -1, errors[i]);
        double start = seconds();
        /* From the back on: of a sequential writer pages ahead are preserved as well. */
        writer_writes(&writer, (size_t)(2 - i) * 16 * PAGE, 16 * PAGE, i + 1);
        CHECK(seconds() - start < 20);
        CHECK(shows(at, 0, SIZE, 0) && shows(second, 0, SIZE, 0));
        CHECK(stat_of(at).state == SNAPSHIM_EXACT && stat_of(second).state == SNAPSHIM_EXACT);
        CHECK(stat_of(at).preserved == (size_t)(i + 1) * 16);
    }
    writer_end(&writer);
}

/* Each image holds snapshots when it executes the next, which has a plain mapping there: no page of that is ever copied by others. */
static void one_image_after_another(int left, const char *address)
{
    unsigned char *bait = NULL;
    if (*address) {
        int fd = open("bait", O_RDONLY);
        unsigned char *wanted = (unsigned char *)strtoull(address, NULL, 16);
        bait = mmap(wanted, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 0);
        CHECK(bait == wanted && close(fd) == 0);
        for (size_t i = 0; i < SIZE; i++)
            CHECK(bait[i] == 0xb7);
    }
    static unsigned char copy[SIZE];
    int fd = open("file", O_RDONLY), pagemap = open("/proc/self/pagemap", O_RDONLY);
    /* Beside the bait. */
    unsigned char *at = snapshot_at(PLACE + (size_t)(left % 2) * SIZE, fd);
    memcpy(copy, at, SIZE);
    close(fd);
    usleep(500 * (useconds_t)(left % 5));
    CHECK(memcmp(at, copy, SIZE) == 0 && stat_of(at).state == SNAPSHIM_EXACT);
    for (size_t page = 0; bait && page < PAGES; page++) {
        uint64_t entry;
        CHECK(pread(pagemap, &entry, 8, (off_t)(((uintptr_t)bait / PAGE + page) * 8)) == 8);
        CHECK(bait[page * PAGE] == 0xb7 && entry >> 61 & 1);
    }
    close(pagemap);
    if (left == 0)
        return;
    char texts[2][32];
    snprintf(texts[0], 32, "%d", left - 1);
    snprintf(texts[1], 32, "%llx", (unsigned long long)(uintptr_t)at);
    execl("/proc/self/exe", "exec", "storm", texts[0], texts[1], NULL);
    CHECK(!"executed");
}

static void storm(void)
{
    int fd = make_file("file", SIZE), status;
    make_bait();
    pid_t writer = fork();
    CHECK(writer >= 0);
    if (writer == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (int version = 1;; version++)
            overwrite(fd, 0, SIZE, version % 200);
    }
    pid_t mapper = fork();
    CHECK(mapper >= 0);
    if (mapper == 0)
        execl("/proc/self/exe", "exec", "storm", "120", "", NULL);
    CHECK(waitpid(mapper, &status, 0) == mapper && status == 0);
    CHECK(waitpid(writer, &status, WNOHANG) == 0);
    CHECK(kill(writer, SIGKILL) == 0 && waitpid(writer, &status, 0) == writer);
}

static atomic_int is_enough;

static void *fail_to_execute(void *argument)
{
    char *const none[] = {argument, NULL};
    while (!is_enough)
        CHECK_ERRNO(execve(argument, none, environ), -1, ENOEXEC);
    return NULL;
}

static void __attribute__((noreturn)) take_a_snapshot_beside_exec(int fd, int ready, int go)
{
    pthread_t thread;
    char byte = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    CHECK(pthread_create(&thread, NULL, fail_to_execute, (void *)"garbage") == 0);
    errno = 0;
    unsigned char *at = snapshot(fd, 0, SIZE, PROT_READ);
    CHECK(errno == 0);
    is_enough = 1;
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(write(ready, &byte, 1) == 1 && read(go, &byte, 1) == 1);
    CHECK(shows(at, 0, SIZE, 0));
    _exit(0);
}

/* The kernel makes no thread, so no agent, while another thread is in exec; if that fails, the agent is needed all the same. */
static void agent_is_started_beside_exec(void)
{
    int garbage = open("garbage", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    CHECK(garbage >= 0 && write(garbage, "garbage", 7) == 7 && close(garbage) == 0);
    for (int round = 0; round < 40; round++) {
        int fd = make_file("file", SIZE), ready[2], go[2], status;
        char byte = 0;
        CHECK(pipe(ready) == 0 && pipe(go) == 0);
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0)
            take_a_snapshot_beside_exec(fd, ready[1], go[0]);
        close(ready[1]);
        CHECK(read(ready[0], &byte, 1) == 1);
        CHECK(ftruncate(fd, 0) == 0 && write(go[1], &byte, 1) == 1);
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
        close(fd), close(ready[0]), close(go[0]), close(go[1]);
    }
}

int main(int argc, char **argv)
{
    alarm(250);
    if (argc == 5 && strcmp(argv[1], "target") == 0) {
        how = argv[2], what = argv[3];
        mapper_becomes_target(argv[4]);
    } else if (argc == 4 && strcmp(argv[1], "storm") == 0) {
        one_image_after_another(atoi(argv[2]), argv[3]);
    } else if (argc == 2 && strcmp(argv[1], "storm") == 0) {
        storm();
    } else if (argc == 2 && strcmp(argv[1], "failure") == 0) {
        failure_leaves_all_as_it_was();
    } else if (argc == 2 && strcmp(argv[1], "beside") == 0) {
        agent_is_started_beside_exec();
    } else {
        return 2;
    }
    return 0;
}

/* What the test programs share: a check that names its place, and pages that can be told apart. */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snapshim.h"

#define PAGE ((size_t)4096)

/* Ends the program with the place, the expression and errno if the condition does not hold. */
#define CHECK(condition)                                                                                       \
    do {                                                                                                       \
        if (!(condition)) {                                                                                    \
            fprintf(stderr, "%s:%d: %s does not hold (errno %d: %s)\n", __FILE__, __LINE__, #condition, errno, \
                    strerror(errno));                                                                          \
            exit(1);                                                                                           \
        }                                                                                                      \
    } while (0)

/* The call has to fail with this errno. */
#define CHECK_ERRNO(call, failure, wanted)  \
    do {                                    \
        errno = 0;                          \
        CHECK((call) == (failure));         \
        CHECK(errno == (wanted));           \
    } while (0)

/* The byte that page `page` of version `version` of a test file is filled with. Never 0. */
static inline unsigned char stamp(size_t page, int version)
{
    return (unsigned char)(1 + (page * 7 + (size_t)version * 31) % 255);
}

/* Makes (or truncates and makes) a file of `size` bytes of version 0; a descriptor for reading and writing. */
static inline int make_file(const char *path, size_t size)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    for (size_t done = 0; done < size;) {
        unsigned char page[4096];
        size_t length = size - done < PAGE ? size - done : PAGE;
        memset(page, stamp(done / PAGE, 0), sizeof page);
        CHECK(pwrite(fd, page, length, (off_t)done) == (ssize_t)length);
        done += length;
    }
    return fd;
}

/* Overwrites [offset, offset + length) with version `version`. */
static inline void overwrite(int fd, size_t offset, size_t length, int version)
{
    for (size_t at = offset; at < offset + length;) {
        unsigned char page[4096];
        size_t rest = PAGE - at % PAGE, left = offset + length - at;
        size_t now = rest < left ? rest : left;
        memset(page, stamp(at / PAGE, version), sizeof page);
        CHECK(pwrite(fd, page, now, (off_t)at) == (ssize_t)now);
        at += now;
    }
}

/* Does [offset, offset + length) of the file, shown at `at`, have version `version`? */
static inline int shows(const unsigned char *at, size_t offset, size_t length, int version)
{
    for (size_t i = 0; i < length; i++)
        if (at[i] != stamp((offset + i) / PAGE, version))
            return 0;
    return 1;
}

static sigjmp_buf fault_escape;
static volatile sig_atomic_t fault_signal;

static void on_fault(int number)
{
    fault_signal = number;
    siglongjmp(fault_escape, 1);
}

/* The signal that reading the byte at `at` raises, 0 if none. */
static inline int fault_of_reading(const volatile unsigned char *at)
{
    struct sigaction action = {.sa_handler = on_fault}, old_segv, old_bus;
    sigaction(SIGSEGV, &action, &old_segv);
    sigaction(SIGBUS, &action, &old_bus);
    fault_signal = 0;
    if (sigsetjmp(fault_escape, 1) == 0)
        (void)*at;
    sigaction(SIGSEGV, &old_segv, NULL);
    sigaction(SIGBUS, &old_bus, NULL);
    return fault_signal;
}

/* A snapshot of the whole range; ends the program if it cannot be had. */
static inline unsigned char *snapshot(int fd, size_t offset, size_t length, int protection)
{
    unsigned char *at = mmap(NULL, length, protection, MAP_PRIVATE | MAP_SNAPSHOT, fd, (off_t)offset);
    CHECK(at != MAP_FAILED);
    return at;
}

/* Whether a process may store into its page at `address` without being trapped. */
static inline int is_open(pid_t pid, const void *address)
{
    char path[64], line[512];
    int open = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *maps = fopen(path, "r");
    CHECK(maps);
    while (fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        char rights[5];
        if (sscanf(line, "%lx-%lx %4s", &start, &end, rights) == 3 && start <= (unsigned long)address && (unsigned long)address < end)
            open = rights[1] == 'w';
    }
    fclose(maps);
    return open;
}

/* Until the only thread of a process sleeps. */
static inline void await_asleep(pid_t pid)
{
    char path[32], state = 'R';
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    while (state != 'S') {
        usleep(1000);
        FILE *stat = fopen(path, "r");
        CHECK(stat && fscanf(stat, "%*d (%*[^)]) %c", &state) == 1);
        fclose(stat);
    }
}

/* Runs `body` in a child process and waits for it; the child must exit with 0. */
#define IN_CHILD(body)                                          \
    do {                                                        \
        fflush(NULL);                                           \
        pid_t child_ = fork();                                  \
        CHECK(child_ >= 0);                                     \
        if (child_ == 0) {                                      \
            body;                                               \
            fflush(NULL);                                       \
            _exit(0);                                           \
        }                                                       \
        int status_;                                            \
        CHECK(waitpid(child_, &status_, 0) == child_);          \
        CHECK(WIFEXITED(status_) && WEXITSTATUS(status_) == 0); \
    } while (0)

/* Overwrites [offset, offset + length) with version `version` in one call; 0 or errno. */
static inline int try_overwrite(int fd, size_t offset, size_t length, int version)
{
    unsigned char *bytes = malloc(length);
    CHECK(bytes);
    for (size_t i = 0; i < length; i++)
        bytes[i] = stamp((offset + i) / PAGE, version);
    ssize_t written = pwrite(fd, bytes, length, (off_t)offset);
    int failure = written == (ssize_t)length ? 0 : written < 0 ? errno : EIO;
    free(bytes);
    return failure;
}

/* Who writes the file: the mapper, or a process that it forked before or after it took its snapshot. */
enum who { ITSELF, FORKED_BEFORE, FORKED_AFTER, WRITERS };

struct writer {
    enum who who;
    const char *path;
    pid_t pid;
    int commands, answers;
};

struct command {
    size_t offset, length;
    int version;
};

static inline void writer_fork(struct writer *writer)
{
    int commands[2], answers[2];
    CHECK(pipe(commands) == 0 && pipe(answers) == 0);
    writer->pid = fork();
    CHECK(writer->pid >= 0);
    if (writer->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(commands[1]);
        close(answers[0]);
        int fd = open(writer->path, O_WRONLY);
        CHECK(fd >= 0);
        struct command command;
        while (read(commands[0], &command, sizeof command) == sizeof command) {
            int failure = try_overwrite(fd, command.offset, command.length, command.version);
            CHECK(write(answers[1], &failure, sizeof failure) == sizeof failure);
        }
        _exit(0);
    }
    close(commands[0]);
    close(answers[1]);
    writer->commands = commands[1];
    writer->answers = answers[0];
}

/* Called before the snapshot is taken. */
static inline struct writer writer_before(enum who who, const char *path)
{
    struct writer writer = {.who = who, .path = path};
    if (who == FORKED_BEFORE)
        writer_fork(&writer);
    return writer;
}

/* Called after the snapshot has been taken. */
static inline void writer_after(struct writer *writer)
{
    if (writer->who == FORKED_AFTER)
        writer_fork(writer);
}

/* Has the writer overwrite [offset, offset + length) with version `version`; 0 or the errno that it got. */
static inline int writer_tries(const struct writer *writer, size_t offset, size_t length, int version)
{
    int failure;
    if (writer->who == ITSELF) {
        int fd = open(writer->path, O_WRONLY);
        CHECK(fd >= 0);
        failure = try_overwrite(fd, offset, length, version);
        close(fd);
        return failure;
    }
    struct command command = {.offset = offset, .length = length, .version = version};
    CHECK(write(writer->commands, &command, sizeof command) == sizeof command);
    CHECK(read(writer->answers, &failure, sizeof failure) == sizeof failure);
    return failure;
}

static inline void writer_writes(const struct writer *writer, size_t offset, size_t length, int version)
{
    errno = writer_tries(writer, offset, length, version);
    CHECK(errno == 0);
}

static inline void writer_end(struct writer *writer)
{
    if (writer->pid == 0)
        return;
    close(writer->commands);
    close(writer->answers);
    int status;
    CHECK(waitpid(writer->pid, &status, 0) == writer->pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* The statistics of the snapshot at `at`. */
static inline struct snapshim_stat stat_of(const void *at)
{
    struct snapshim_stat stat;
    CHECK(snapshim_stat(at, &stat) == 0);
    return stat;
}

/* A range of addresses that nothing is mapped at. */
static inline unsigned char *free_range(size_t length)
{
    unsigned char *at = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(at != MAP_FAILED && munmap(at, length) == 0);
    return at;
}

/* One part of a test program; the driver names it. With EACH it runs for both protections and each writer, else once. */
struct scenario {
    const char *name;
    void (*run)(int protection, enum who who);
    int runs_for_each;
};

#define EACH(function) {#function, function, 1}
#define ONCE(function) {#function, function, 0}

/* Says that a scenario cannot run here; the driver passes it on. */
#define SKIP(why)                          \
    do {                                   \
        printf("SKIPPED %s\n", why);       \
        fflush(stdout);                    \
        return;                            \
    } while (0)

static inline void run_scenario(const struct scenario *scenario, int protection, enum who who)
{
    static const char *const names[] = {"itself", "forked before", "forked after"};
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(40);
        unlink("file");
        scenario->run(protection, who);
        fflush(NULL);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (status == 0)
        return;
    fprintf(stderr, "%s: %s, writer %s: status %#x\n", scenario->name, protection & PROT_WRITE ? "rw" : "r", names[who],
            (unsigned)status);
    exit(1);
}

/* Runs the scenario that the first argument names, each run in a process of its own. */
static inline int run_scenarios(int argc, char **argv, const struct scenario *all, size_t count)
{
    CHECK(argc >= 2);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(all[i].name, argv[1]) != 0)
            continue;
        for (int who = ITSELF; who < (all[i].runs_for_each ? WRITERS : 1); who++)
            for (int rw = 0; rw < (all[i].runs_for_each ? 2 : 1); rw++)
                run_scenario(&all[i], rw ? PROT_READ | PROT_WRITE : PROT_READ, (enum who)who);
        return 0;
    }
    fprintf(stderr, "no scenario %s\n", argv[1]);
    return 2;
}

#define MAIN(scenarios)                                                                     \
    int main(int argc, char **argv)                                                         \
    {                                                                                       \
        return run_scenarios(argc, argv, scenarios, sizeof scenarios / sizeof scenarios[0]); \
    }

#endif

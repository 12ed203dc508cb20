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

/* Ends the program, if the condition does not hold, with what `on_failed_check` says about it: the place, the expression and errno,
 * unless the program has set it to say more. */
#define CHECK(condition)                                     \
    do {                                                     \
        if (!(condition))                                    \
            on_failed_check(__FILE__, __LINE__, #condition); \
    } while (0)

extern void (*on_failed_check)(const char *file, int line, const char *condition) __attribute__((noreturn));

/* The call has to fail with this errno. */
#define CHECK_ERRNO(call, failure, wanted)  \
    do {                                    \
        errno = 0;                          \
        CHECK((call) == (failure));         \
        CHECK(errno == (wanted));           \
    } while (0)

/* The byte that page `page` of version `version` of a test file is filled with. Never 0. */
unsigned char stamp(size_t page, int version);

/* Makes (or truncates and makes) a file of `size` bytes of version 0; a descriptor for reading and writing. */
int make_file(const char *path, size_t size);

/* Overwrites [offset, offset + length) with version `version`. */
void overwrite(int fd, size_t offset, size_t length, int version);

/* Does [offset, offset + length) of the file, shown at `at`, have version `version`? */
int shows(const unsigned char *at, size_t offset, size_t length, int version);

extern sigjmp_buf fault_escape;
extern volatile sig_atomic_t fault_signal;

void on_fault(int number);

/* The signal that reading the byte at `at` raises, 0 if none. */
int fault_of_reading(const volatile unsigned char *at);

/* A snapshot of the whole range; ends the program if it cannot be had. */
unsigned char *snapshot(int fd, size_t offset, size_t length, int protection);

/* Whether a process may store into its page at `address` without being trapped. */
int is_open(pid_t pid, const void *address);

/* Until the only thread of a process sleeps. */
void await_asleep(pid_t pid);

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
int try_overwrite(int fd, size_t offset, size_t length, int version);

/* The writer of the file: the mapper, or a process that it forked before or after it took its snapshot. */
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

/* Called before the snapshot is taken. */
struct writer writer_before(enum who who, const char *path);

/* Called after the snapshot has been taken. */
void writer_after(struct writer *writer);

/* Has the writer overwrite [offset, offset + length) with version `version`; 0 or the errno that it got. */
int writer_tries(const struct writer *writer, size_t offset, size_t length, int version);

void writer_writes(const struct writer *writer, size_t offset, size_t length, int version);

void writer_end(struct writer *writer);

/* Memory of one page, all zero, that this process shares with those that it forks from now on. */
void *shared_page(void);

/* A process that overwrites the first `size` bytes of a file page by page, round after round, and counts rounds in `rounds` if that is
 * not NULL. */
struct storm {
    pid_t pid;
    int stop;
};

struct storm storm_begin(int fd, size_t size, _Atomic int *rounds);

/* Ends it; no other process may have its `stop` open. */
void storm_end(const struct storm *storm);

/* The statistics of the snapshot at `at`. One that is not exact says why. */
struct snapshim_stat stat_of(const void *at);

/* Why the snapshot at `at` is not exact: empty, if it is. In a buffer that the next call of the thread uses. */
const char *why_of(const void *at);

/* A range of addresses that nothing is mapped at. */
unsigned char *free_range(size_t length);

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

/* Runs the scenario that the first argument names, each run in a process of its own. */
int run_scenarios(int argc, char **argv, const struct scenario *all, size_t count);

#define MAIN(scenarios)                                                                     \
    int main(int argc, char **argv)                                                         \
    {                                                                                       \
        return run_scenarios(argc, argv, scenarios, sizeof scenarios / sizeof scenarios[0]); \
    }

#endif

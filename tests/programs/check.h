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


#endif

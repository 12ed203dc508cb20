/* What the programs about shared mappings share: a transcript of calls that has to be the same natively and under the shim, and
 * witnesses of what the calls did: the file, another process's ordinary mapping of it, and every snapshot taken so far. */
#ifndef SHARING_H
#define SHARING_H

#include "check.h"
#include <sys/ioctl.h>
#include <linux/fs.h>

#define PAGES ((size_t)16)
#define SIZE (PAGES * PAGE)

enum { MOST_MOMENTS = 8 };

struct moment {
    unsigned char *snapshot, *copy;
    size_t size;
};

/* The holder of the snapshots: none, this process, or another. */
enum keeper { NOBODY, OWN, OTHER };

extern int file, is_device;
extern enum keeper keeper;
extern struct moment moments[MOST_MOMENTS];
/* Where mappings go whose place matters. */
extern unsigned char *arena;

enum { ARENA = 64 };

/* A snapshot of the file as it is now, if a process is to hold any. */
void moment(void);

/* Says what is in the file, and checks that no process sees it otherwise and that no snapshot has changed. */
void look(const char *after);

/* A call that returns a number. */
#define SAY(call)                                                                \
    do {                                                                         \
        errno = 0;                                                               \
        long result_ = (long)(call);                                             \
        printf("%d: " #call " = %ld, errno %d\n", __LINE__, result_, errno);     \
        look(#call);                                                             \
    } while (0)

/* A call that returns an address: where it is in the arena, if there. */
#define SAY_PLACE(call)                                                                               \
    ({                                                                                                \
        errno = 0;                                                                                    \
        unsigned char *at_ = (void *)(call);                                                          \
        int failure_ = errno;                                                                         \
        long page_ = at_ >= arena && at_ < arena + ARENA * PAGE ? (at_ - arena) / (long)PAGE : -1;    \
        page_ = strncmp(#call, "mmap(NULL", 9) == 0 ? -1 : page_; /* the kernel's choice */           \
        printf("%d: " #call " = %s, page %ld, errno %d\n", __LINE__, at_ == MAP_FAILED ? "failed" : "mapped", page_, failure_); \
        look(#call);                                                                                  \
        at_;                                                                                          \
    })

/* A store, and that it is seen. */
#define STORE(at, value)                                        \
    do {                                                        \
        *(volatile unsigned char *)(at) = (unsigned char)(value); \
        CHECK(*(volatile unsigned char *)(at) == (unsigned char)(value)); \
        look("store " #at);                                     \
    } while (0)

/* What becomes of a process that reads, or stores, at `at`. */
int end_of_child(volatile unsigned char *at, int stores);

#define SAY_ACCESS(at)                                                                               \
    do {                                                                                             \
        printf("%d: read of " #at ": signal %d\n", __LINE__, end_of_child((unsigned char *)(at), 0)); \
        printf("%d: store to " #at ": signal %d\n", __LINE__, end_of_child((unsigned char *)(at), 1)); \
        look("access of " #at);                                                                      \
    } while (0)

unsigned char *map_at(size_t page, size_t pages, int protection, size_t first);

#define RW (PROT_READ | PROT_WRITE)

struct part {
    const char *name;
    void (*run)(void);
};

#define PART(function) {#function, function}

/* PROGRAM KEEPER(nobody|own|other) PROTECTION(r|rw) FILE(path, memfd or shm) PART: one part, with a new file. */
int run_part(int argc, char **argv, const struct part *parts, size_t count);

#define SHARING_MAIN(parts)                                                             \
    int main(int argc, char **argv)                                                     \
    {                                                                                   \
        return run_part(argc, argv, parts, sizeof parts / sizeof parts[0]);             \
    }

#endif

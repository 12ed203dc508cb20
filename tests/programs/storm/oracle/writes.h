/* How files are changed. Each thread writes its own lanes of the pages that all share, the file that belongs to it, and, one
 * at a time, the files that also change their size. */
#ifndef ORACLE_WRITES_H
#define ORACLE_WRITES_H

#include "shared.h"

/* From IN_STEPS on, a call may land in several steps. */
enum way {
    PWRITE, WRITE, WRITEV, PWRITEV, PWRITEV2, AIO, LIO, QUEUE, NUMBER, DIRECT, APPEND, IN_STEPS, STDIO = IN_STEPS, COPY, SENDFILE,
    SPLICE, WAYS
};

/* A thread that changes files: a role of a thread. */
struct actor {
    int number, role;
    int fds[FILES];
    unsigned char *buffer; /* MOST_PAGES pages to write from */
};

extern _Thread_local struct actor actors[ROLES];
int fd_of(struct actor *actor, int file);

size_t lane_words(void);

void note_written(const struct actor *actor, int line, uint64_t change, uint64_t begin, int file, size_t offset, ssize_t count,
                  int in_steps);

void do_write(struct actor *actor, int line, const int *a);

/* Stores through a shared mapping: by the thread, or by the kernel on its behalf. */
void do_store(struct actor *actor, int line, const int *a, unsigned char **mappings);

enum resizing { BY_FTRUNCATE, BY_TRUNCATE, BY_OPEN, BY_FOPEN, ALLOCATE, KEEP_SIZE, PUNCH, ZERO, COLLAPSE, INSERT, RESIZINGS };

void do_resize(struct actor *actor, int line, const int *a);

#endif

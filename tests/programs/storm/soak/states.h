/* Files that one process changes at a time, in any way at all, its size above all. Each change leads from one state to the next, and all
 * bytes of each state are kept for a while: a snapshot has to be one of the states that there were while it was taken.
 *
 * A thread that changes a file holds its lock. If it dies, the next one finds the lock with the dead, reads what the file has become, and
 * takes that for the state that the change led to. */
#ifndef SOAK_STATES_H
#define SOAK_STATES_H

#include "shared.h"

enum { STATE_FILES = 4, STATE_PAGES = 12, STATES = 64 };
#define STATE_BYTES (STATE_PAGES * PAGE)

struct state {
    _Atomic uint32_t number;
    uint32_t is_mixed; /* while the change was made, each word was the old one or the new one */
    uint32_t size;
    unsigned char bytes[STATE_BYTES];
};

struct history {
    _Atomic uint64_t lock; /* `own_name` of the thread that changes the file */
    _Atomic uint32_t begun, reached;
    struct state states[STATES]; /* by number: a ring */
};

extern struct history *histories;

/* Makes what the file is now the state that was begun. */
void reach_state(size_t file, const char *path);

void begin_state(size_t file, int is_mixed);

/* Returns 0 if another thread is changing the file. */
int lock_state(size_t file, const char *path);

void unlock_state(size_t file);

/* `at` shows `size` bytes of the file, which were its content at an instant between `first` had been reached and `last` was begun.
 * Returns 0 if it cannot be told yet. */
int judge_state(const unsigned char *at, size_t size, size_t file, uint32_t first, uint32_t last);

#endif

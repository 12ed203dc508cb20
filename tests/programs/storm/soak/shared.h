/* What all processes of the soak share: which processes there are, what each thread does, a clock that numbers events, and how a failure is
 * told.
 *
 * It is System V shared memory: no file, so the shim has nothing to do with it. The first part is known to tests/soak.rs too. */
#ifndef SOAK_SHARED_H
#define SOAK_SHARED_H

#include "check.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <time.h>

enum { SEATS = 96, LANES = 3, STEPS = 64 };

/* Ways to write to a place; the first ones by one call each, so that a snapshot shows all of it or nothing. */
enum { PWRITE, WRITE, PWRITEV, PWRITEV2, WRITEV, AIO, WHOLE, STDIO = WHOLE, COPY, SENDFILE, SPLICE, WAYS };

extern const char *const way_names[];

struct step {
    uint64_t tick, at_us;
    char what[16];
    int64_t first, second;
};

/* A thread. */
struct lane {
    _Atomic uint64_t since_us; /* when its present operation began, 0: there is no such thread */
    _Atomic uint32_t tid, steps;
    struct step trace[STEPS]; /* a ring */
};

/* A process. */
struct seat {
    _Atomic uint64_t holder; /* life:32 | pid:32, 0: free; freed by tests/soak.rs when the pid is gone */
    struct lane lanes[LANES];
};

struct shared {
    _Atomic uint64_t stop, failed;
    struct seat seats[SEATS];
    uint64_t seed;
    _Atomic uint64_t clock; /* the next event's number */
    _Atomic uint32_t lives; /* images and forked children so far */
    _Atomic uint64_t snapshots, looks, judged, writes, stores, changes, forks, execs;
    _Atomic uint64_t ways[WAYS]; /* writes that came about so */
    char directories[2][256];
};

extern struct shared *shared;
extern int shared_id;
extern size_t own_seat;
extern uint32_t own_life;
extern _Thread_local size_t own_lane;
extern _Thread_local uint64_t random_state;

uint64_t mix(uint64_t word);

size_t below(size_t bound);

int one_in(size_t count);

uint64_t now_us(void);

/* The number of an event that happens now: later ones have larger numbers, in whatever process. Never 0. */
uint64_t tick(void);

struct lane *lane(void);

/* Notes what this thread does now. */
void step(const char *what, int64_t first, int64_t second);

void print_trace(size_t seat, size_t index);

/* Ends the soak: says what was wrong and what this process did before. A CHECK that fails in a process that has its seat does so too. */
void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...);

void attach(int id);

/* Becomes the one thread of a new life in `seat`. */
void sit_down(size_t seat);

/* Whether this is the only thread here that does anything: libc's locks and streams are then in order in a child, however it came to be. */
int is_alone(void);

/* `sit_down` in any free seat. Returns 0 if there is none. */
int find_seat(void);

size_t seats_taken(void);

/* This thread of this life, as one word. */
uint64_t own_name(void);

/* Whether the life that `name` names is over, and all its calls with it: the image replaced, or the process gone and waited for. */
int is_over(uint64_t name);

#endif

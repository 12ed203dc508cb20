/* What all processes of the soak share: who is there, what each thread does, a clock that numbers events, and how a failure is told.
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

static const char *const way_names[] = {"pwrite", "write", "pwritev", "pwritev2", "writev", "aio_write", "stdio", "copy_file_range", "sendfile", "splice"};

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

static struct shared *shared;
static int shared_id;
static size_t own_seat;
static uint32_t own_life;
static _Thread_local size_t own_lane;
static _Thread_local uint64_t random_state;

static uint64_t mix(uint64_t word)
{
    word += 0x9e3779b97f4a7c15;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9;
    word = (word ^ word >> 27) * 0x94d049bb133111eb;
    return word ^ word >> 31;
}

static size_t below(size_t bound)
{
    return mix(++random_state) % bound;
}

static int one_in(size_t count)
{
    return below(count) == 0;
}

static uint64_t now_us(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_nsec / 1000;
}

/* The number of an event that happens now: later ones have larger numbers, in whatever process. Never 0. */
static uint64_t tick(void)
{
    return atomic_fetch_add(&shared->clock, 1);
}

static struct lane *lane(void)
{
    return &shared->seats[own_seat].lanes[own_lane];
}

/* Notes what this thread does now. */
static void step(const char *what, int64_t first, int64_t second)
{
    struct lane *own = lane();
    struct step *step = &own->trace[own->steps++ % STEPS];
    *step = (struct step){.tick = shared->clock, .at_us = now_us(), .first = first, .second = second};
    memcpy(step->what, what, strnlen(what, sizeof step->what - 1));
    own->since_us = step->at_us;
}

static void print_trace(size_t seat, size_t index)
{
    const struct lane *lane = &shared->seats[seat].lanes[index];
    uint32_t end = lane->steps, first = end > STEPS ? end - STEPS : 0;
    uint64_t holder = shared->seats[seat].holder;
    fprintf(stderr, "trace of pid %u (life %u), thread %u, to now (%llu us):\n", (unsigned)holder, (unsigned)(holder >> 32), lane->tid,
            (unsigned long long)now_us());
    for (uint32_t i = first; i < end; i++) {
        const struct step *step = &lane->trace[i % STEPS];
        fprintf(stderr, "  %12llu us, event %10llu  %-16s %lld %lld\n", (unsigned long long)step->at_us, (unsigned long long)step->tick,
                step->what, (long long)step->first, (long long)step->second);
    }
}

/* Ends the soak: says what was wrong and what this process did before. */
static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...)
{
    char said[2000];
    int error = errno;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(said, sizeof said, format, arguments);
    va_end(arguments);
    fprintf(stderr, "FAILED (seed %llu): pid %d life %u thread %ld: %s (errno %d: %s)\n", (unsigned long long)shared->seed, (int)getpid(),
            own_life, syscall(SYS_gettid), said, error, strerror(error));
    for (size_t i = 0; i < LANES; i++)
        if (shared->seats[own_seat].lanes[i].since_us)
            print_trace(own_seat, i);
    shared->failed = 1;
    _exit(1);
}

#define MUST(condition)                                                    \
    do {                                                                   \
        if (!(condition))                                                  \
            fail("%s:%d: %s does not hold", __FILE__, __LINE__, #condition); \
    } while (0)

static void attach(int id)
{
    shared_id = id;
    shared = shmat(id, NULL, 0);
    CHECK(shared != (void *)-1);
}

/* Becomes the one thread of a new life in `seat`. */
static void sit_down(size_t seat)
{
    own_seat = seat, own_lane = 0;
    own_life = ++shared->lives;
    for (size_t i = 0; i < LANES; i++)
        shared->seats[seat].lanes[i].since_us = 0;
    lane()->steps = 0;
    lane()->tid = (uint32_t)getpid();
    shared->seats[seat].holder = (uint64_t)own_life << 32 | (uint32_t)getpid();
    random_state = mix(shared->seed ^ (uint64_t)own_life << 32);
    step("sits down", own_life, (int64_t)seat);
}

/* Whether this is the only thread here that does anything: libc's locks and streams are then in order in a child, however it came to be. */
static int is_alone(void)
{
    for (size_t i = 0; i < LANES; i++)
        if (i != own_lane && shared->seats[own_seat].lanes[i].since_us)
            return 0;
    return 1;
}

/* `sit_down` in any free seat. Returns 0 if there is none. */
static int find_seat(void)
{
    uint32_t pid = (uint32_t)getpid();
    for (size_t seat = 0; seat < SEATS; seat++) {
        uint64_t free = 0;
        if (atomic_compare_exchange_strong(&shared->seats[seat].holder, &free, pid)) {
            sit_down(seat);
            return 1;
        }
    }
    return 0;
}

static size_t seats_taken(void)
{
    size_t taken = 0;
    for (size_t seat = 0; seat < SEATS; seat++)
        taken += shared->seats[seat].holder != 0;
    return taken;
}

/* This thread of this life, as one word. */
static uint64_t own_name(void)
{
    return (uint64_t)own_life << 32 | own_seat << 8 | (own_lane + 1);
}

/* Whether the life that `name` names is over, and all its calls with it: the image replaced, or the process gone and waited for. */
static int is_over(uint64_t name)
{
    uint64_t holder = shared->seats[name >> 8 & 0xffffff].holder;
    return holder >> 32 != name >> 32 || (kill((pid_t)(uint32_t)holder, 0) == -1 && errno == ESRCH);
}

#endif

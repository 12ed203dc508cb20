/* What all processes of a history share: the clock, what each writer did and each snapshot showed, and how words of files
 * are made.
 *
 * Every change of a file is an entry in the record of who made it, with the tick of the clock before and after.
 * tests/oracle/model.rs judges from that what a snapshot may show. A word that a write puts at word `at` of a file names both: no
 * other change puts it there. */
#ifndef ORACLE_SHARED_H
#define ORACLE_SHARED_H

#include "check.h"
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>

enum { FILES = 8, PROCESSES = 8, THREADS = 9, OPERATIONS = 48, SLOTS = 6, MOST_PAGES = 256 };
/* Writers: 0 filled the files; of a thread there are three, which own different bytes. */
enum { ITSELF_, HANDLER, CHILD, ROLES, ACTORS = 32, PAGE_WORDS = 512 };
enum { RECORD_WORDS = 4 << 20, LONGEST_ENTRY = 2 * PAGE_WORDS * MOST_PAGES };
enum kind { LANES, WHOLE, SERIAL };
/* Entries of a record; see tests/oracle/record.rs. */
enum entry { WRITTEN = 1, RESIZED, TAKEN, SEEN_BAD, UNEXPECTED };

struct record {
    _Atomic uint64_t used;
    _Atomic uint64_t sequence; /* of the actor's writes */
    uint64_t words[RECORD_WORDS];
};

struct shared {
    _Atomic uint64_t clock, snapshots, looks, ready, arrived;
    _Atomic int go, stop;
    /* errno of what would make time more hostile and is refused here; 0: nothing. */
    _Atomic int has_no_faults, has_no_tracer;
    _Atomic int pids[PROCESSES];
    _Atomic int locks[FILES];
    /* The thread, plus one, that alone changes files until it is held in the middle of a copy: what it copies from has not changed by
     * then, and changes meanwhile. */
    _Atomic int alone;
    /* Of each thread: its id, whether its stack is to be held now, the line it is at, and how often it began one. */
    _Atomic int tids[THREADS];
    _Atomic int wishes[THREADS];
    _Atomic int lines[THREADS];
    _Atomic uint64_t turns[THREADS];
    struct record records[ACTORS];
};

struct file {
    enum kind kind;
    int pages, is_on_disk, owner;
    char path[300];
};

struct operation {
    char verb[12];
    int line, arguments[6];
};

struct thread {
    int index, process, signals, handler_file, is_held, count;
    struct operation operations[OPERATIONS];
};

/* The history, as the script says. */
static struct file files[FILES];
static struct thread threads[THREADS];
static int file_count, thread_count, duration_ms = 300, stops_us, is_traced, longest_us = 1000, filling, holes;
static uint64_t seed = 1;

static struct shared *shared;

static uint64_t tick(void)
{
    return atomic_fetch_add(&shared->clock, 1);
}

/* Of the calling thread. */
static _Thread_local uint64_t random_state;

static size_t below(size_t bound)
{
    uint64_t word = random_state += 0x9e3779b97f4a7c15;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9;
    word = (word ^ word >> 27) * 0x94d049bb133111eb;
    return bound ? (word ^ word >> 31) % bound : 0;
}

/* A change is its number, 32 bits, and its actor, 7; the top byte repeats the number's lowest, because what is wrong may be only
 * the first byte of a page, or the last. */
#define PLACE_SHIFT 39

static uint64_t word_of(uint64_t at, uint64_t change)
{
    return at << PLACE_SHIFT | change;
}

/* Bytes [offset, offset + length) as `change` writes them. */
static void fill(unsigned char *to, size_t offset, size_t length, uint64_t change)
{
    for (size_t i = 0; i < length;) {
        uint64_t word = word_of((offset + i) / 8, change);
        size_t skip = (offset + i) % 8, count = 8 - skip < length - i ? 8 - skip : length - i;
        memcpy(to + i, (char *)&word + skip, count);
        i += count;
    }
}

static uint64_t next_change(int actor)
{
    uint64_t number = atomic_fetch_add(&shared->records[actor].sequence, 1) + 1;
    return number << 56 | (uint64_t)actor << 32 | number;
}

/* Room for an entry; ends the history early where there is none. */
static uint64_t *entry(int actor, enum entry kind, int line)
{
    struct record *record = &shared->records[actor];
    if (record->used + LONGEST_ENTRY + 16 > RECORD_WORDS) {
        shared->stop = 1;
        if (record->used + 64 > RECORD_WORDS || kind == TAKEN)
            return NULL;
    }
    uint64_t *at = record->words + record->used;
    at[0] = kind;
    at[2] = (uint64_t)line;
    return at + 3;
}

static void end_entry(int actor, const uint64_t *end)
{
    struct record *record = &shared->records[actor];
    uint64_t *at = record->words + record->used;
    at[1] = (uint64_t)(end - at);
    record->used += at[1];
}

static void note(int actor, enum entry kind, int line, const uint64_t *words, size_t count)
{
    uint64_t *at = entry(actor, kind, line);
    if (!at)
        return;
    memcpy(at, words, count * 8);
    end_entry(actor, at + count);
}

/* A call failed that has no reason to. */
static void note_unexpected(int actor, int line, int error)
{
    uint64_t words[] = {tick(), (uint64_t)error};
    note(actor, UNEXPECTED, line, words, 2);
}

#define HOPE(actor, line, condition)                  \
    do {                                              \
        if (!(condition))                             \
            note_unexpected(actor, line, errno);      \
    } while (0)

static void spin_us(size_t us)
{
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while ((size_t)((now.tv_sec - start.tv_sec) * 1000000 + (now.tv_nsec - start.tv_nsec) / 1000) < us);
}

/* One at a time changes a serial file. */
static void lock(int file)
{
    int free = 0;
    while (!atomic_compare_exchange_weak(&shared->locks[file], &free, 1)) {
        free = 0;
        usleep(20);
    }
}

static void unlock(int file)
{
    shared->locks[file] = 0;
}

static int actor_of(const struct thread *thread, int role)
{
    return 1 + thread->index * ROLES + role;
}

#endif

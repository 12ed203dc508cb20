/* What all processes of a history share: the clock, what each writer did and each snapshot showed, and how words of files
 * are made.
 *
 * Every change of a file is an entry in the record of the thread that made it, with the tick of the clock before and after.
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
extern struct file files[FILES];
extern struct thread threads[THREADS];
extern int file_count, thread_count, duration_ms, stops_us, is_traced, longest_us, filling, holes;
extern uint64_t seed;

extern struct shared *shared;

uint64_t tick(void);

/* Of the calling thread. */
extern _Thread_local uint64_t random_state;

size_t below(size_t bound);

/* A change is its number, 32 bits, and its actor, 7; the top byte repeats the number's lowest, because what is wrong may be only
 * the first byte of a page, or the last. */
#define PLACE_SHIFT 39

/* Bytes [offset, offset + length) as `change` writes them. */
void fill(unsigned char *to, size_t offset, size_t length, uint64_t change);

uint64_t next_change(int actor);

/* Room for an entry; ends the history early where there is none. */
uint64_t *entry(int actor, enum entry kind, int line);

void end_entry(int actor, const uint64_t *end);

void note(int actor, enum entry kind, int line, const uint64_t *words, size_t count);

/* A call failed that has no reason to. */
void note_unexpected(int actor, int line, int error);

#define HOPE(actor, line, condition)                  \
    do {                                              \
        if (!(condition))                             \
            note_unexpected(actor, line, errno);      \
    } while (0)

void spin_us(size_t us);

/* One at a time changes a serial file. */
void lock(int file);

void unlock(int file);

int actor_of(const struct thread *thread, int role);

#endif

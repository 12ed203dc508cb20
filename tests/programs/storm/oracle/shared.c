#include "shared.h"

struct file files[FILES];
struct thread threads[THREADS];
int file_count, thread_count, duration_ms = 300, stops_us, is_traced, longest_us = 1000, filling, holes;
uint64_t seed = 1;

struct shared *shared;

uint64_t tick(void)
{
    return atomic_fetch_add(&shared->clock, 1);
}

_Thread_local uint64_t random_state;

size_t below(size_t bound)
{
    uint64_t word = random_state += 0x9e3779b97f4a7c15;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9;
    word = (word ^ word >> 27) * 0x94d049bb133111eb;
    return bound ? (word ^ word >> 31) % bound : 0;
}

static uint64_t word_of(uint64_t at, uint64_t change)
{
    return at << PLACE_SHIFT | change;
}

void fill(unsigned char *to, size_t offset, size_t length, uint64_t change)
{
    for (size_t i = 0; i < length;) {
        uint64_t word = word_of((offset + i) / 8, change);
        size_t skip = (offset + i) % 8, count = 8 - skip < length - i ? 8 - skip : length - i;
        memcpy(to + i, (char *)&word + skip, count);
        i += count;
    }
}

uint64_t next_change(int actor)
{
    uint64_t number = atomic_fetch_add(&shared->records[actor].sequence, 1) + 1;
    return number << 56 | (uint64_t)actor << 32 | number;
}

uint64_t *entry(int actor, enum entry kind, int line)
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

void end_entry(int actor, const uint64_t *end)
{
    struct record *record = &shared->records[actor];
    uint64_t *at = record->words + record->used;
    at[1] = (uint64_t)(end - at);
    record->used += at[1];
}

void note(int actor, enum entry kind, int line, const uint64_t *words, size_t count)
{
    uint64_t *at = entry(actor, kind, line);
    if (!at)
        return;
    memcpy(at, words, count * 8);
    end_entry(actor, at + count);
}

void note_unexpected(int actor, int line, int error)
{
    uint64_t words[] = {tick(), (uint64_t)error};
    note(actor, UNEXPECTED, line, words, 2);
}

void spin_us(size_t us)
{
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while ((size_t)((now.tv_sec - start.tv_sec) * 1000000 + (now.tv_nsec - start.tv_nsec) / 1000) < us);
}

void lock(int file)
{
    int free = 0;
    while (!atomic_compare_exchange_weak(&shared->locks[file], &free, 1)) {
        free = 0;
        usleep(20);
    }
}

void unlock(int file)
{
    shared->locks[file] = 0;
}

int actor_of(const struct thread *thread, int role)
{
    return 1 + thread->index * ROLES + role;
}

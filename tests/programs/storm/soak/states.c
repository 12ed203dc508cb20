#include "states.h"

#include "cells.h"

struct history *histories;

static struct state *state_of(size_t file, uint32_t number)
{
    return &histories[file].states[number % STATES];
}

void reach_state(size_t file, const char *path)
{
    struct history *history = &histories[file];
    struct state *state = state_of(file, history->begun);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    ssize_t count = read(fd, state->bytes, STATE_BYTES);
    struct stat found;
    CHECK(count >= 0 && fstat(fd, &found) == 0 && found.st_size == count);
    close(fd);
    state->size = (uint32_t)count;
    state->number = history->begun;
    history->reached = history->begun;
}

void begin_state(size_t file, int is_mixed)
{
    struct history *history = &histories[file];
    struct state *state = state_of(file, history->reached + 1);
    state->number = UINT32_MAX;
    state->is_mixed = (uint32_t)is_mixed;
    history->begun = history->reached + 1;
}

int lock_state(size_t file, const char *path)
{
    struct history *history = &histories[file];
    uint64_t holder = history->lock;
    if (holder != 0 && !is_over(holder))
        return 0;
    if (!atomic_compare_exchange_strong(&history->lock, &holder, own_name()))
        return 0;
    if (history->begun != history->reached) {
        step("adopts", (int64_t)file, history->begun);
        reach_state(file, path);
    }
    return 1;
}

void unlock_state(size_t file)
{
    histories[file].lock = 0;
}

/* Whether `word` of the snapshot is as in one of the two states. */
static int is_mix(const unsigned char *at, const struct state *old, const struct state *new)
{
    for (size_t i = 0; i < new->size; i += 8) {
        size_t length = new->size - i < 8 ? new->size - i : 8;
        if (memcmp(at + i, old->bytes + i, length) != 0 && memcmp(at + i, new->bytes + i, length) != 0)
            return 0;
    }
    return 1;
}

static int is_state(const unsigned char *at, size_t size, size_t file, uint32_t number, uint32_t first)
{
    const struct state *state = state_of(file, number);
    if (state->size == size && memcmp(at, state->bytes, size) == 0)
        return 1;
    return state->is_mixed && number > first && state->size == size && is_mix(at, state_of(file, number - 1), state);
}

int judge_state(const unsigned char *at, size_t size, size_t file, uint32_t first, uint32_t last)
{
    struct history *history = &histories[file];
    uint32_t reached = history->reached;
    if ((int32_t)(reached - last) < 0)
        return 0;
    /* The one before the first counts too: the first's change may be mixed. */
    int is_found = 0, is_remembered = reached - first < STATES - 2;
    for (uint32_t number = first; number != last + 1 && !is_found; number++)
        is_found = is_state(at, size, file, number, first);
    atomic_thread_fence(memory_order_seq_cst);
    is_remembered &= history->begun - first < STATES - 2;
    if (is_found || !is_remembered)
        return 1;
    const struct state *state = state_of(file, last);
    size_t common = size < state->size ? size : state->size, differs = 0;
    while (differs < common && at[differs] == state->bytes[differs])
        differs++;
    fail("file %zu: %zu bytes are none of the states %u to %u; the last has %u and differs first at %#zx (%#x instead of %#x)",
         CELL_FILES + file, size, first, last, state->size, differs, at[differs], state->bytes[differs]);
}

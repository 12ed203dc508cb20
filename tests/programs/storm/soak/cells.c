#include "cells.h"

const size_t cell_size[CELL_FILES] = {2048, 2048, 512, 512};

struct cells *cells;

size_t cells_of(size_t file)
{
    return CELL_PAGES * PAGE / cell_size[file];
}

uint64_t *fill_cell(void *at, size_t file, size_t cell, uint64_t number)
{
    uint64_t *word = at;
    word[0] = number;
    uint64_t seed = (cell_size[file] == 2048 ? number * 31 : 0) + cell * 7 + file + 1;
    for (size_t i = 1; i < cell_size[file] / 8; i++)
        word[i] = seed * (i + 0x10001);
    return word + cell_size[file] / 8;
}

static int is_cell(const void *at, size_t file, size_t cell)
{
    const uint64_t *word = at;
    uint64_t seed = (cell_size[file] == 2048 ? word[0] * 31 : 0) + cell * 7 + file + 1;
    for (size_t i = 1; i < cell_size[file] / 8; i++)
        if (word[i] != seed * (i + 0x10001))
            return 0;
    return 1;
}

uint64_t begin_write(const char *how, size_t file, size_t first, size_t count, int is_whole)
{
    uint64_t number = tick();
    struct written *write = &cells->writes[number % WRITES];
    write->number = 0;
    write->end = 0;
    write->writer = own_name();
    memcpy(write->how, how, strnlen(how, sizeof write->how - 1) + 1);
    write->file = (uint32_t)file, write->first = (uint32_t)first, write->count = (uint32_t)count;
    write->is_whole = (uint32_t)is_whole;
    write->number = number;
    for (size_t cell = first; cell < first + count; cell++)
        cells->past[file][cell][cells->pasts[file][cell]++ % PAST] = number;
    return number;
}

void end_write(uint64_t number)
{
    struct written *write = &cells->writes[number % WRITES];
    write->end = tick();
    for (size_t cell = write->first; cell < write->first + write->count; cell++) {
        _Atomic uint64_t *overwritten = &cells->overwritten[write->file][cell];
        for (uint64_t seen = *overwritten; seen < number;)
            if (atomic_compare_exchange_weak(overwritten, &seen, number))
                break;
    }
}

const struct written *written(uint64_t number)
{
    const struct written *write = &cells->writes[number % WRITES];
    return number > 0 && write->number == number ? write : NULL;
}

/* When write `number` was over: 0 was so from the beginning. ~0: it may not be, or it is too long ago. */
static uint64_t end_of(uint64_t number)
{
    const struct written *write = written(number);
    uint64_t end = write ? write->end : 0;
    return number == 0 ? 0 : end && write->number == number ? end : UINT64_MAX;
}

static void describe_write(uint64_t number, char *said, size_t room)
{
    const struct written *write = written(number);
    if (write)
        snprintf(said, room, "write %llu to %llu by %s of cells %u+%u%s by life %u seat %u lane %u", (unsigned long long)number,
                 (unsigned long long)write->end, write->how, write->first, write->count, write->is_whole ? " (whole)" : "",
                 (unsigned)(write->writer >> 32), (unsigned)(write->writer >> 8 & 0xffffff), (unsigned)(write->writer & 0xff) - 1);
    else
        snprintf(said, room, "write %llu", (unsigned long long)number);
}

static void __attribute__((noreturn)) fail_cell(const char *what, size_t file, size_t cell, uint64_t number, uint64_t limit, uint64_t other)
{
    char shown[200], beside[200];
    describe_write(number, shown, sizeof shown);
    describe_write(other, beside, sizeof beside);
    fail("file %zu cell %zu shows %s: %s (%llu); the other is %s", file, cell, shown, what, (unsigned long long)limit, beside);
}

void judge_cells(const char *at, size_t file, size_t first, size_t count, const uint64_t *overwritten, uint64_t after)
{
    const size_t size = cell_size[file];
#define SHOWN(cell) (*(const uint64_t *)(const void *)(at + ((cell) - first) * size))
    uint64_t newest = 0;
    for (size_t cell = first; cell < first + count; cell++) {
        uint64_t number = SHOWN(cell), end = end_of(number);
        const struct written *write = written(number);
        if (!is_cell(at + (cell - first) * size, file, cell))
            fail_cell("its bytes are not those of one write", file, cell, number, 0, 0);
        if (number >= after)
            fail_cell("it began after mmap returned", file, cell, number, after, 0);
        if (write && (write->file != file || cell < write->first || cell >= write->first + write->count))
            fail_cell("it did not write there", file, cell, number, 0, 0);
        if (end < overwritten[cell - first])
            fail_cell("it was overwritten before mmap was called", file, cell, number, overwritten[cell - first], overwritten[cell - first]);
        newest = number > newest ? number : newest;
    }
    for (size_t cell = first; cell < first + count; cell++) {
        uint64_t number = SHOWN(cell), end = end_of(number);
        for (size_t i = 0; i < PAST && end != UINT64_MAX; i++) {
            uint64_t later = cells->past[file][cell][i];
            if (later > end && end_of(later) < newest)
                fail_cell("it was overwritten before another cell's write began", file, cell, number, newest, later);
        }
        const struct written *write = written(number);
        if (!write || !write->is_whole || end == UINT64_MAX)
            continue;
        for (size_t other = write->first; other < write->first + write->count; other++)
            if (other >= first && other < first + count && end_of(SHOWN(other)) < number)
                fail_cell("another cell of the same call shows what was before it", file, cell, number, other, SHOWN(other));
    }
#undef SHOWN
}

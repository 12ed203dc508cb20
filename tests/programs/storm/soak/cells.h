/* Files that all processes write at once. A file is divided into cells; a write covers some whole cells and stamps them with its number,
 * which is that of its beginning. What a snapshot shows of a cell must be a write that had begun by then and had not been overwritten
 * for certain; and there must be one instant at which this holds of all cells.
 *
 * In files of calls a cell is half a page, full of what follows from the number. In files of stores it is an eighth of a page, of
 * which only the first word changes: by stores in cells of even index, by calls in the others. */
#ifndef SOAK_CELLS_H
#define SOAK_CELLS_H

#include "shared.h"

enum { CELL_FILES = 4, CELL_PAGES = 48, CELLS = CELL_PAGES * 8, PAST = 64, WRITES = 1 << 19 };

/* Of calls on tmpfs and on disk, of stores on both. */
extern const size_t cell_size[CELL_FILES];

struct written {
    _Atomic uint64_t number, end; /* 0: not over, perhaps never */
    uint64_t writer;
    char how[16];
    uint32_t file, first, count;
    uint32_t is_whole; /* one call that a snapshot shows all of or nothing */
};

struct cells {
    struct written writes[WRITES]; /* by number: a ring */
    _Atomic uint64_t overwritten[CELL_FILES][CELLS]; /* what ended before this is over for certain */
    _Atomic uint64_t past[CELL_FILES][CELLS][PAST]; /* numbers of writes to the cell: a ring */
    _Atomic uint32_t pasts[CELL_FILES][CELLS];
};

extern struct cells *cells;

size_t cells_of(size_t file);

uint64_t *fill_cell(void *at, size_t file, size_t cell, uint64_t number);

uint64_t begin_write(const char *how, size_t file, size_t first, size_t count, int is_whole);

void end_write(uint64_t number);

/* The record of a write that is not too long ago. */
const struct written *written(uint64_t number);

/* `at` shows cells [first, first + count). Judged at once: the past is short. `overwritten` is as it was before mmap was called, `after`
 * an event after it had returned. */
void judge_cells(const char *at, size_t file, size_t first, size_t count, const uint64_t *overwritten, uint64_t after);

#endif

/* Snapshots that a thread holds: taken, judged once, and looked at again and again, whatever happens to the files, to the mapping and to
 * the thread that holds it. A forked child goes on with those of the thread that forked. */
#ifndef SOAK_HELD_H
#define SOAK_HELD_H

#include "cells.h"
#include "states.h"
#include <sys/uio.h>

enum { FILES = CELL_FILES + STATE_FILES, HELD = 4, ARENA_SLOTS = 16 };

/* Where half of the snapshots are, in every image: the next image has memory of its own there. */
#define ARENA ((unsigned char *)0x200000000000)
#define ARENA_SLOT ((size_t)1 << 20)

struct held {
    unsigned char *at, *copy; /* copy: of all that can be read */
    size_t file, mapped, size; /* mapped and readable bytes */
    uint32_t first, last; /* states; judged once `is_judged` */
    int is_judged, is_writable, has_stores;
};

extern _Thread_local struct held held[HELD];

const char *file_path(size_t file);

int is_cells_file(size_t file);

/* This thread left a write by longjmp: until it writes from as far up its stack, it may look as if it were in that write still. */
extern _Thread_local int has_left_a_write;

void take(struct held *one, size_t file);

/* Does something with one of the snapshots. */
void use_a_snapshot(void);

void look_at_all(void);

void drop_all(void);

/* In a forked child: what it inherited by a fork that was not one instant faults, all of it. Only the end of the parent in the middle
 * of the fork, another thread's exec, or a write that was left makes one so. */
void forget_broken(uint64_t parent);

#endif

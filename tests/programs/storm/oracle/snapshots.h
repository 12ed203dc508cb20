/* The snapshots that a thread holds: taken and noted word by word, compared with what they were again and again, cut, stored
 * into. */
#ifndef ORACLE_SNAPSHOTS_H
#define ORACLE_SNAPSHOTS_H

#include "writes.h"

struct slot {
    int is_held, file, line;
    uint64_t number;
    size_t pages, readable;        /* mapped, and within the file */
    unsigned char *at[MOST_PAGES]; /* NULL where it is given up */
    unsigned char rights[MOST_PAGES];
    unsigned char *copy; /* what it has to show */
};

extern _Thread_local struct slot *slots;

void on_fault_here(int number);

enum finding { FOUND_DIFFERENT = 1, FOUND_FAULT, FOUND_STATE, FOUND_NO_END };

/* It is as it was and says that it is exact. What is bad is noted once. */
void look(struct slot *slot, int actor, int line);

void drop(struct slot *slot, int actor, int line);

void do_take(struct actor *actor, int line, const int *a);

/* The mapper's own store. */
void do_poke(struct slot *slot, const int *a);

enum cutting { GIVE_UP, HIDE, OPEN, CLOSE, MOVE, CUTTINGS };

/* Pages [first, first + count), which lie side by side. */
void cut(struct slot *slot, int actor, int line, size_t first, size_t count, enum cutting how);

/* Arguments: slot, first page, pages, how, the process that stands still meanwhile or -1, how long it may go on before that. */
void do_cut(struct slot *slot, int actor, int line, const int *a, int own_process);

#endif

/* How files are changed: cells by all threads at once, states by one at a time. */
#ifndef SOAK_WRITES_H
#define SOAK_WRITES_H

#include "held.h"

/* Bytes to write from; aligned for O_DIRECT. */
extern _Thread_local unsigned char buffer[STATE_BYTES] __attribute__((aligned(4096)));

/* glibc's threads for that are not there in a forked child, but it believes so. */
extern int has_aio;

void write_some_cells(void);

/* This thread's shared mappings of the files of stores. */
extern _Thread_local unsigned char *stored[2];

void store_some_words(void);

/* Changes of a file that no other thread is changing. */
void change_a_state(void);

#endif

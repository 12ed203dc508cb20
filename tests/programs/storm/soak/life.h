/* What happens to processes and threads of the soak by themselves: fork, exec, threads that end or are cancelled, handlers. The signals that
 * kill and stop them come from tests/soak.rs. */
#ifndef SOAK_LIFE_H
#define SOAK_LIFE_H

#include "writes.h"
#include <setjmp.h>
#include <spawn.h>

enum { MOST_PROCESSES = 40 };

void spawn(void);

/* The plain image: the memory that it has where its predecessor's snapshots were stays its own, and what it has not used is not there. */
void __attribute__((noreturn)) be_plain(const char *library);

/* SIGURG, because a new image ignores it. */
void handle_signals(void);

/* Some operations: mostly changes and looks. */
void use(size_t operations);

#endif

/* A tracer that lets a thread go on to the entry of one of its next system calls, and has its stack held there: what the kernel
 * finds for that call it finds before, and where it stores that on the stack it waits. */
#ifndef ORACLE_TRACE_H
#define ORACLE_TRACE_H

#include "shared.h"
#include <sys/ptrace.h>

enum { MOST_CALLS = 400, EPISODE_MS = 100, LONGEST_EPISODE_MS = 300 };

/* Tracers until the history is over. */
void __attribute__((noreturn)) run_tracer(void);

#endif

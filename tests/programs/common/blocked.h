/* Waiting until a thread blocks in a system call, and pipes that make it. */
#ifndef LIKE_BLOCKED_H
#define LIKE_BLOCKED_H

#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>

pid_t own_tid(void);

/* Waits until thread `tid` of this process sleeps in system call `number`. */
void await_blocked(pid_t tid, long number);

/* A pipe that takes no further byte: the end that blocks a writer. */
void full_pipe(int ends[2]);

double milliseconds(void);

/* Under the shim: a snapshot of the file is to be had, and no call that is over holds it up. Another process asks, because no process waits
 * for their own calls. */
void snapshot_is_prompt(const char *path);

/* Says what the file holds. */
void print_file(const char *path);

#endif

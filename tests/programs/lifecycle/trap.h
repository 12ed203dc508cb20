/* Calls that are interrupted by a handler where the test wants it.
 *
 * Where that is is no matter of luck: a filter of system calls (seccomp(2)) has the call itself, or the look at its file, raise
 * SIGSYS. */
#ifndef LIFE_TRAP_H
#define LIFE_TRAP_H

#include "check.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <pthread.h>
#include <ucontext.h>

#define PAGES ((size_t)16)
#define SIZE (PAGES * PAGE)
/* Bytes from here on raise the signal. */
#define TRAPPED (4 * PAGE)
/* What a call that is made in the handler has in its last register. */
enum { PASS = 0x51a5 };

extern int file;
/* Where the handler forks, what it does in each process before the call is made, and in which process it is. */
extern int forks_at;
extern void (*before)(int number, unsigned char *bytes);
extern int is_forked, is_child;
/* Of the handler, besides SA_SIGINFO. */
extern int flags;

long call(long number, long long *r);
/* Has on_trap handle the signals that a filter raises, and installs the filter. */
void install(struct sock_filter *filter, unsigned short count);

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define SKIP_UNLESS(value, count) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, count)
#define SKIP_IF(value, count) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, count, 0)

/* Installs a filter by its own instruction: the library would not make the calls that the filter traps. */
void install_unseen(const struct sock_fprog *program);

void trap(void);

extern int to_parent[2], to_child[2], from_both[2];

void tell(const int *pipe);

void await(const int *pipe);

void open_pipes(void);

/* A snapshot beside a call that goes on only then. MAP_FAILED: it was refused, as the call did not come to its end. */
unsigned char *snapshot_beside_call(int protection);

/* Afterwards: the call, which wrote version 1, came behind that snapshot, and in front of the next. */
void check_call_came_between(const unsigned char *before_it, int protection);

enum { STACK = 1 << 17 };

/* Does `body` in a thread that has the lower half of the memory, which it is handed, for its stack; the end of the process. */
void __attribute__((noreturn)) run_below(void *(*body)(void *memory));

#endif

/* What makes time hostile: memory that the kernel waits for in the middle of a copy, stacks and pages of the table that a
 * thread waits for wherever it touches them, handlers that write in the middle of a write. */
#ifndef ORACLE_TIME_H
#define ORACLE_TIME_H

#include "writes.h"
#include <glob.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <ucontext.h>

#define STACK ((size_t)256 * 1024)
#define HELD_BYTES ((MOST_PAGES + 2) * PAGE)

/* Of each thread: memory that is missing until it is asked for, and where its bytes come from. */
extern unsigned char *missing[THREADS], *source[THREADS], *stacks[THREADS];
extern unsigned char *handler_stacks[THREADS];
/* Of each thread whose stack may be held: whether it ends, and whether its stack is let go. */
enum { GOES_ON, ENDS, IS_LET_GO };
extern _Thread_local int own_thread;

/* The pages of the table that a thread waits for; see tests/oracle/run.rs. No system call is given an address there. */
extern size_t table_offset, table_length;
extern unsigned char *table;

/* 0 where the kernel does not allow it: then nothing is held. */
int open_faults(void);

unsigned char *anonymous(size_t length);

void prepare_held_memory(int thread, int has_held_stack);

/* Where this process has the table mapped: by its inode, because its maker has it under no name. */
void prepare_held_table(void);

/* A copy of bytes whose second half the kernel has to wait for; NULL if this thread has no such memory. */
unsigned char *held_copy(const unsigned char *bytes, size_t length);

void end_thread(int thread);

/* The thread that answers: until the process ends. Memory is held now and then, above all when writers have just found that
 * there is a new snapshot, and preserve for it. */
void *answer_late(void *unused);

/* Handlers: on which stack they run. ABOVE: it lies above the thread's. */
enum { NO_SIGNALS, OWN_STACK, ALTERNATE, AUTODISARM, COROUTINE, ABOVE = 8 };

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

extern _Thread_local int handler_way, handler_file;
extern int side;

void install_handler(void);

/* From now on the calling thread is interrupted some thousand times a second. `stack`: of its handlers, or NULL. */
void be_interrupted(int way, int file, unsigned char *stack);

#endif

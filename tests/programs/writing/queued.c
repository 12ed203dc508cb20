/* queued HOW FILE: changes FILE by io_submit(2) with O_DIRECT while snapshots are taken.
 *
 *   own        submits writes of all of it, takes snapshots while they are under way, and compares each with what it was at first
 *   other      submits writes of all of it and says "ready" at once; waits for the end of standard input
 *   unfetched  the same, but they have ended before "ready"; no thread fetches the events
 *   busy       reads and writes without a pause, eight at a time, until standard input ends; says "ready" when it began
 *   reading    the same, but after the first eight it only reads
 *   mixed      two threads submit batches of all kinds to one context, which is destroyed and set up again; takes snapshots meanwhile
 *   exit       child processes submit writes of all of it and end at once; takes snapshots at that moment
 *   exec       the same, but they execute another program
 *   uncounted  writes through more contexts than are counted, and finds snapshots refused
 */
#include "check.h"

#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <sys/syscall.h>

enum { BLOCK = 1 << 20, BLOCKS = 48 };

static int fd;
static aio_context_t context;
static unsigned char *data;

static void submit(struct iocb *block, int operation, size_t at)
{
    *block = (struct iocb){.aio_lio_opcode = (unsigned short)operation,
                           .aio_fildes = (unsigned)fd,
                           .aio_buf = (uintptr_t)data,
                           .aio_nbytes = BLOCK,
                           .aio_offset = (long long)(at * BLOCK)};
    CHECK(syscall(SYS_io_submit, context, 1L, &block) == 1);
}

static void submit_all(int version)
{
    static struct iocb blocks[BLOCKS];
    memset(data, 'a' + version, BLOCK);
    for (size_t i = 0; i < BLOCKS; i++)
        submit(&blocks[i], IOCB_CMD_PWRITE, i);
}

static void fetch(long count)
{
    struct io_event events[BLOCKS];
    for (long done = 0, now; done < count; done += now) {
        now = syscall(SYS_io_getevents, context, 1L, count - done, events, NULL);
        CHECK(now > 0);
        for (long i = 0; i < now; i++)
            CHECK(events[i].res == BLOCK);
    }
}

/* The number of events that wait to be fetched, without a call. */
static unsigned waiting(void)
{
    volatile unsigned *ring = (volatile unsigned *)context;
    return (ring[3] + ring[1] - ring[2]) % ring[1];
}

static void own(void)
{
    size_t size = (size_t)BLOCK * BLOCKS;
    unsigned char *copy = malloc(size);
    for (int version = 1; version <= 4; version++) {
        submit_all(version);
        unsigned char *at = snapshot(fd, 0, size, version % 2 ? PROT_READ : PROT_READ | PROT_WRITE);
        memcpy(copy, at, size);
        fetch(BLOCKS);
        struct snapshim_stat stat;
        CHECK(snapshim_stat(at, &stat) == 0 && stat.state == SNAPSHIM_EXACT);
        CHECK(memcmp(copy, at, size) == 0);
        CHECK(munmap(at, size) == 0);
    }
}

static void ready_and_wait(void)
{
    char byte;
    CHECK(write(1, "ready\n", 6) == 6);
    while (read(0, &byte, 1) > 0)
        ;
}

static void busy(int writes)
{
    enum { DEPTH = 8 };
    static struct iocb blocks[DEPTH];
    struct pollfd input = {.fd = 0, .events = POLLIN};
    memset(data, 'b', BLOCK);
    for (int i = 0; i < DEPTH; i++)
        submit(&blocks[i], IOCB_CMD_PWRITE, (size_t)i);
    CHECK(write(1, "ready\n", 6) == 6);
    for (size_t at = 0; poll(&input, 1, 0) == 0; at = (at + 7) % BLOCKS) {
        struct io_event event;
        CHECK(syscall(SYS_io_getevents, context, 1L, 1L, &event, NULL) == 1);
        submit((struct iocb *)event.obj, writes && at % 2 ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD, at);
    }
    fetch(DEPTH);
}

enum { BATCHES = 6, TAKEN = 4, SUBMITTERS = 2 };

/* Each batch: a write, a read, an fsync, a write that fails when it ends, and one that is not taken. */
static void *submit_batches(void *argument)
{
    static struct iocb all[SUBMITTERS][BATCHES][TAKEN + 1];
    size_t submitter = (size_t)(uintptr_t)argument;
    for (size_t i = 0; i < BATCHES; i++) {
        struct iocb *blocks = all[submitter][i], *batch[TAKEN + 1];
        for (size_t j = 0; j <= TAKEN; j++) {
            blocks[j] = (struct iocb){.aio_lio_opcode = IOCB_CMD_PWRITE,
                                      .aio_fildes = (unsigned)fd,
                                      .aio_buf = (uintptr_t)data,
                                      .aio_nbytes = BLOCK,
                                      .aio_offset = (long long)((submitter * BATCHES + i) * BLOCK)};
            batch[j] = &blocks[j];
        }
        blocks[1].aio_lio_opcode = IOCB_CMD_PREAD;
        blocks[1].aio_buf += BLOCK;
        blocks[2] = (struct iocb){.aio_lio_opcode = IOCB_CMD_FSYNC, .aio_fildes = (unsigned)fd};
        blocks[3].aio_offset++;
        blocks[4].aio_fildes = (unsigned)-1;
        CHECK(syscall(SYS_io_submit, context, TAKEN + 1L, batch) == TAKEN);
    }
    return NULL;
}

static void mixed(void)
{
    size_t size = (size_t)BLOCK * BLOCKS;
    unsigned char *copy = malloc(size);
    for (int round = 0; round < 8; round++) {
        pthread_t submitters[SUBMITTERS];
        memset(data, 'm' + round, BLOCK);
        for (size_t i = 0; i < SUBMITTERS; i++)
            CHECK(pthread_create(&submitters[i], NULL, submit_batches, (void *)(uintptr_t)i) == 0);
        for (size_t i = 0; i < SUBMITTERS; i++)
            CHECK(pthread_join(submitters[i], NULL) == 0);
        if (round % 2 == 0) {
            CHECK(syscall(SYS_io_destroy, context) == 0);
            context = 0;
            CHECK(syscall(SYS_io_setup, 2L * BLOCKS, &context) == 0);
        }
        unsigned char *at = snapshot(fd, 0, size, PROT_READ);
        memcpy(copy, at, size);
        struct io_event event;
        for (int i = 0; round % 2 && i < BATCHES * TAKEN * SUBMITTERS; i++)
            CHECK(syscall(SYS_io_getevents, context, 1L, 1L, &event, NULL) == 1);
        CHECK(memcmp(copy, at, size) == 0);
        CHECK(munmap(at, size) == 0);
    }
}

static void leave(int rounds, int executes)
{
    size_t size = (size_t)BLOCK * BLOCKS;
    unsigned char *copy = malloc(size);
    for (int round = 0; round < rounds; round++) {
        int ends[2], status;
        char byte;
        CHECK(pipe2(ends, O_CLOEXEC) == 0);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            context = 0;
            CHECK(syscall(SYS_io_setup, 2L * BLOCKS, &context) == 0);
            submit_all(round);
            CHECK(write(ends[1], "x", 1) == 1);
            if (executes)
                execl("/bin/true", "true", NULL);
            _exit(executes);
        }
        close(ends[1]);
        CHECK(read(ends[0], &byte, 1) == 1);
        unsigned char *at = snapshot(fd, 0, size, PROT_READ);
        memcpy(copy, at, size);
        /* The pipe is closed after the memory has gone, and all has landed. */
        CHECK(read(ends[0], &byte, 1) == 0);
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        CHECK(memcmp(copy, at, size) == 0);
        CHECK(munmap(at, size) == 0);
        close(ends[0]);
    }
}

static void uncounted(void)
{
    for (int i = 0; i < 64; i++) {
        context = 0;
        CHECK(syscall(SYS_io_setup, 1L, &context) == 0);
    }
    struct iocb block;
    submit(&block, IOCB_CMD_PWRITE, 0);
    fetch(1);
    CHECK(mmap(NULL, BLOCK, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, fd, 0) == MAP_FAILED && errno == ETIMEDOUT);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    CHECK((fd = open(argv[2], O_RDWR | O_DIRECT)) >= 0);
    CHECK(syscall(SYS_io_setup, 2L * BLOCKS, &context) == 0);
    CHECK(posix_memalign((void **)&data, 4096, 2 * BLOCK) == 0);
    if (strcmp(argv[1], "own") == 0)
        own();
    else if (strcmp(argv[1], "busy") == 0)
        busy(1);
    else if (strcmp(argv[1], "reading") == 0)
        busy(0);
    else if (strcmp(argv[1], "mixed") == 0)
        mixed();
    else if (strncmp(argv[1], "ex", 2) == 0)
        leave(6, strcmp(argv[1], "exec") == 0);
    else if (strcmp(argv[1], "uncounted") == 0)
        uncounted();
    else {
        submit_all(3);
        while (strcmp(argv[1], "unfetched") == 0 && waiting() < BLOCKS)
            ;
        ready_and_wait();
    }
    CHECK(syscall(SYS_io_destroy, context) == 0);
    return 0;
}

/* cut OPERATION FILE: does one operation between two traps, for a tracer that ends it anywhere in between.
 *
 * Where two processes come out of it (fork), each then waits for the end of standard input and says what its snapshot shows. */
#include <pthread.h>

#include "check.h"

#define BYTES (8 * PAGE)

static int fd;

/* Where the tracer begins and ends; nothing at all without one. */
static void mark(void)
{
#ifdef __x86_64__
    __asm__ volatile("int3" ::: "memory");
#endif
}

static void on_trap(int number)
{
    (void)number;
}

static unsigned char *take(void)
{
    return snapshot(fd, 0, BYTES, PROT_READ | PROT_WRITE);
}

static void change(void)
{
    overwrite(fd, PAGE, 3 * PAGE, 1);
}

/* The first call that concerns the table: attach, process record, slot. */
static void attach(void)
{
    mark();
    change();
    mark();
}

static void announce(void)
{
    change();
    mark();
    change();
    mark();
}

static void create(void)
{
    change();
    mark();
    take();
    mark();
}

/* In place of other memory: made elsewhere, then moved. */
static void create_fixed(void)
{
    unsigned char *at = free_range(BYTES);
    mark();
    CHECK(mmap(at, BYTES, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT | MAP_FIXED, fd, 0) == at);
    mark();
}

static void retire(void)
{
    unsigned char *at = take();
    mark();
    CHECK(munmap(at, BYTES) == 0);
    mark();
}

static void preserve(void)
{
    take();
    mark();
    change();
    mark();
}

static void relocate(void)
{
    take();
    change();
    mark();
    CHECK(ftruncate(fd, 2 * PAGE) == 0);
    mark();
}

static void divide(void)
{
    unsigned char *at = take();
    change();
    mark();
    CHECK(mprotect(at + 2 * PAGE, PAGE, PROT_READ) == 0);
    mark();
}

static unsigned char *share(void)
{
    unsigned char *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED);
    at[PAGE] = stamp(1, 1);
    return at;
}

/* The snapshot arms the shared mapping, the store opens it again. */
static void arm(void)
{
    unsigned char *at = share();
    mark();
    take();
    at[2 * PAGE] = stamp(2, 1);
    mark();
}

static void *change_in_thread(void *nothing)
{
    change();
    return nothing;
}

static void end_thread(void)
{
    pthread_t thread;
    mark();
    CHECK(pthread_create(&thread, NULL, change_in_thread, NULL) == 0 && pthread_join(thread, NULL) == 0);
    mark();
}

/* What is inherited, or kept, is what was promised, or faults. */
static void fork_both(void)
{
    unsigned char *at = take();
    change();
    mark();
    CHECK(fork() >= 0);
    mark();
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    for (size_t page = 0; page < BYTES / PAGE; page++)
        if (fault_of_reading(at + page * PAGE) == 0 && !shows(at + page * PAGE, page * PAGE, PAGE, 0)) {
            printf("page %zu is WRONG\n", page);
            return;
        }
    printf("%s\n", fault_of_reading(at) ? "faults" : "exact");
}

static void replace_image(void)
{
    take();
    share();
    mark();
    execl("/bin/cat", "cat", NULL);
}

/* Leaves everything behind that a process can leave. */
static void die(void)
{
    share();
    take();
    change();
    raise(SIGKILL);
}

static const struct {
    const char *name;
    void (*run)(void);
} operations[] = {
    {"attach", attach}, {"announce", announce}, {"create", create}, {"create_fixed", create_fixed},
    {"retire", retire}, {"preserve", preserve}, {"relocate", relocate}, {"divide", divide},
    {"arm", arm}, {"end_thread", end_thread}, {"fork", fork_both}, {"exec", replace_image}, {"die", die},
};

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    signal(SIGTRAP, on_trap);
    fd = open(argv[2], O_RDWR);
    CHECK(fd >= 0);
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++)
        if (strcmp(operations[i].name, argv[1]) == 0) {
            operations[i].run();
            return 0;
        }
    return 2;
}

/* kill_point OPERATION FILE [stopped]: does one operation between two traps, for a tracer that kills it, or stops it, at any point in
 * between.
 *
 * Where two processes come out of it, and with stopped, each then says that it is done, waits for the end of standard input and says
 * what its snapshot shows. With stopped what would have to wait for too long may fail. */
#include "check.h"

#include <pthread.h>

#define BYTES (8 * PAGE)
#define PAGES (BYTES / PAGE)

static int fd, other_fd, may_fail;

/* The snapshot, how it was when it was taken, and whether that lies between the traps. */
static unsigned char *held, before[BYTES];
static int is_begun, is_taken_between;

/* Where the tracer begins and ends; nothing at all without one. */
static void mark(void)
{
#ifdef __x86_64__
    __asm__ volatile("int3" ::: "memory");
#endif
    is_begun = 1;
}

static void on_trap(int number)
{
    (void)number;
}

/* Whether what was tried is done. It may fail for want of time only, and only where it may. */
static int is_done(int done)
{
    if (!done)
        printf("%s: errno %d\n", may_fail && (errno == ETIMEDOUT || errno == ENOSPC) ? "refused" : "WRONG", errno);
    return done;
}

static unsigned char *take_at(unsigned char *at, int flags)
{
    CHECK(pread(fd, before, BYTES, 0) == (ssize_t)BYTES);
    is_taken_between = is_begun;
    at = mmap(at, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_SNAPSHOT | flags, fd, 0);
    if (is_done(at != MAP_FAILED))
        held = at;
    return held;
}

static unsigned char *take(void)
{
    return take_at(NULL, 0);
}

/* The same with a snapshot of another file, at one instant. */
static void take_group(void)
{
    CHECK(pread(fd, before, BYTES, 0) == (ssize_t)BYTES);
    is_taken_between = is_begun;
    struct snapshim_map maps[] = {{.fd = other_fd, .prot = PROT_READ, .length = BYTES},
                                  {.fd = fd, .prot = PROT_READ | PROT_WRITE, .length = BYTES}};
    if (is_done(snapshim_mapv(maps, 2) == 0))
        held = maps[1].addr;
}

static void change(void)
{
    errno = try_overwrite(fd, PAGE, 3 * PAGE, 1);
    is_done(errno == 0);
}

static void cut_off(void)
{
    is_done(ftruncate(fd, 2 * PAGE) == 0);
}

static void wait_for_end(void)
{
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
}

/* Whether the snapshot shows the file as it was at one instant: before the operation, or, taken in it, when others had done what
 * they did meanwhile, which is to write these two pages. */
static int is_one_instant(void)
{
    static const size_t theirs[] = {0, 5};
    static unsigned char now[BYTES];
    memcpy(now, before, BYTES);
    for (size_t i = 0; i < 2; i++)
        CHECK(pread(fd, now + theirs[i] * PAGE, PAGE, (off_t)(theirs[i] * PAGE)) >= 0);
    return memcmp(held, before, BYTES) == 0 || (is_taken_between && memcmp(held, now, BYTES) == 0);
}

static int is_broken(void)
{
    for (size_t page = 0; page < PAGES; page++)
        if (fault_of_reading(held + page * PAGE))
            return 1;
    return 0;
}

static void say_what_it_shows(void)
{
    static unsigned char then[BYTES];
    int was_broken = held && is_broken();
    if (held && !was_broken) {
        if (may_fail && !is_one_instant())
            puts("WRONG: no instant");
        memcpy(then, held, BYTES);
    }
    puts("done");
    wait_for_end();
    if (held && !is_broken())
        puts(!was_broken && memcmp(held, then, BYTES) == 0 ? "exact" : "WRONG: another instant");
    else
        puts(held ? "faults" : "none");
    fflush(stdout);
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

static void create_group(void)
{
    other_fd = memfd_create("other", MFD_CLOEXEC);
    CHECK(other_fd >= 0 && ftruncate(other_fd, BYTES) == 0);
    change();
    mark();
    take_group();
    mark();
}

/* In place of other memory: made elsewhere, then moved. */
static void create_fixed(void)
{
    unsigned char *at = free_range(BYTES);
    mark();
    take_at(at, MAP_FIXED);
    mark();
    CHECK(held == NULL || held == at);
}

static void retire(void)
{
    unsigned char *at = take();
    mark();
    CHECK(munmap(at, BYTES) == 0);
    mark();
    held = NULL;
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
    cut_off();
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

#define SHARED_EACH 8

static void *store_into_each(void *mappings)
{
    unsigned char **at = mappings;
    for (size_t i = 0; i < SHARED_EACH; i++)
        at[i][2 * PAGE] = stamp(2, 1);
    return NULL;
}

/* Two threads trap, each while the other is in the middle of opening what it stores into. */
static void arm_in_threads(void)
{
    unsigned char *own[SHARED_EACH], *others[SHARED_EACH];
    pthread_t thread;
    for (size_t i = 0; i < SHARED_EACH; i++) {
        own[i] = share();
        others[i] = share();
    }
    mark();
    take();
    CHECK(pthread_create(&thread, NULL, store_into_each, others) == 0);
    store_into_each(own);
    CHECK(pthread_join(thread, NULL) == 0);
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

static void fork_both(void)
{
    take();
    change();
    mark();
    CHECK(fork() >= 0);
    mark();
    say_what_it_shows();
}

/* Another process, forked before there is anything to inherit, that does `act` when it is asked to. */
static struct {
    int asked[2], done[2];
} other;

static void prepare_other(void (*act)(void))
{
    CHECK(pipe(other.asked) == 0 && pipe(other.done) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid > 0) {
        close(other.asked[0]);
        close(other.done[1]);
        return;
    }
    close(other.asked[1]);
    close(other.done[0]);
    signal(SIGPIPE, SIG_IGN);
    char byte;
    is_begun = 1;
    if (read(other.asked[0], &byte, 1) == 1)
        act();
    if (write(other.done[1], "", 1) != 1)
        errno = 0;
    say_what_it_shows();
    _exit(0);
}

static void have_other_do_it(void)
{
    char byte;
    CHECK(write(other.asked[1], "", 1) == 1 && read(other.done[0], &byte, 1) == 1);
}

static void take_as_other(void)
{
    take();
}

/* The store comes behind the instant. */
static void be_asked_to_arm(void)
{
    prepare_other(take_as_other);
    unsigned char *at = share();
    mark();
    have_other_do_it();
    at[2 * PAGE] = stamp(2, 1);
    mark();
}

static void be_asked_to_preserve(void)
{
    prepare_other(change);
    take();
    mark();
    have_other_do_it();
    mark();
}

static void be_asked_to_relocate(void)
{
    prepare_other(cut_off);
    take();
    change();
    mark();
    have_other_do_it();
    mark();
}

static void replace_image(void)
{
    take();
    share();
    /* While there are snapshots a new image joins at once; here only what the old one left is looked for. */
    CHECK(setenv("SNAPSHIM_DISABLE", "1", 1) == 0);
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
    {"create_group", create_group},
    {"retire", retire}, {"preserve", preserve}, {"relocate", relocate}, {"divide", divide},
    {"arm", arm}, {"end_thread", end_thread}, {"fork", fork_both}, {"exec", replace_image}, {"die", die},
    {"arm_in_threads", arm_in_threads},
    {"asked_to_arm", be_asked_to_arm}, {"asked_to_preserve", be_asked_to_preserve},
    {"asked_to_relocate", be_asked_to_relocate},
};

int main(int argc, char **argv)
{
    CHECK(argc == 3 || argc == 4);
    may_fail = argc == 4;
    if (may_fail)
        alarm(200);
    signal(SIGTRAP, on_trap);
    fd = open(argv[2], O_RDWR);
    CHECK(fd >= 0);
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++)
        if (strcmp(operations[i].name, argv[1]) == 0) {
            operations[i].run();
            if (may_fail && operations[i].run != fork_both)
                say_what_it_shows();
            return 0;
        }
    return 2;
}

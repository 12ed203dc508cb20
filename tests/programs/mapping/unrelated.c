/* Calls on memory that has nothing to do with a snapshot in the making: they do not wait for it.
 *
 * The snapshot waits for a writer that is stuck in the kernel: its buffer is memory whose first touch another of its threads
 * answers when it is told to, or after ten seconds. */
#include "check.h"

#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>

#define SIZE (4 * PAGE)

static _Atomic int *is_created, *may_answer;
static int stuck, other, shared;

struct memory {
    int fd;
    void *at;
};

static struct memory stuck_memory(void)
{
    struct memory made = {(int)syscall(SYS_userfaultfd, O_CLOEXEC), NULL};
    struct uffdio_api api = {.api = UFFD_API};
    if (made.fd < 0 || ioctl(made.fd, UFFDIO_API, &api) != 0)
        return made;
    made.at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register range = {.range = {(uintptr_t)made.at, PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    CHECK(ioctl(made.fd, UFFDIO_REGISTER, &range) == 0);
    return made;
}

static void *answer_later(void *memory)
{
    const struct memory *it = memory;
    for (int i = 0; i < 1000 && !*may_answer; i++)
        usleep(10000);
    struct uffdio_zeropage zero = {.range = {(uintptr_t)it->at, PAGE}};
    CHECK(ioctl(it->fd, UFFDIO_ZEROPAGE, &zero) == 0);
    return NULL;
}

/* A process whose write to the file `stuck` is not over until `may_answer` is set. */
static pid_t begin_stuck_write(void)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid != 0) {
        usleep(200000);
        return pid;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct memory memory = stuck_memory();
    pthread_t later;
    CHECK(pthread_create(&later, NULL, answer_later, &memory) == 0);
    _exit(pwrite(stuck, memory.at, 10, 0) != 10);
}

static void end_stuck_write(pid_t pid)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static void *create(void *nothing)
{
    (void)nothing;
    unsigned char *at = snapshot(stuck, 0, SIZE, PROT_READ);
    *is_created = 1;
    overwrite(stuck, 0, SIZE, 5);
    CHECK(at[0] == 0 && at[10] == stamp(0, 0) && shows(at + PAGE, PAGE, SIZE - PAGE, 0));
    CHECK(stat_of(at).state == SNAPSHIM_EXACT && munmap(at, SIZE) == 0);
    return NULL;
}

static double now(void)
{
    struct timespec time;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &time) == 0);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

#define PROMPT(call)                     \
    do {                                 \
        double begun = now();            \
        CHECK(call);                     \
        CHECK(now() - begun < 5);        \
        CHECK(!*is_created);             \
    } while (0)

static void calls_on_snapshots(void)
{
    unsigned char *at;
    PROMPT((at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_SNAPSHOT, other, 0)) != MAP_FAILED);
    unsigned char *place = free_range(SIZE);
    PROMPT(mprotect(at + PAGE, PAGE, PROT_READ) == 0);
    PROMPT(mlock(at, PAGE) == 0);
    PROMPT(madvise(at, SIZE, MADV_DONTNEED) == 0);
    PROMPT(mremap(at, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place);
    PROMPT(shows(place, 0, 2 * PAGE, 0));
    PROMPT(munmap(at + 2 * PAGE, 2 * PAGE) == 0 && munmap(place, 2 * PAGE) == 0);
}

static void calls_on_shared_mappings(void)
{
    unsigned char *at;
    PROMPT((at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0)) != MAP_FAILED);
    unsigned char *place = free_range(2 * SIZE);
    at[0] = 1;
    PROMPT(mprotect(at, PAGE, PROT_READ) == 0);
    PROMPT(mprotect(at, SIZE, PROT_READ | PROT_WRITE) == 0);
    PROMPT(mremap(at, SIZE, 2 * SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place);
    PROMPT(remap_file_pages(place, PAGE, 0, 1, 0) == 0);
    PROMPT(munmap(place, 2 * SIZE) == 0);
}

/* The child has the snapshot of the parent, and it is exact there. */
static void fork_beside(void)
{
    unsigned char *at = snapshot(other, 0, SIZE, PROT_READ);
    double begun = now();
    pid_t child = fork();
    CHECK(child >= 0 && now() - begun < 5 && !*is_created);
    if (child == 0) {
        CHECK(shows(at, 0, SIZE, 0));
        overwrite(other, 0, SIZE, 1);
        CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
    PROMPT(munmap(at, SIZE) == 0);
    overwrite(other, 0, SIZE, 0);
}

static int open_files(void)
{
    is_created = shared_page();
    may_answer = is_created + 1;
    stuck = make_file("stuck", SIZE);
    other = make_file("other", SIZE);
    shared = make_file("shared", 2 * SIZE);
    return stuck_memory().at != NULL;
}

/* Another thread makes the snapshot. */
static void thread(int protection, enum who who)
{
    (void)protection, (void)who;
    if (!open_files())
        SKIP("userfaultfd(2) cannot be had");
    pid_t writer = begin_stuck_write();
    pthread_t creator;
    CHECK(pthread_create(&creator, NULL, create, NULL) == 0);
    usleep(300000);
    calls_on_snapshots();
    calls_on_shared_mappings();
    fork_beside();
    *may_answer = 1;
    CHECK(pthread_join(creator, NULL) == 0);
    end_stuck_write(writer);
}

static void *map_stuck(void *nothing)
{
    (void)nothing;
    unsigned char *at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, stuck, 0);
    CHECK(at != MAP_FAILED && *may_answer);
    CHECK(munmap(at, SIZE) == 0);
    return NULL;
}

/* Another process makes the snapshot, and a thread of this one waits for it. */
static void process(int protection, enum who who)
{
    (void)protection, (void)who;
    if (!open_files())
        SKIP("userfaultfd(2) cannot be had");
    pid_t writer = begin_stuck_write();
    pid_t creator = fork();
    CHECK(creator >= 0);
    if (creator == 0) {
        create(NULL);
        _exit(0);
    }
    usleep(200000);
    pthread_t mapper;
    CHECK(pthread_create(&mapper, NULL, map_stuck, NULL) == 0);
    usleep(300000);
    calls_on_snapshots();
    calls_on_shared_mappings();
    fork_beside();
    *may_answer = 1;
    CHECK(pthread_join(mapper, NULL) == 0);
    end_stuck_write(creator);
    end_stuck_write(writer);
}

static _Atomic int is_over;

static void *create_again_and_again(void *nothing)
{
    (void)nothing;
    while (!is_over)
        CHECK(munmap(snapshot(stuck, 0, SIZE, PROT_READ), SIZE) == 0);
    return NULL;
}

/* Threads make snapshots without a pause. Forks are made nevertheless, and their children's snapshots are exact beside a writer. */
static void forks(int protection, enum who who)
{
    (void)protection, (void)who;
    pthread_t creators[3];
    open_files();
    unsigned char *at = snapshot(other, 0, SIZE, PROT_READ);
    struct storm storm = storm_begin(stuck, SIZE, NULL);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&creators[i], NULL, create_again_and_again, NULL) == 0);
    double begun = now();
    for (int i = 0; i < 200; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0)
            _exit(!(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT));
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    CHECK(now() - begun < 60);
    is_over = 1;
    for (int i = 0; i < 3; i++)
        CHECK(pthread_join(creators[i], NULL) == 0);
    storm_end(&storm);
}

static const struct scenario scenarios[] = {ONCE(thread), ONCE(process), ONCE(forks)};

MAIN(scenarios)

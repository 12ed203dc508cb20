/* shared_storm FILE SECONDS [kernel]: two processes store through shared mappings of FILE, a third writes it, a fourth stores as well and
 * takes snapshots; a fifth only takes snapshots. Prints what was done; fails on the first snapshot that is not one cut, or that changes.
 *
 * Each storer numbers its stores. Where store `n` goes follows from the storer and n, and every storer passes all its words before it
 * comes to the first again: so the newest number that a snapshot shows of a storer says what each of its words has to be. A word also
 * says how far the next storer had come before it was stored, and the snapshot must not be behind that. The words of all storers
 * alternate, so each page is stored into by all of them. */
#include "check.h"
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { STORERS = 4, WORDS = 16384, TOTAL = STORERS * WORDS, BYTES = TOTAL * 8, HELD = 4 };

struct control {
    _Atomic uint64_t done[STORERS];
    _Atomic int stop;
    _Atomic uint64_t snapshots, looks;
};

static struct control *control;
static const char *path;

/* From one end to the other, or all over the file. */
static const uint64_t stride[STORERS] = {1, 6067, 1, 9413};

static size_t place(size_t storer, uint64_t number)
{
    return (number * stride[storer] % WORDS) * STORERS + storer;
}

static time_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec;
}

static volatile uint64_t *map_shared(int fd)
{
    void *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

/* Whether two of the storers have the kernel store for them: what they read from a pipe, and from another file. */
static int by_kernel;

static void put(volatile uint64_t *at, uint64_t word, size_t storer)
{
    static _Thread_local int fds[2];
    if (!by_kernel || storer > 1) {
        *at = word;
        return;
    }
    if (storer == 0) {
        CHECK(fds[1] || pipe(fds) == 0);
        CHECK(write(fds[1], &word, 8) == 8 && read(fds[0], (void *)at, 8) == 8);
    } else {
        CHECK(fds[1] || (fds[1] = memfd_create("source", 0)) > 0);
        CHECK(pwrite(fds[1], &word, 8, 0) == 8 && pread(fds[1], (void *)at, 8, 0) == 8);
    }
}

static void *store(void *argument)
{
    size_t storer = (size_t)argument, next = (storer + 1) % STORERS;
    int fd = open(path, O_RDWR);
    CHECK(fd >= 0);
    volatile uint64_t *words = map_shared(fd);
    for (uint64_t number = 1; !control->stop; number++) {
        uint64_t word = number << 32 | (control->done[next] & 0xffffffff);
        size_t at = place(storer, number);
        if (storer == 2)
            CHECK(pwrite(fd, &word, 8, (off_t)(at * 8)) == 8);
        else
            put(&words[at], word, storer);
        control->done[storer] = number;
        /* Now and then from scratch: mapped while snapshots exist, changed in its protection, moved. */
        if (number % 50000 == 0 && storer != 2) {
            CHECK(munmap((void *)words, BYTES) == 0);
            words = map_shared(fd);
        } else if (number % 50000 == 20000 && storer != 2) {
            CHECK(mprotect((void *)words, BYTES, PROT_READ) == 0);
            CHECK(mprotect((void *)words, BYTES, PROT_READ | PROT_WRITE) == 0);
        } else if (number % 50000 == 40000 && storer != 2) {
            void *aside = mmap(NULL, BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            CHECK(mremap((void *)words, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, aside) == aside);
            words = aside;
        }
    }
    return NULL;
}

struct held {
    uint64_t *at;
    uint64_t copy[TOTAL];
};

/* `before`: stores that were done before mmap() was called; `after`: those that could be by the time it had returned. */
static void check_cut(const uint64_t *words, const uint64_t *before, const uint64_t *after)
{
    uint64_t newest[STORERS] = {0};
    for (size_t storer = 0; storer < STORERS; storer++) {
        for (size_t i = 0; i < WORDS; i++) {
            uint64_t number = words[i * STORERS + storer] >> 32;
            newest[storer] = number > newest[storer] ? number : newest[storer];
        }
        CHECK(newest[storer] >= before[storer]);
        CHECK(newest[storer] <= after[storer]);
        uint64_t oldest = newest[storer] < WORDS ? 1 : newest[storer] - WORDS + 1;
        for (uint64_t number = oldest; number <= newest[storer]; number++)
            CHECK(words[place(storer, number)] >> 32 == number);
    }
    for (size_t storer = 0; storer < STORERS; storer++)
        if (newest[storer] > 0)
            CHECK((words[place(storer, newest[storer])] & 0xffffffff) <= newest[(storer + 1) % STORERS]);
}

static void take(struct held *held, int fd, int protection)
{
    uint64_t before[STORERS], after[STORERS];
    for (size_t i = 0; i < STORERS; i++)
        before[i] = control->done[i];
    held->at = (uint64_t *)snapshot(fd, 0, BYTES, protection);
    for (size_t i = 0; i < STORERS; i++)
        after[i] = control->done[i] + 1;
    memcpy(held->copy, held->at, BYTES);
    check_cut(held->copy, before, after);
    control->snapshots++;
}

static void take_snapshots(void)
{
    static struct held held[HELD];
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    for (size_t round = 0; !control->stop; round++) {
        struct held *one = &held[round % HELD];
        if (one->at) {
            CHECK(memcmp(one->at, one->copy, BYTES) == 0);
            CHECK(munmap(one->at, BYTES) == 0);
            control->looks++;
        }
        take(one, fd, round % 2 ? PROT_READ : PROT_READ | PROT_WRITE);
        /* Now and then no process has a snapshot at all. */
        if (round % 20 == 19)
            for (size_t i = 0; i < HELD; i++)
                if (held[i].at) {
                    CHECK(memcmp(held[i].at, held[i].copy, BYTES) == 0);
                    CHECK(munmap(held[i].at, BYTES) == 0);
                    held[i].at = NULL;
                }
    }
}

int main(int argc, char **argv)
{
    CHECK(argc == 3 || argc == 4);
    by_kernel = argc == 4;
    path = argv[1];
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && ftruncate(fd, BYTES) == 0);

    pid_t pids[5];
    for (size_t i = 0; i < 5; i++) {
        pids[i] = fork();
        CHECK(pids[i] >= 0);
        if (pids[i] > 0)
            continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pthread_t thread;
        if (i == 3)
            CHECK(pthread_create(&thread, NULL, store, (void *)i) == 0);
        if (i < 3)
            store((void *)i);
        else
            take_snapshots();
        if (i == 3)
            CHECK(pthread_join(thread, NULL) == 0);
        _exit(0);
    }
    alarm((unsigned)atoi(argv[2]) + 250);
    /* A busy machine may take longer to have a snapshot looked at again. */
    for (time_t end = now() + atoi(argv[2]); now() < end || control->looks == 0;) {
        usleep(100000);
        int status;
        pid_t ended = waitpid(-1, &status, WNOHANG);
        if (ended > 0) {
            fprintf(stderr, "a process ended with %#x\n", status);
            return 1;
        }
    }
    control->stop = 1;
    for (size_t i = 0; i < 5; i++) {
        int status;
        CHECK(waitpid(pids[i], &status, 0) == pids[i] && status == 0);
    }
    printf("%llu snapshots, %llu looked at again, stores", (unsigned long long)control->snapshots, (unsigned long long)control->looks);
    for (size_t i = 0; i < STORERS; i++)
        printf(" %llu", (unsigned long long)control->done[i]);
    printf("\n");
    return 0;
}

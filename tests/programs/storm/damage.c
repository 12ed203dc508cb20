/* damage FILE SECONDS: writers by write(2) and by a shared mapping, and mappers that take, read, change, inherit and drop snapshots,
 * while another process damages the table. No process may crash, hang, or find memory of its own changed; how many snapshots changed, and
 * how many of them did not say so, is printed with the longest call: damage that is made good before it is seen can go unsaid. */
#include "check.h"
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { PAGES = 64, CANARIES = 32, WRITERS_BY_CALL = 2, WRITERS_BY_STORE = 1, MAPPERS = 3, LONGEST_S = 30 };
static const size_t LENGTH = PAGES * 4096;

struct shared {
    _Atomic uint64_t longest_ns, snapshots, refused, changed, unsaid;
    _Atomic int longest_place;
};
static struct shared *shared;
static unsigned char *canaries, *closed, *stored;
static uint64_t deadline;
static const char *path;

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static uint64_t draw(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15;
    uint64_t word = (*state ^ *state >> 30) * 0xbf58476d1ce4e5b9;
    word = (word ^ word >> 27) * 0x94d049bb133111eb;
    return word ^ word >> 31;
}

static void note_time(int place, uint64_t began)
{
    uint64_t took = now() - began;
    if (took > shared->longest_ns) {
        shared->longest_ns = took;
        shared->longest_place = place;
    }
}

/* Any result will do, but not too late. */
#define IN_TIME(call)                 \
    do {                              \
        uint64_t began_ = now();      \
        (void)(call);                 \
        note_time(__LINE__, began_);  \
    } while (0)

/* Memory that is none of the shim's business stays as it was. */
static void look_after_canaries(void)
{
    for (size_t i = 0; i < CANARIES * PAGE; i++)
        CHECK(canaries[i] == stamp(i / PAGE, 7) && closed[i] == stamp(i / PAGE, 8));
}

/* No store gets lost where a thread stores all the time. */
static void *store_always(void *unused)
{
    (void)unused;
    for (unsigned char value = 0; now() < deadline; value++)
        for (size_t page = 0; page < CANARIES; page++) {
            volatile unsigned char *at = stored + page * PAGE;
            *at = value;
            for (int i = 0; i < 50; i++)
                CHECK(*at == value);
        }
    return NULL;
}

static void make_canaries(void)
{
    canaries = mmap(NULL, CANARIES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    closed = mmap(NULL, CANARIES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stored = mmap(NULL, CANARIES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(canaries != MAP_FAILED && closed != MAP_FAILED && stored != MAP_FAILED);
    for (size_t i = 0; i < CANARIES; i++) {
        memset(canaries + i * PAGE, stamp(i, 7), PAGE);
        memset(closed + i * PAGE, stamp(i, 8), PAGE);
    }
    CHECK(mprotect(closed, CANARIES * PAGE, PROT_READ) == 0);
}

static void write_calls(uint64_t random)
{
    int fd = open(path, O_RDWR);
    static unsigned char bytes[8 * 4096];
    for (int version = 1; now() < deadline; version++) {
        size_t first = draw(&random) % (PAGES - 8), count = 1 + draw(&random) % 8;
        memset(bytes, stamp(first, version), count * PAGE);
        IN_TIME(pwrite(fd, bytes, count * PAGE, (off_t)(first * PAGE)));
        if (draw(&random) % 64 == 0) {
            IN_TIME(ftruncate(fd, (off_t)(LENGTH / 2)));
            IN_TIME(ftruncate(fd, (off_t)LENGTH));
        }
        look_after_canaries();
        usleep(200);
    }
}

static sigjmp_buf escape;
static void on_bus(int number)
{
    (void)number;
    siglongjmp(escape, 1);
}

static void write_stores(uint64_t random)
{
    signal(SIGBUS, on_bus); /* the file is cut now and then */
    int fd = open(path, O_RDWR);
    unsigned char *at = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED);
    for (int version = 1; now() < deadline; version++) {
        uint64_t began = now();
        if (sigsetjmp(escape, 1) == 0)
            ((volatile unsigned char *)at)[draw(&random) % LENGTH] = (unsigned char)version;
        note_time(__LINE__, began);
        if (version % 64 == 0) {
            IN_TIME(munmap(at, LENGTH));
            uint64_t again = now();
            at = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            note_time(__LINE__, again);
            if (at == MAP_FAILED)
                return;
        }
        look_after_canaries();
        usleep(300);
    }
}

/* 1: read into `copy`; 0: it faults. */
static int read_all(const unsigned char *at, size_t length, unsigned char *copy)
{
    if (sigsetjmp(escape, 1) != 0)
        return 0;
    memcpy(copy, at, length);
    return 1;
}

static void check_snapshot(const unsigned char *at, size_t length, const unsigned char *copy)
{
    static unsigned char shown[64 * 4096];
    struct snapshim_stat stat = {.state = SNAPSHIM_DOUBTFUL};
    if (read_all(at, length, shown) && memcmp(shown, copy, length) == 0)
        return;
    shared->changed++;
    if (snapshim_stat(at, &stat) == 0 && stat.state == SNAPSHIM_EXACT)
        shared->unsaid++;
}

static void map_and_check(uint64_t random)
{
    signal(SIGBUS, on_bus);
    int fd = open(path, O_RDONLY);
    static unsigned char copy[64 * 4096];
    while (now() < deadline) {
        int protection = PROT_READ | (draw(&random) % 2 ? PROT_WRITE : 0);
        uint64_t began = now();
        unsigned char *at = mmap(NULL, LENGTH, protection, MAP_PRIVATE | MAP_SNAPSHOT, fd, 0);
        note_time(__LINE__, began);
        if (at == MAP_FAILED) {
            shared->refused++;
            usleep(1000);
            look_after_canaries();
            continue;
        }
        shared->snapshots++;
        size_t length = LENGTH;
        int readable = read_all(at, length, copy);
        for (int i = 0; i < 5 && readable; i++) {
            usleep(2000);
            check_snapshot(at, length, copy);
            if (i == 2 && draw(&random) % 2) {
                length -= 8 * PAGE;
                IN_TIME(munmap(at + length, 8 * PAGE));
            }
            if (i == 3 && draw(&random) % 2) {
                IN_TIME(mprotect(at, length, PROT_READ));
                IN_TIME(madvise(at, length / 2, MADV_DONTNEED));
            }
            look_after_canaries();
        }
        if (draw(&random) % 4 == 0) {
            began = now();
            pid_t child = fork();
            if (child == 0) {
                if (readable)
                    check_snapshot(at, length, copy);
                look_after_canaries();
                _exit(0);
            }
            int status = 0;
            CHECK(child > 0 && waitpid(child, &status, 0) == child);
            note_time(__LINE__, began);
            CHECK(status == 0);
        }
        IN_TIME(munmap(at, length));
    }
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    path = argv[1];
    close(make_file(path, LENGTH));
    make_canaries();
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    deadline = now() + (uint64_t)(atof(argv[2]) * 1e9);
    enum { ALL = WRITERS_BY_CALL + WRITERS_BY_STORE + MAPPERS };
    pid_t pids[ALL];
    for (int i = 0; i < ALL; i++) {
        pids[i] = fork();
        CHECK(pids[i] >= 0);
        if (pids[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            alarm((unsigned)(atof(argv[2]) + 3 * LONGEST_S));
            pthread_t thread;
            CHECK(pthread_create(&thread, NULL, store_always, NULL) == 0);
            if (i < WRITERS_BY_CALL)
                write_calls((uint64_t)i);
            else if (i < WRITERS_BY_CALL + WRITERS_BY_STORE)
                write_stores((uint64_t)i);
            else
                map_and_check((uint64_t)i);
            CHECK(pthread_join(thread, NULL) == 0);
            _exit(0);
        }
    }
    printf("ready\n");
    fflush(stdout);
    int failed = 0;
    for (int i = 0; i < ALL; i++) {
        int status;
        CHECK(waitpid(pids[i], &status, 0) == pids[i]);
        if (status != 0)
            fprintf(stderr, "process %d (of kind %d) ended with %#x\n", pids[i], i, (unsigned)status);
        failed |= status;
    }
    printf("longest %.2f s at line %d, %llu snapshots, %llu refused, %llu found changed, %llu of them unsaid\n", (double)shared->longest_ns / 1e9,
           shared->longest_place, (unsigned long long)shared->snapshots, (unsigned long long)shared->refused,
           (unsigned long long)shared->changed, (unsigned long long)shared->unsaid);
    return failed != 0 || shared->longest_ns > LONGEST_S * 1000000000ull;
}

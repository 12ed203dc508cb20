/* storm FILE SECONDS SEED WAYS: four writer processes of two threads each stamp records of FILE and FILE.2 while mapper processes take,
 * check and drop snapshots of them. WAYS (direct,agent,auto) are dealt out to the writers in turn. Prints what was done; fails on the
 * first snapshot that is not one cut of the writes, or that changes afterwards.
 *
 * The second file goes on where the first ends. A snapshot of records of both is a group of two, side by side in memory.
 *
 * Each thread has a region of its own and numbers its writes; which records a write covers follows from region and number. So the
 * newest number that a snapshot shows of a region says what every record of that region has to be. A record is half a page and a
 * region an odd number of records: neighbours share a page, and most writes begin or end inside one. */
#include "check.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <time.h>

enum { WRITER_PROCESSES = 4, THREADS = 2, REGIONS = WRITER_PROCESSES * THREADS, MAPPER_PROCESSES = 3, HELD = 6 };
enum { RECORD = 2048, REGION_RECORDS = 65, RECORDS = REGIONS * REGION_RECORDS, PAGES = RECORDS * RECORD / 4096, FILE_PAGES = PAGES / 2 };

/* What all processes share. */
struct control {
    _Atomic uint64_t sequence;      /* of the next write, taken before it is made */
    _Atomic uint64_t done[REGIONS]; /* number of the last write that has returned */
    _Atomic int stop;
    _Atomic uint64_t snapshots, groups, looks, preserved, longest_ns;
};

struct record {
    uint64_t offset, sequence, number;
    uint64_t done[REGIONS]; /* writes that had returned before this one began */
    uint64_t filler[RECORD / 8 - 4 - REGIONS];
    uint64_t checksum;
};
_Static_assert(sizeof(struct record) == RECORD, "half a page");

struct cover {
    size_t first, count; /* in records of the file */
    int call;
};

static struct control *control;
static uint64_t seed;
static char paths[2][4096];

static uint64_t mix(uint64_t word)
{
    word += 0x9e3779b97f4a7c15;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9;
    word = (word ^ word >> 27) * 0x94d049bb133111eb;
    return word ^ word >> 31;
}

static uint64_t draw(uint64_t *state)
{
    return mix(++*state);
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static uint64_t checksum(const struct record *record)
{
    const uint64_t *word = (const uint64_t *)record;
    uint64_t sum = 0;
    for (size_t i = 0; i < RECORD / 8 - 1; i++)
        sum = (sum ^ word[i]) * 0x100000001b3;
    return sum;
}

static struct cover cover_of(size_t region, uint64_t number)
{
    uint64_t random = mix(seed ^ (uint64_t)region << 56 ^ number);
    size_t most = random % 16 == 0 ? REGION_RECORDS : random % 4 == 0 ? 16 : 3;
    struct cover cover = {.count = most == REGION_RECORDS ? most : 1 + random / 16 % most, .call = (int)(random / 256 % 5)};
    cover.first = region * REGION_RECORDS + random / 4096 % (REGION_RECORDS - cover.count + 1);
    return cover;
}

static void fill(struct record *record, size_t index, uint64_t sequence, uint64_t number, const uint64_t *done)
{
    *record = (struct record){.offset = index * RECORD, .sequence = sequence, .number = number};
    memcpy(record->done, done, sizeof record->done);
    for (size_t i = 0; i < sizeof record->filler / 8; i++)
        record->filler[i] = sequence * 31 + i;
    record->checksum = checksum(record);
}

static ssize_t write_by(int call, int fd, char *data, size_t length, off_t offset)
{
    struct iovec parts[] = {{data, 1000}, {data + 1000, length / 2}, {data + 1000 + length / 2, length - 1000 - length / 2}};
    switch (call) {
    case 0: return pwritev(fd, parts, 3, offset);
    case 1: return pwritev2(fd, parts, 3, offset, 0);
    case 2: return lseek(fd, offset, SEEK_SET) == offset ? write(fd, data, length) : -1;
    case 3: return lseek(fd, offset, SEEK_SET) == offset ? writev(fd, parts, 3) : -1;
    default: return pwrite(fd, data, length, offset);
    }
}

static void *write_region(void *argument)
{
    size_t region = (size_t)argument;
    struct record *records = calloc(REGION_RECORDS, RECORD);
    size_t start = region * REGION_RECORDS * RECORD, file = start / (FILE_PAGES * 4096);
    int fd = open(paths[file], O_WRONLY);
    CHECK(records && fd >= 0);
    for (uint64_t number = 1; !control->stop; number++) {
        struct cover cover = cover_of(region, number);
        uint64_t done[REGIONS];
        for (size_t i = 0; i < REGIONS; i++)
            done[i] = control->done[i];
        uint64_t sequence = control->sequence++;
        for (size_t i = 0; i < cover.count; i++)
            fill(&records[i], cover.first + i, sequence, number, done);
        size_t length = cover.count * RECORD;
        CHECK(write_by(cover.call, fd, (char *)records, length, (off_t)(cover.first * RECORD - file * FILE_PAGES * 4096)) == (ssize_t)length);
        control->done[region] = number;
    }
    return NULL;
}

static void write_two(size_t writer)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, write_region, (void *)(writer * THREADS)) == 0);
    write_region((void *)(writer * THREADS + 1));
    CHECK(pthread_join(thread, NULL) == 0);
}

struct held {
    char *at;
    size_t first, count; /* in records */
    int writable, cuts; /* how often it is cut before it is dropped */
    uint64_t checked_from; /* dropped once the writers have come to this sequence */
    char copy[RECORDS * RECORD] __attribute__((aligned(16)));
};

static int overlap(size_t first, size_t count, struct cover cover)
{
    return cover.first < first + count && first < cover.first + cover.count;
}

/* Checks the part of `region` that the snapshot covers: it shows the state after one write of the region, and nothing of a later one. */
static uint64_t check_region(const struct held *held, size_t region)
{
    const struct record *shown = (const struct record *)held->copy - held->first;
    size_t start = region * REGION_RECORDS, end = start + REGION_RECORDS;
    start = start > held->first ? start : held->first;
    end = end < held->first + held->count ? end : held->first + held->count;
    uint64_t newest = 0;
    for (size_t i = start; i < end; i++)
        newest = shown[i].number > newest ? shown[i].number : newest;

    char decided[RECORDS] = {0};
    size_t open_records = end > start ? end - start : 0;
    for (uint64_t number = newest; number > 0 && open_records > 0; number--) {
        struct cover cover = cover_of(region, number);
        for (size_t i = cover.first; i < cover.first + cover.count; i++)
            if (i >= start && i < end && !decided[i]) {
                CHECK(shown[i].number == number);
                decided[i] = 1;
                open_records--;
            }
    }
    for (size_t i = start; i < end; i++)
        CHECK(decided[i] || shown[i].number == 0);
    return newest;
}

/* `returned`: writes that had returned before mmap() was called. `bound`: the sequence counter after mmap() had returned. */
static void check_cut(const struct held *held, const uint64_t *returned, uint64_t bound)
{
    const struct record *shown = (const struct record *)held->copy;
    uint64_t needed[REGIONS];
    memcpy(needed, returned, sizeof needed);
    for (size_t i = 0; i < held->count; i++) {
        CHECK(shown[i].checksum == checksum(&shown[i]));
        CHECK(shown[i].offset == (held->first + i) * RECORD);
        CHECK(shown[i].sequence < bound);
        for (size_t region = 0; region < REGIONS; region++)
            needed[region] = shown[i].done[region] > needed[region] ? shown[i].done[region] : needed[region];
    }
    for (size_t region = 0; region < REGIONS; region++) {
        uint64_t newest = check_region(held, region);
        size_t start = held->first, count = held->count;
        for (uint64_t number = newest + 1; number <= needed[region]; number++)
            CHECK(!overlap(start, count, cover_of(region, number)));
    }
}

/* A snapshot of pages of both files: a group, put side by side into memory that is kept for it. */
static char *take_group(const int *fds, size_t page, size_t pages, int protection)
{
    char *at = mmap(NULL, pages * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    size_t first = (FILE_PAGES - page) * 4096, second = pages * 4096 - first;
    struct snapshim_map maps[2] = {{fds[0], protection, (off_t)(page * 4096), first, at, MAP_FIXED, 0},
                                   {fds[1], protection, 0, second, at + first, MAP_FIXED, 0}};
    if (snapshim_active())
        CHECK(snapshim_mapv(maps, 2) == 0 && maps[0].addr == at && maps[1].addr == at + first);
    else
        for (int i = 0; i < 2; i++)
            CHECK(mmap(maps[i].addr, maps[i].length, protection, MAP_PRIVATE | MAP_FIXED, maps[i].fd, maps[i].offset) != MAP_FAILED);
    control->groups++;
    return at;
}

static char *take_pages(const int *fds, size_t page, size_t pages, int protection)
{
    if (page < FILE_PAGES && page + pages > FILE_PAGES)
        return take_group(fds, page, pages, protection);
    size_t file = page / FILE_PAGES;
    return (char *)snapshot(fds[file], (page - file * FILE_PAGES) * 4096, pages * 4096, protection);
}

static void take(struct held *held, const int *fds, uint64_t *random)
{
    size_t page = 0, pages = PAGES;
    if (draw(random) % 3 == 0) {
        page = draw(random) % PAGES;
        pages = 1 + draw(random) % (PAGES - page);
    }
    held->first = page * 4096 / RECORD;
    held->count = pages * 4096 / RECORD;
    held->writable = (int)(draw(random) % 2);
    held->cuts = (int)(draw(random) % 3);
    uint64_t returned[REGIONS], started = now();
    for (size_t i = 0; i < REGIONS; i++)
        returned[i] = control->done[i];
    held->at = take_pages(fds, page, pages, PROT_READ | (held->writable ? PROT_WRITE : 0));
    uint64_t bound = control->sequence, took = now() - started;
    memcpy(held->copy, held->at, pages * 4096);
    check_cut(held, returned, bound);
    held->checked_from = bound + draw(random) % 4000;
    control->snapshots++;
    for (uint64_t longest = control->longest_ns; took > longest;)
        if (atomic_compare_exchange_weak(&control->longest_ns, &longest, took))
            break;
}

static void look_again(const struct held *held)
{
    CHECK(memcmp(held->at, held->copy, held->count * RECORD) == 0);
    control->looks++;
}

/* A store of the mapper's own stays, whatever is preserved around it. */
static void store(struct held *held, uint64_t *random)
{
    size_t at = draw(random) % (held->count * RECORD - 8);
    uint64_t word = draw(random);
    memcpy(held->at + at, &word, 8);
    memcpy(held->copy + at, &word, 8);
}

/* Unmaps one half; what is left has to stay as it was while writers go on. */
static void cut(struct held *held, uint64_t *random)
{
    size_t length = held->count * RECORD, half = length / 2 / 4096 * 4096;
    if (half == 0)
        return;
    if (draw(random) % 2 == 0) {
        CHECK(munmap(held->at, half) == 0);
        held->at += half;
        held->first += half / RECORD;
        memmove(held->copy, held->copy + half, length - half);
        held->count -= half / RECORD;
    } else {
        CHECK(munmap(held->at + half, length - half) == 0);
        held->count = half / RECORD;
    }
}

static void drop(struct held *held)
{
    look_again(held);
    /* The two ends of a group lie in different files. */
    struct snapshim_stat first, last;
    if (snapshim_stat(held->at, &first) == 0) {
        CHECK(snapshim_stat(held->at + held->count * RECORD - 1, &last) == 0);
        CHECK(first.state == SNAPSHIM_EXACT && last.state == SNAPSHIM_EXACT);
        control->preserved += first.preserved;
    }
    CHECK(munmap(held->at, held->count * RECORD) == 0);
    held->at = NULL;
}

static void map_until(uint64_t deadline, uint64_t random)
{
    static struct held all[HELD];
    int fds[2] = {open(paths[0], O_RDONLY), open(paths[1], O_RDONLY)};
    CHECK(fds[0] >= 0 && fds[1] >= 0);
    while (now() < deadline && !control->stop) {
        struct held *held = &all[draw(&random) % HELD];
        if (!held->at)
            take(held, fds, &random);
        else if (control->sequence >= held->checked_from)
            drop(held);
        else if (held->cuts > 0 && held->cuts--)
            cut(held, &random);
        else if (held->writable && draw(&random) % 2 == 0)
            store(held, &random);
        else
            look_again(held);
    }
    for (size_t i = 0; i < HELD; i++)
        if (all[i].at)
            drop(&all[i]);
}

static void make_records(void)
{
    int fds[2];
    for (int i = 0; i < 2; i++)
        CHECK((fds[i] = open(paths[i], O_WRONLY | O_CREAT | O_TRUNC, 0600)) >= 0);
    uint64_t none[REGIONS] = {0};
    for (size_t i = 0; i < RECORDS; i++) {
        struct record record;
        fill(&record, i, 0, 0, none);
        CHECK(write(fds[i / (RECORDS / 2)], &record, RECORD) == RECORD);
    }
    CHECK(close(fds[0]) == 0 && close(fds[1]) == 0);
}

/* Starts process `index` of the storm: this program again, a writer with its own way of preserving. */
static pid_t start(char **argv, int index, int shared)
{
    pid_t parent = getpid(), child = fork();
    CHECK(child >= 0);
    if (child > 0)
        return child;
    CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent);
    char *ways[3], *list = argv[4];
    int count = 0;
    for (char *way; count < 3 && (way = strsep(&list, ",")); count++)
        ways[count] = way;
    if (index < WRITER_PROCESSES)
        setenv("SNAPSHIM_PUSH", ways[index % count], 1);
    char which[16], descriptor[16];
    snprintf(which, sizeof which, "%d", index);
    snprintf(descriptor, sizeof descriptor, "%d", shared);
    execl("/proc/self/exe", argv[0], argv[1], argv[2], argv[3], which, descriptor, NULL);
    _exit(127);
}

static int run_all(char **argv)
{
    int shared = memfd_create("storm", 0);
    CHECK(shared >= 0 && ftruncate(shared, sizeof *control) == 0);
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
    CHECK(control != MAP_FAILED);
    control->sequence = 1;
    make_records();
    for (int i = 0; i < WRITER_PROCESSES + MAPPER_PROCESSES; i++)
        start(argv, i, shared);
    int failed = 0, status;
    for (int ended = 1; wait(&status) > 0; ended++) {
        failed |= status;
        if (status != 0 || ended == MAPPER_PROCESSES)
            control->stop = 1;
    }
    printf("%llu snapshots (%llu groups, longest mmap %.2f ms), %llu looks at them later, %llu writes, %llu pages preserved\n",
           (unsigned long long)control->snapshots, (unsigned long long)control->groups, (double)control->longest_ns / 1e6, (unsigned long long)control->looks,
           (unsigned long long)control->sequence - 1, (unsigned long long)control->preserved);
    return failed != 0 || control->snapshots == 0 || control->groups == 0;
}

int main(int argc, char **argv)
{
    CHECK(argc == 5 || argc == 6);
    snprintf(paths[0], sizeof paths[0], "%s", argv[1]);
    snprintf(paths[1], sizeof paths[1], "%s.2", argv[1]);
    seed = strtoull(argv[3], NULL, 0);
    if (argc == 5)
        return run_all(argv);
    int index = atoi(argv[4]);
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[5]), 0);
    CHECK(control != MAP_FAILED);
    if (index < WRITER_PROCESSES)
        write_two((size_t)index);
    else
        map_until(now() + strtoull(argv[2], NULL, 0) * 1000000000, mix(seed + (uint64_t)index));
    return 0;
}

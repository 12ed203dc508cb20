/* Many snapshots of one file, many mappers of it, the mapper's own stores, and the numbers that snapshim_stat gives. */
#include "check.h"

#define PAGES ((size_t)32)
#define SIZE (PAGES * PAGE)

static unsigned random_state = 4711;

static size_t random_below(size_t limit)
{
    random_state = random_state * 1103515245 + 12345;
    return (random_state >> 8) % limit;
}

struct taken {
    unsigned char *at, *wanted;
    size_t length;
};

static void check_taken(const struct taken *taken, size_t count)
{
    for (size_t i = 0; i < count; i++)
        CHECK(!taken[i].at || memcmp(taken[i].at, taken[i].wanted, taken[i].length) == 0);
}

/* What a snapshot should show is read from the file with pread, while no process writes. */
static void many_moments_of_overlapping_ranges(int protection, enum who who)
{
    enum { COUNT = 60 };
    struct taken taken[COUNT] = {0};
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    for (size_t i = 0; i < COUNT; i++) {
        size_t first = random_below(PAGES), pages = 1 + random_below(PAGES - first);
        taken[i].length = pages * PAGE;
        taken[i].wanted = malloc(taken[i].length);
        CHECK(pread(fd, taken[i].wanted, taken[i].length, (off_t)(first * PAGE)) == (ssize_t)taken[i].length);
        taken[i].at = snapshot(fd, first * PAGE, taken[i].length, i % 2 ? protection : PROT_READ | PROT_WRITE);
        if (i == 0)
            writer_after(&writer);
        for (int turn = 0; turn < 3; turn++) {
            size_t offset = random_below(SIZE - 3 * PAGE);
            writer_writes(&writer, offset, 1 + random_below(3 * PAGE), (int)i + 1);
        }
        check_taken(taken, i + 1);
    }
    writer_writes(&writer, 0, SIZE, 100);
    check_taken(taken, COUNT);
    for (size_t i = 0; i < COUNT; i += 1 + i % 3) {
        CHECK(munmap(taken[i].at, taken[i].length) == 0);
        taken[i].at = NULL;
    }
    writer_writes(&writer, 0, SIZE, 101);
    check_taken(taken, COUNT);
    writer_end(&writer);
}

/* Each mapper takes its snapshot of another version; all are asked at the end, then half of them once more. */
static void many_mappers_of_one_file(int protection, enum who who)
{
    enum { COUNT = 6 };
    struct { pid_t pid; int ask, answer; } mappers[COUNT];
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    for (int i = 0; i < COUNT; i++) {
        int ask[2], answer[2];
        CHECK(pipe(ask) == 0 && pipe(answer) == 0);
        CHECK((mappers[i].pid = fork()) >= 0);
        if (mappers[i].pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            char byte;
            CHECK(read(ask[0], &byte, 1) == 1);
            unsigned char *at = snapshot(fd, 0, SIZE, protection);
            while (write(answer[1], &byte, 1) == 1 && read(ask[0], &byte, 1) == 1 && byte != 'q') {
                CHECK(shows(at, 0, SIZE, i));
                CHECK(stat_of(at).state == SNAPSHIM_EXACT);
            }
            CHECK(shows(at, 0, SIZE, i));
            _exit(0);
        }
        close(ask[0]);
        close(answer[1]);
        mappers[i].ask = ask[1];
        mappers[i].answer = answer[0];
    }
    writer_after(&writer);
    char byte = 'a';
    for (int i = 0; i < COUNT; i++) {
        CHECK(write(mappers[i].ask, &byte, 1) == 1 && read(mappers[i].answer, &byte, 1) == 1);
        writer_writes(&writer, 0, SIZE, i + 1);
    }
    for (int i = 0; i < COUNT; i++)
        CHECK(write(mappers[i].ask, &byte, 1) == 1 && read(mappers[i].answer, &byte, 1) == 1);
    for (int i = 0; i < COUNT; i++) {
        int status;
        CHECK(write(mappers[i].ask, "q", 1) == 1);
        CHECK(waitpid(mappers[i].pid, &status, 0) == mappers[i].pid && status == 0);
        writer_writes(&writer, 0, SIZE, 50 + i);
    }
    writer_end(&writer);
}

static void own_stores_stay_private_and_survive_pushes(int protection, enum who who)
{
    (void)protection;
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, PROT_READ | PROT_WRITE);
    unsigned char *other = snapshot(fd, 0, SIZE, PROT_READ);
    unsigned char *plain = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
    writer_after(&writer);
    for (size_t page = 0; page < PAGES; page += 2)
        at[page * PAGE + page] = 0xfe;
    CHECK(shows(plain, 0, SIZE, 0) && shows(other, 0, SIZE, 0));
    writer_writes(&writer, 0, SIZE, 1);
    for (size_t page = 1; page < PAGES; page += 2)
        at[page * PAGE + page] = 0xfe;
    writer_writes(&writer, 0, SIZE, 2);
    for (size_t page = 0; page < PAGES; page++) {
        CHECK(at[page * PAGE + page] == 0xfe);
        at[page * PAGE + page] = stamp(page, 0);
    }
    CHECK(shows(at, 0, SIZE, 0) && shows(other, 0, SIZE, 0) && shows(plain, 0, SIZE, 2));
    writer_end(&writer);
}

/* What the kernel stores into a snapshot (read(2)) is the mapper's store as well. */
static void a_read_into_the_snapshot_survives(int protection, enum who who)
{
    (void)protection;
    int fd = make_file("file", SIZE);
    int zero = open("/dev/zero", O_RDONLY);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, PROT_READ | PROT_WRITE);
    writer_after(&writer);
    CHECK(read(zero, at + 100, 2 * PAGE) == (ssize_t)(2 * PAGE));
    writer_writes(&writer, 0, SIZE, 1);
    CHECK(read(zero, at + 4 * PAGE + 100, 2 * PAGE) == (ssize_t)(2 * PAGE));
    writer_writes(&writer, 0, SIZE, 2);
    for (size_t i = 0; i < SIZE; i++) {
        size_t within = i < 4 * PAGE ? i - 100 : i - 4 * PAGE - 100;
        CHECK(at[i] == (within < 2 * PAGE ? 0 : stamp(i / PAGE, 0)));
    }
    writer_end(&writer);
}

static void stat_counts_pages_once(int protection, enum who who)
{
    const size_t size = 9 * PAGE + 1234;
    int fd = make_file("file", size);
    struct writer writer = writer_before(who, "file");
    unsigned char *place = free_range(20 * PAGE) + 4 * PAGE;
    unsigned char *at = mmap(place, 12 * PAGE, protection, MAP_PRIVATE | MAP_SNAPSHOT | MAP_FIXED, fd, 0);
    CHECK(at == place);
    writer_after(&writer);
    struct snapshim_stat start = stat_of(at);
    CHECK(start.state == SNAPSHIM_EXACT && start.size == size && start.pages == 10);
    CHECK(start.preserved <= 1);
    writer_writes(&writer, 0, 3 * PAGE, 1);
    CHECK(stat_of(at).preserved == start.preserved + 3);
    writer_writes(&writer, 0, 3 * PAGE, 2);
    CHECK(stat_of(at).preserved == start.preserved + 3);
    writer_writes(&writer, 5 * PAGE - 1, 2, 1);
    CHECK(stat_of(at).preserved == start.preserved + 5);
    CHECK(stat_of(at).bytes_held >= 5 * PAGE);
    writer_writes(&writer, 0, 12 * PAGE, 3);
    struct snapshim_stat end = stat_of(at + 11 * PAGE + 5);
    CHECK(end.pages == 10 && end.preserved == 10 && end.size == size && end.state == SNAPSHIM_EXACT);
    CHECK(end.bytes_held >= 10 * PAGE && end.bytes_held <= 10 * PAGE + 4 * PAGE);

    struct snapshim_stat stat;
    CHECK_ERRNO(snapshim_stat(at - 1, &stat), -1, EINVAL);
    CHECK_ERRNO(snapshim_stat(at + 12 * PAGE, &stat), -1, EINVAL);
    CHECK_ERRNO(snapshim_stat(NULL, &stat), -1, EINVAL);
    CHECK_ERRNO(snapshim_stat(&stat, &stat), -1, EINVAL);
    CHECK_ERRNO(snapshim_stat((void *)-1UL, &stat), -1, EINVAL);
    writer_end(&writer);
}

/* Of a mapping in several pieces, each page counts once and only as long as it is mapped. */
static void stat_of_what_is_left(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    writer_writes(&writer, 0, 8 * PAGE, 1);
    CHECK(mprotect(at + 2 * PAGE, 2 * PAGE, PROT_NONE) == 0);
    CHECK(stat_of(at).pages == PAGES && stat_of(at).preserved == 8);
    CHECK(munmap(at + 4 * PAGE, 8 * PAGE) == 0);
    CHECK(stat_of(at).pages == PAGES - 8 && stat_of(at).preserved == 4);
    writer_writes(&writer, 0, SIZE, 2);
    struct snapshim_stat stat = stat_of(at + 20 * PAGE);
    CHECK(stat.pages == PAGES - 8 && stat.preserved == PAGES - 8);
    CHECK(stat.bytes_held >= stat.preserved * PAGE);
    CHECK_ERRNO(snapshim_stat(at + 5 * PAGE, &stat), -1, EINVAL);
    CHECK(mprotect(at + 2 * PAGE, 2 * PAGE, protection) == 0);
    CHECK(shows(at, 0, 4 * PAGE, 0) && shows(at + 12 * PAGE, 12 * PAGE, 20 * PAGE, 0));
    writer_end(&writer);
}

static const struct scenario scenarios[] = {
    EACH(many_moments_of_overlapping_ranges),
    EACH(many_mappers_of_one_file),
    EACH(own_stores_stay_private_and_survive_pushes),
    EACH(a_read_into_the_snapshot_survives),
    EACH(stat_counts_pages_once),
    EACH(stat_of_what_is_left),
};
MAIN(scenarios)

/* madvise(2) on a snapshot never brings newer bytes in. */
#include "check.h"

#define PAGES ((size_t)16)
#define SIZE (PAGES * PAGE)

#ifndef MADV_COLD
#define MADV_COLD 20
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#define GUARD_INSTALL 102
#define GUARD_REMOVE 103

/* Pages 0 to 7 are preserved, 8 to 15 are not; a writable snapshot has stores of its own in 2 and 12. */
static void dontneed_keeps_what_is_preserved(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    unsigned char own = stamp(2, 0), dropped = stamp(12, 0);
    if (protection & PROT_WRITE)
        at[2 * PAGE + 7] = own = 0xfe, at[12 * PAGE + 7] = 0xfd;
    writer_writes(&writer, 0, 8 * PAGE, 1);
    for (int turn = 0; turn < 2; turn++) {
        CHECK(madvise(at, SIZE, MADV_DONTNEED) == 0);
        CHECK(at[2 * PAGE + 7] == own);
        CHECK(shows(at, 0, 2 * PAGE + 7, 0));
        CHECK(shows(at + 2 * PAGE + 8, 2 * PAGE + 8, SIZE - 2 * PAGE - 8, 0));
        CHECK(at[12 * PAGE + 7] == dropped);
        writer_writes(&writer, 0, SIZE, 2 + turn);
    }
    CHECK(shows(at + 3 * PAGE, 3 * PAGE, SIZE - 3 * PAGE, 0));
    CHECK(stat_of(at).preserved == PAGES && stat_of(at).state == SNAPSHIM_EXACT);
    writer_end(&writer);
}

static void dontneed_page_by_page(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    for (size_t page = 0; page < PAGES; page += 2)
        writer_writes(&writer, page * PAGE + 11, 5, 1);
    for (size_t page = 0; page < PAGES; page++)
        CHECK(madvise(at + page * PAGE, 1, MADV_DONTNEED) == 0);
    CHECK(shows(at, 0, SIZE, 0));
    writer_writes(&writer, 0, SIZE, 2);
    for (size_t page = 0; page < PAGES; page++)
        CHECK(madvise(at + page * PAGE, PAGE, MADV_DONTNEED) == 0);
    CHECK(shows(at, 0, SIZE, 0));
    CHECK_ERRNO(madvise(at + 1, PAGE, MADV_DONTNEED), -1, EINVAL);
    writer_end(&writer);
}

static void dontneed_keeps_the_end(int protection, enum who who)
{
    const size_t size = 2 * PAGE + 300;
    int fd = make_file("file", size);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, 6 * PAGE, protection);
    writer_after(&writer);
    CHECK(madvise(at, 6 * PAGE, MADV_DONTNEED) == 0);
    writer_writes(&writer, size, 3 * PAGE, 1);
    CHECK(madvise(at, 6 * PAGE, MADV_DONTNEED) == 0);
    CHECK(shows(at, 0, size, 0));
    for (size_t i = size; i < 3 * PAGE; i++)
        CHECK(at[i] == 0);
    CHECK(fault_of_reading(at + 3 * PAGE) == SIGBUS);
    writer_end(&writer);
}

static void dontneed_of_the_neighbours(int protection, enum who who)
{
    int fd = make_file("file", 4 * PAGE);
    struct writer writer = writer_before(who, "file");
    unsigned char *plain = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(plain, 0xab, 8 * PAGE);
    unsigned char *at = mmap(plain + 2 * PAGE, 4 * PAGE, protection, MAP_PRIVATE | MAP_SNAPSHOT | MAP_FIXED, fd, 0);
    CHECK(at == plain + 2 * PAGE);
    writer_after(&writer);
    writer_writes(&writer, 0, 2 * PAGE, 1);
    CHECK(madvise(plain + PAGE, 6 * PAGE, MADV_DONTNEED) == 0);
    CHECK(plain[0] == 0xab && plain[PAGE] == 0 && plain[6 * PAGE] == 0 && plain[7 * PAGE] == 0xab);
    writer_writes(&writer, 0, 4 * PAGE, 2);
    CHECK(madvise(plain + PAGE, 6 * PAGE, MADV_DONTNEED) == 0);
    CHECK(shows(at, 0, 4 * PAGE, 0));
    writer_end(&writer);
}

static void what_would_lose_pages_is_refused(int protection, enum who who)
{
    static const int advices[] = {MADV_FREE, MADV_REMOVE, MADV_WIPEONFORK, GUARD_INSTALL};
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    for (int version = 1; version < 3; version++) {
        for (size_t i = 0; i < sizeof advices / sizeof advices[0]; i++) {
            CHECK(madvise(at, SIZE, advices[i]) == -1);
            CHECK(madvise(at + 3 * PAGE, 2 * PAGE, advices[i]) == -1);
            CHECK(shows(at, 0, SIZE, 0));
        }
        writer_writes(&writer, 0, (size_t)version * SIZE / 2, version);
        CHECK(shows(at, 0, SIZE, 0));
    }
    CHECK(stat_of(at).state == SNAPSHIM_EXACT);
    writer_end(&writer);
}

static void other_advice_changes_no_byte(int protection, enum who who)
{
    static const int advices[] = {MADV_COLD,       MADV_PAGEOUT,  MADV_WILLNEED,  MADV_SEQUENTIAL,    MADV_RANDOM,
                                  MADV_HUGEPAGE,   MADV_NORMAL,   MADV_MERGEABLE, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
                                  MADV_UNMERGEABLE, MADV_DONTDUMP, MADV_DODUMP,    GUARD_REMOVE};
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    for (int version = 1; version < 4; version++) {
        for (size_t i = 0; i < sizeof advices / sizeof advices[0]; i++) {
            (void)madvise(at + PAGE, SIZE - 2 * PAGE, advices[i]);
            if (version == 1)
                writer_writes(&writer, i * PAGE + 20, 3, 1);
            CHECK(shows(at, 0, SIZE, 0));
        }
        writer_writes(&writer, 0, SIZE, version);
        CHECK(shows(at, 0, SIZE, 0));
    }
    writer_end(&writer);
}

/* The file changes all the time while the mapper drops pages: what was there is there again. */
static void dontneed_while_a_process_writes(int protection, enum who who)
{
    (void)protection, (void)who;
    int fd = make_file("file", 4 * SIZE);
    struct storm storm = storm_begin(fd, 4 * SIZE, NULL);
    unsigned char *copy = malloc(4 * SIZE);
    for (int round = 0; round < 100; round++) {
        unsigned char *at = snapshot(fd, 0, 4 * SIZE, round % 2 ? PROT_READ : PROT_READ | PROT_WRITE);
        memcpy(copy, at, 4 * SIZE);
        for (size_t turn = 0; turn < 20; turn++) {
            size_t first = (turn * 37 + (size_t)round * 11) % (4 * PAGES - 8);
            CHECK(madvise(at + first * PAGE, 8 * PAGE, MADV_DONTNEED) == 0);
            CHECK(memcmp(at, copy, 4 * SIZE) == 0);
        }
        CHECK(munmap(at, 4 * SIZE) == 0);
    }
    storm_end(&storm);
}

static const struct scenario scenarios[] = {
    EACH(dontneed_keeps_what_is_preserved),
    EACH(dontneed_page_by_page),
    EACH(dontneed_keeps_the_end),
    EACH(dontneed_of_the_neighbours),
    EACH(what_would_lose_pages_is_refused),
    EACH(other_advice_changes_no_byte),
    ONCE(dontneed_while_a_process_writes),
};
MAIN(scenarios)

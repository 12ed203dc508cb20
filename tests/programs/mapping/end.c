/* The end of the file: what lies behind it never becomes readable, whatever is appended. */
#include "check.h"

#define SIZE (2 * PAGE + 2000)

static int is_zero(const unsigned char *at, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (at[i])
            return 0;
    return 1;
}

static void check_end(const unsigned char *at)
{
    CHECK(shows(at, 0, SIZE, 0));
    CHECK(is_zero(at + SIZE, 3 * PAGE - SIZE));
    for (size_t page = 3; page < 8; page++)
        CHECK(fault_of_reading(at + page * PAGE) == SIGBUS);
}

static void appended_pages_stay_sigbus_and_the_tail_zero(int protection, enum who who)
{
    make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    int fd = open("file", O_RDONLY);
    unsigned char *at = snapshot(fd, 0, 8 * PAGE, protection);
    writer_after(&writer);
    check_end(at);
    writer_writes(&writer, SIZE, 10, 1);
    check_end(at);
    writer_writes(&writer, SIZE + 10, 8 * PAGE - SIZE, 1);
    check_end(at);
    writer_writes(&writer, 0, 8 * PAGE, 2);
    check_end(at);
    CHECK(mprotect(at, 8 * PAGE, PROT_NONE) == 0 && mprotect(at, 8 * PAGE, PROT_READ | PROT_WRITE) == 0);
    check_end(at);
    struct snapshim_stat stat = stat_of(at);
    CHECK(stat.size == SIZE && stat.pages == 3 && stat.state == SNAPSHIM_EXACT);

    unsigned char *newer = snapshot(fd, 0, 8 * PAGE, protection);
    CHECK(shows(newer, 0, 8 * PAGE, 2));
    writer_writes(&writer, 0, 8 * PAGE, 3);
    CHECK(shows(newer, 0, 8 * PAGE, 2));
    check_end(at);
    writer_end(&writer);
}

static void bytes_that_a_shared_mapping_put_behind_the_end_are_not_seen(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    unsigned char *shared = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(shared != MAP_FAILED);
    memset(shared + SIZE, 0xee, 3 * PAGE - SIZE);
    unsigned char *plain = mmap(NULL, 3 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(plain[SIZE] == 0xee);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, 8 * PAGE, protection);
    unsigned char *tail = snapshot(fd, 2 * PAGE, PAGE, protection);
    writer_after(&writer);
    check_end(at);
    memset(shared + SIZE, 0xdd, 3 * PAGE - SIZE);
    check_end(at);
    writer_writes(&writer, SIZE, 3 * PAGE, 1);
    check_end(at);
    CHECK(shows(tail, 2 * PAGE, 2000, 0) && is_zero(tail + 2000, PAGE - 2000));
    writer_end(&writer);
}

static void a_range_wholly_past_the_end_is_sigbus_for_ever(int protection, enum who who)
{
    int fd = make_file("file", 2 * PAGE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 2 * PAGE, 3 * PAGE, protection);
    unsigned char *far = snapshot(fd, 100 * PAGE, PAGE, protection);
    writer_after(&writer);
    writer_writes(&writer, 0, 5 * PAGE, 1);
    writer_writes(&writer, 100 * PAGE, PAGE, 1);
    for (size_t page = 0; page < 3; page++)
        CHECK(fault_of_reading(at + page * PAGE) == SIGBUS);
    CHECK(fault_of_reading(far) == SIGBUS);
    CHECK(stat_of(at).pages == 0 && stat_of(at).size == 2 * PAGE);
    CHECK(munmap(at, 3 * PAGE) == 0);
    CHECK(fault_of_reading(at) == SIGSEGV);
    writer_end(&writer);
}

static void an_empty_file_stays_sigbus(int protection, enum who who)
{
    int fd = make_file("file", 0);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, 2 * PAGE, protection);
    writer_after(&writer);
    CHECK(fault_of_reading(at) == SIGBUS);
    writer_writes(&writer, 0, 2 * PAGE, 1);
    CHECK(fault_of_reading(at) == SIGBUS && fault_of_reading(at + PAGE) == SIGBUS);
    CHECK(stat_of(at).pages == 0 && stat_of(at).size == 0);
    unsigned char *newer = snapshot(fd, 0, 2 * PAGE, protection);
    CHECK(shows(newer, 0, 2 * PAGE, 1));
    writer_end(&writer);
}

static void an_end_on_a_page_boundary_is_kept(int protection, enum who who)
{
    int fd = make_file("file", 3 * PAGE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, 3 * PAGE + 1, protection);
    writer_after(&writer);
    writer_writes(&writer, 3 * PAGE - 1, 2, 1);
    writer_writes(&writer, 0, 4 * PAGE, 1);
    CHECK(shows(at, 0, 3 * PAGE, 0));
    CHECK(fault_of_reading(at + 3 * PAGE) == SIGBUS);
    writer_end(&writer);
}

static void an_offset_shows_its_own_part(int protection, enum who who)
{
    int fd = make_file("file", 12 * PAGE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 3 * PAGE, 4 * PAGE, protection);
    unsigned char *odd = snapshot(fd, 5 * PAGE, PAGE + 1, protection);
    writer_after(&writer);
    writer_writes(&writer, 0, 3 * PAGE, 1);
    writer_writes(&writer, 7 * PAGE, 5 * PAGE, 1);
    CHECK(stat_of(at).preserved == 0 && stat_of(odd).preserved == 0);
    CHECK(stat_of(at).pages == 4 && stat_of(odd).pages == 2);
    writer_writes(&writer, 6 * PAGE - 100, 200, 1);
    writer_writes(&writer, 3 * PAGE - 1, 2, 1);
    CHECK(stat_of(at).preserved == 3 && stat_of(odd).preserved == 2);
    writer_writes(&writer, 0, 12 * PAGE, 2);
    CHECK(shows(at, 3 * PAGE, 4 * PAGE, 0));
    CHECK(shows(odd, 5 * PAGE, 2 * PAGE, 0));
    writer_end(&writer);
}

static void holes_of_a_sparse_file_stay_zero(int protection, enum who who)
{
    int fd = make_file("file", PAGE);
    CHECK(ftruncate(fd, (off_t)1 << 40) == 0);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = mmap(NULL, (size_t)1 << 40, protection, MAP_PRIVATE | MAP_SNAPSHOT | MAP_NORESERVE, fd, 0);
    CHECK(at != MAP_FAILED);
    writer_after(&writer);
    static const size_t places[] = {0, 1, 2, 700, 1 << 14, 1 << 15, (1 << 24) + 3, (1 << 28) - 1};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        writer_writes(&writer, places[i] * PAGE, PAGE, 1);
    CHECK(shows(at, 0, PAGE, 0));
    for (size_t i = 1; i < sizeof places / sizeof places[0]; i++)
        CHECK(is_zero(at + places[i] * PAGE, PAGE));
    CHECK(stat_of(at).preserved == sizeof places / sizeof places[0]);
    writer_end(&writer);
}

/* A part of a snapshot that lies wholly past the end of the file lacks nothing where the file ends before it. */
static void what_lies_past_the_end_raises_no_doubt(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, 12 * PAGE, protection), *far = snapshot(fd, 100 * PAGE, 2 * PAGE, protection);
    writer_after(&writer);
    CHECK(stat_of(at).state == SNAPSHIM_EXACT && stat_of(far).state == SNAPSHIM_EXACT);
    CHECK(mprotect(at + 5 * PAGE, 2 * PAGE, PROT_NONE) == 0 && mprotect(at + 2 * PAGE, 2 * PAGE, PROT_NONE) == 0);
    CHECK(munmap(at + 9 * PAGE, PAGE) == 0);
    CHECK(stat_of(at).state == SNAPSHIM_EXACT && stat_of(at).pages == 3);
    writer_writes(&writer, 0, PAGE, 1);
    CHECK(stat_of(at).state == SNAPSHIM_EXACT && stat_of(far).state == SNAPSHIM_EXACT);
    CHECK(ftruncate(fd, 100) == 0);
    CHECK(stat_of(at).state == SNAPSHIM_EXACT && stat_of(far).state == SNAPSHIM_EXACT);
    CHECK(mprotect(at, 3 * PAGE, PROT_READ) == 0 && shows(at, 0, SIZE, 0));
    for (size_t page = 3; page < 12; page++)
        CHECK(page == 9 || mprotect(at + page * PAGE, PAGE, PROT_READ) == 0);
    CHECK(fault_of_reading(at + 3 * PAGE) == SIGBUS && fault_of_reading(at + 11 * PAGE) == SIGBUS);
    writer_end(&writer);
}

/* A terabyte past the end needs no memory, and giving a part of it up changes nothing. */
static void a_long_range_past_the_end_costs_nothing(int protection, enum who who)
{
    int fd = make_file("file", PAGE);
    struct writer writer = writer_before(who, "file");
    size_t length = (size_t)1 << 40;
    unsigned char *at = mmap(NULL, length, protection, MAP_PRIVATE | MAP_SNAPSHOT | MAP_NORESERVE, fd, 0);
    CHECK(at != MAP_FAILED);
    writer_after(&writer);
    writer_writes(&writer, 0, 3 * PAGE, 1);
    CHECK(shows(at, 0, PAGE, 0));
    CHECK(fault_of_reading(at + PAGE) == SIGBUS && fault_of_reading(at + length - 1) == SIGBUS);
    CHECK(munmap(at + PAGE, length / 2) == 0);
    CHECK(shows(at, 0, PAGE, 0) && fault_of_reading(at + length - 1) == SIGBUS);
    writer_end(&writer);
}

static const struct scenario scenarios[] = {
    EACH(appended_pages_stay_sigbus_and_the_tail_zero),
    EACH(bytes_that_a_shared_mapping_put_behind_the_end_are_not_seen),
    EACH(a_range_wholly_past_the_end_is_sigbus_for_ever),
    EACH(an_empty_file_stays_sigbus),
    EACH(an_end_on_a_page_boundary_is_kept),
    EACH(an_offset_shows_its_own_part),
    EACH(holes_of_a_sparse_file_stay_zero),
    EACH(what_lies_past_the_end_raises_no_doubt),
    EACH(a_long_range_past_the_end_costs_nothing),
};
MAIN(scenarios)

/* The mapper changes its own mapping: munmap, mremap, MAP_FIXED over it, mprotect. What is left stays exact. */
#include "check.h"

#include <sched.h>

#define PAGES ((size_t)16)
#define SIZE (PAGES * PAGE)

/* Puts memory of our own at `place`, where nothing may be, so that a push that goes astray shows. */
static unsigned char *bait(unsigned char *place, size_t pages)
{
    unsigned char *at = mmap(place, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(at == place);
    memset(at, 0xb7, pages * PAGE);
    return at;
}

static int is_bait(const unsigned char *at, size_t pages)
{
    for (size_t i = 0; i < pages * PAGE; i++)
        if (at[i] != 0xb7)
            return 0;
    return 1;
}

static void munmap_of_parts(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    writer_writes(&writer, PAGE, PAGE, 1);
    writer_writes(&writer, 6 * PAGE + 9, 10, 1);
    CHECK(munmap(at, 2 * PAGE) == 0);
    CHECK(munmap(at + 7 * PAGE, 2 * PAGE - 100) == 0);
    CHECK(munmap(at + 14 * PAGE, 2 * PAGE) == 0);
    bait(at, 2), bait(at + 7 * PAGE, 2), bait(at + 14 * PAGE, 2);
    CHECK(stat_of(at + 2 * PAGE).pages == 10);
    writer_writes(&writer, 0, SIZE, 2);
    CHECK(shows(at + 2 * PAGE, 2 * PAGE, 5 * PAGE, 0));
    CHECK(shows(at + 9 * PAGE, 9 * PAGE, 5 * PAGE, 0));
    CHECK(is_bait(at, 2) && is_bait(at + 7 * PAGE, 2) && is_bait(at + 14 * PAGE, 2));
    CHECK(munmap(at, SIZE) == 0);
    CHECK_ERRNO(snapshim_stat(at + 2 * PAGE, &(struct snapshim_stat){0}), -1, EINVAL);
    bait(at, PAGES);
    writer_writes(&writer, 0, SIZE, 3);
    CHECK(is_bait(at, PAGES));
    writer_end(&writer);
}

static void munmap_over_several_snapshots(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *place = free_range(32 * PAGE);
    int flags = MAP_PRIVATE | MAP_SNAPSHOT | MAP_FIXED;
    CHECK(mmap(place, 8 * PAGE, protection, flags, fd, 0) == place);
    writer_after(&writer);
    writer_writes(&writer, 0, SIZE, 1);
    CHECK(mmap(place + 8 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE, flags, fd, 3 * (off_t)PAGE) == place + 8 * PAGE);
    bait(place + 12 * PAGE, 2);
    writer_writes(&writer, 0, 5 * PAGE, 2);
    CHECK(mmap(place + 16 * PAGE, 8 * PAGE, protection, flags, fd, 2 * (off_t)PAGE) == place + 16 * PAGE);
    CHECK(munmap(place + 5 * PAGE, 14 * PAGE) == 0);
    bait(place + 5 * PAGE, 14);
    writer_writes(&writer, 0, SIZE, 3);
    CHECK(shows(place, 0, 5 * PAGE, 0));
    CHECK(is_bait(place + 5 * PAGE, 14));
    CHECK(shows(place + 19 * PAGE, 5 * PAGE, 5 * PAGE, 1));
    CHECK(stat_of(place).pages == 5 && stat_of(place + 19 * PAGE).pages == 5);
    writer_end(&writer);
}

static void mremap_shrinks(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    writer_writes(&writer, 3 * PAGE, 6 * PAGE, 1);
    CHECK(mremap(at, SIZE, 10 * PAGE, 0) == at);
    CHECK(mremap(at, 10 * PAGE, 7 * PAGE - 5, MREMAP_MAYMOVE) == at);
    bait(at + 7 * PAGE, 9);
    writer_writes(&writer, 0, SIZE, 2);
    CHECK(shows(at, 0, 7 * PAGE, 0));
    CHECK(is_bait(at + 7 * PAGE, 9));
    CHECK(stat_of(at).pages == 7);
    writer_end(&writer);
}

static void mremap_never_grows(int protection, enum who who)
{
    int fd = make_file("file", 2 * SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    unsigned char *to = free_range(2 * SIZE);
    CHECK_ERRNO(mremap(at, SIZE, SIZE + PAGE, 0), MAP_FAILED, EINVAL);
    CHECK_ERRNO(mremap(at, SIZE, 2 * SIZE, MREMAP_MAYMOVE), MAP_FAILED, EINVAL);
    CHECK_ERRNO(mremap(at, SIZE, 2 * SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to), MAP_FAILED, EINVAL);
    CHECK_ERRNO(mremap(at, PAGE, 2 * PAGE, MREMAP_MAYMOVE), MAP_FAILED, EINVAL);
    CHECK_ERRNO(mremap(at, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP), MAP_FAILED, EINVAL);
    CHECK_ERRNO(mremap(at, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP | MREMAP_FIXED, to), MAP_FAILED, EINVAL);
    CHECK_ERRNO(mremap(at, SIZE, 0, MREMAP_MAYMOVE), MAP_FAILED, EINVAL);
    CHECK_ERRNO(mremap(at, 0, SIZE, MREMAP_MAYMOVE), MAP_FAILED, EINVAL);
    CHECK_ERRNO(mremap(at, SIZE, SIZE, MREMAP_FIXED, to), MAP_FAILED, EINVAL);
    CHECK_ERRNO(mremap(at, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, at + PAGE), MAP_FAILED, EINVAL);
    CHECK_ERRNO(mremap(at, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to + 1), MAP_FAILED, EINVAL);
    CHECK(fault_of_reading(to) == SIGSEGV);
    writer_writes(&writer, 0, SIZE, 1);
    CHECK(shows(at, 0, SIZE, 0));
    CHECK(stat_of(at).pages == PAGES);
    writer_end(&writer);
}

static void mremap_moves_all_of_it(int protection, enum who who)
{
    const size_t size = SIZE - 1000, mapped = SIZE + 2 * PAGE;
    int fd = make_file("file", size);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, mapped, protection);
    writer_after(&writer);
    for (int round = 1; round < 5; round++) {
        writer_writes(&writer, (size_t)round * 2 * PAGE, 3 * PAGE + 5, round);
        unsigned char *to = free_range(mapped);
        CHECK(mremap(at, mapped, mapped, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
        bait(at, PAGES + 2);
        CHECK(shows(to, 0, size, 0) && to[size] == 0);
        CHECK(fault_of_reading(to + SIZE) == SIGBUS);
        writer_writes(&writer, (size_t)round * PAGE, 3 * PAGE, round);
        CHECK(shows(to, 0, size, 0));
        CHECK(is_bait(at, PAGES + 2));
        at = to;
    }
    writer_writes(&writer, 0, mapped, 9);
    CHECK(shows(at, 0, size, 0) && at[size] == 0 && at[SIZE - 1] == 0);
    CHECK(fault_of_reading(at + SIZE) == SIGBUS && fault_of_reading(at + SIZE + PAGE) == SIGBUS);
    CHECK(stat_of(at).pages == PAGES && stat_of(at).state == SNAPSHIM_EXACT);
    writer_end(&writer);
}

static void mremap_moves_a_part(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    if (protection & PROT_WRITE)
        at[5 * PAGE + 1] = 0xfe;
    writer_writes(&writer, 4 * PAGE, 3 * PAGE, 1);
    unsigned char *to = free_range(6 * PAGE);
    CHECK(mremap(at + 5 * PAGE, 6 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
    bait(at + 5 * PAGE, 6);
    writer_writes(&writer, 0, SIZE, 2);
    CHECK(shows(at, 0, 5 * PAGE, 0));
    CHECK(shows(at + 11 * PAGE, 11 * PAGE, 5 * PAGE, 0));
    CHECK(is_bait(at + 5 * PAGE, 6));
    if (protection & PROT_WRITE) {
        CHECK(to[1] == 0xfe);
        to[1] = stamp(5, 0);
    }
    CHECK(shows(to, 5 * PAGE, 4 * PAGE, 0));
    CHECK(stat_of(at).pages == 14 && stat_of(to).pages == 14);
    writer_end(&writer);
}

/* Neither the truncation, which is not the mapper's doing, nor a change of protection makes several mappings of it for mremap. */
static void mremap_moves_and_shrinks_what_was_divided(int protection, enum who who)
{
    const size_t size = SIZE - 1000;
    int fd = make_file("file", size);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    CHECK(ftruncate(fd, 9 * PAGE + 5) == 0);
    CHECK(mprotect(at + 3 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE) == 0);
    writer_writes(&writer, PAGE, PAGE, 1);
    unsigned char *to = free_range(SIZE);
    CHECK(mremap(at, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
    bait(at, PAGES);
    CHECK(shows(to, 0, size, 0) && to[size] == 0 && stat_of(to).pages == PAGES);
    writer_writes(&writer, 0, SIZE, 2);
    CHECK(shows(to, 0, size, 0) && is_bait(at, PAGES));
    CHECK(mremap(to, SIZE, 2 * PAGE, MREMAP_MAYMOVE) == to);
    bait(to + 2 * PAGE, PAGES - 2);
    writer_writes(&writer, 0, SIZE, 3);
    CHECK(shows(to, 0, 2 * PAGE, 0) && is_bait(to + 2 * PAGE, PAGES - 2) && stat_of(to).state == SNAPSHIM_EXACT);
    writer_end(&writer);
}

static void mremap_onto_a_snapshot(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *old = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    writer_writes(&writer, 0, SIZE / 2, 1);
    unsigned char *new = snapshot(fd, 0, 4 * PAGE, protection);
    CHECK(mremap(new, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, old + 2 * PAGE) == old + 2 * PAGE);
    unsigned char *plain = bait(free_range(2 * PAGE), 2);
    CHECK(mremap(plain, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, old + 10 * PAGE) == old + 10 * PAGE);
    writer_writes(&writer, 0, SIZE, 2);
    CHECK(shows(old, 0, 2 * PAGE, 0));
    CHECK(shows(old + 2 * PAGE, 0, 4 * PAGE, 1));
    CHECK(shows(old + 6 * PAGE, 6 * PAGE, 4 * PAGE, 0));
    CHECK(is_bait(old + 10 * PAGE, 2));
    CHECK(shows(old + 12 * PAGE, 12 * PAGE, 4 * PAGE, 0));
    CHECK(stat_of(old).pages == 10 && stat_of(old + 2 * PAGE).pages == 4);
    writer_end(&writer);
}

static void plain_memory_mapped_over_it(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    unsigned char *all = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    writer_writes(&writer, 5 * PAGE, 2 * PAGE, 1);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, access = PROT_READ | PROT_WRITE;
    CHECK(mmap(at + 6 * PAGE, 3 * PAGE, access, flags, -1, 0) == at + 6 * PAGE);
    CHECK(mmap(all, SIZE, access, flags, -1, 0) == all);
    /* Another mapping of the same file is plain as well: it has to show what is written. */
    CHECK(mmap(at + 12 * PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 12 * (off_t)PAGE) == at + 12 * PAGE);
    memset(at + 6 * PAGE, 0xb7, 3 * PAGE);
    memset(all, 0xb7, SIZE);
    writer_writes(&writer, 0, SIZE, 2);
    CHECK(shows(at, 0, 6 * PAGE, 0));
    CHECK(is_bait(at + 6 * PAGE, 3) && is_bait(all, PAGES));
    CHECK(shows(at + 9 * PAGE, 9 * PAGE, 3 * PAGE, 0));
    CHECK(shows(at + 12 * PAGE, 12 * PAGE, PAGE, 2));
    CHECK(shows(at + 13 * PAGE, 13 * PAGE, 3 * PAGE, 0));
    CHECK_ERRNO(snapshim_stat(all, &(struct snapshim_stat){0}), -1, EINVAL);
    writer_end(&writer);
}

/* How often the storm has overwritten all. */
static _Atomic int *turns;

static struct storm start_storm(int fd, size_t pages)
{
    turns = shared_page();
    return storm_begin(fd, pages * PAGE, turns);
}

/* By the end of a whole turn of it, every page has another content. */
static void await_turn(void)
{
    for (int begun = *turns; *turns < begun + 2;)
        sched_yield();
}

/* The storm writes the pages in order: what an instant shows is one version up to some page, and the one before from there on. */
static void check_cut(const unsigned char *at, size_t pages)
{
    int steps = 0;
    for (size_t page = 0; page < pages; page++) {
        for (size_t i = 1; i < PAGE; i++)
            CHECK(at[page * PAGE + i] == at[page * PAGE]);
        int behind = page > 0 && (at[page * PAGE] + 255 - at[(page - 1) * PAGE]) % 255 != 7;
        steps += behind;
    }
    CHECK(steps <= 1);
}

static unsigned random_state = 12345;

static size_t random_below(size_t limit)
{
    random_state = random_state * 1103515245 + 12345;
    return (random_state >> 8) % limit;
}

/* The mapper's own stores, made while it may store, are never lost to a push, and no push is to the change of protection. */
static void mprotect_both_ways_while_a_process_writes(int protection, enum who who)
{
    (void)protection, (void)who;
    enum { MANY = 48, ROUNDS = 60 };
    int fd = make_file("file", MANY * PAGE);
    struct storm storm = start_storm(fd, MANY);
    unsigned char *copy = malloc(MANY * PAGE);
    for (int round = 0; round < ROUNDS; round++) {
        unsigned char *at = snapshot(fd, 0, MANY * PAGE, round % 2 ? PROT_READ : PROT_READ | PROT_WRITE);
        memcpy(copy, at, MANY * PAGE);
        check_cut(copy, MANY);
        for (int turn = 0; turn < 60; turn++) {
            size_t first = random_below(MANY), pages = 1 + random_below(MANY - first);
            CHECK(mprotect(at + first * PAGE, pages * PAGE, PROT_READ | PROT_WRITE) == 0);
            for (size_t page = first; page < first + pages; page++) {
                size_t byte = page * PAGE + random_below(PAGE);
                at[byte] = copy[byte] = (unsigned char)(turn + 1);
            }
            CHECK(mprotect(at + first * PAGE, pages * PAGE, turn % 3 ? PROT_READ : PROT_NONE) == 0);
        }
        if (round % 10 == 0)
            await_turn();
        CHECK(mprotect(at, MANY * PAGE, PROT_READ) == 0);
        CHECK(memcmp(at, copy, MANY * PAGE) == 0);
        CHECK(stat_of(at).state == SNAPSHIM_EXACT);
        CHECK(munmap(at, MANY * PAGE) == 0);
    }
    storm_end(&storm);
}

/* Moved, cut and shrunk while another process pushes: every page that is left is still the one that was there. */
static void mremap_and_munmap_while_a_process_writes(int protection, enum who who)
{
    (void)protection, (void)who;
    enum { MANY = 48, ROUNDS = 60 };
    int fd = make_file("file", MANY * PAGE);
    struct storm storm = start_storm(fd, MANY);
    unsigned char *copy = malloc(MANY * PAGE);
    for (int round = 0; round < ROUNDS; round++) {
        unsigned char *at = snapshot(fd, 0, MANY * PAGE, round % 2 ? PROT_READ : PROT_READ | PROT_WRITE);
        memcpy(copy, at, MANY * PAGE);
        unsigned char *to = free_range(MANY * PAGE);
        CHECK(mremap(at, MANY * PAGE, MANY * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
        size_t first = 1 + random_below(MANY - 2), pages = 1 + random_below(MANY - first - 1);
        CHECK(mremap(to + first * PAGE, pages * PAGE, pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at) == at);
        bait(to + first * PAGE, pages);
        size_t behind = first + pages;
        CHECK(memcmp(to, copy, first * PAGE) == 0);
        CHECK(memcmp(at, copy + first * PAGE, pages * PAGE) == 0);
        CHECK(memcmp(to + behind * PAGE, copy + behind * PAGE, (MANY - behind) * PAGE) == 0);
        CHECK(munmap(to, PAGE) == 0);
        bait(to, 1);
        if (round % 10 == 0)
            await_turn();
        CHECK(mremap(at, pages * PAGE, pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to + first * PAGE) == to + first * PAGE);
        CHECK(memcmp(to + PAGE, copy + PAGE, (MANY - 1) * PAGE) == 0);
        CHECK(is_bait(to, 1));
        CHECK(munmap(to, MANY * PAGE) == 0);
    }
    storm_end(&storm);
}

static const struct scenario scenarios[] = {
    EACH(munmap_of_parts),
    EACH(munmap_over_several_snapshots),
    EACH(mremap_shrinks),
    EACH(mremap_never_grows),
    EACH(mremap_moves_all_of_it),
    EACH(mremap_moves_a_part),
    EACH(mremap_moves_and_shrinks_what_was_divided),
    EACH(mremap_onto_a_snapshot),
    EACH(plain_memory_mapped_over_it),
    ONCE(mprotect_both_ways_while_a_process_writes),
    ONCE(mremap_and_munmap_while_a_process_writes),
};
MAIN(scenarios)

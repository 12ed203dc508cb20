/* The calls by which a program makes, changes and removes shared mappings, each as natively, whichever process holds snapshots of the
 * file. */
#include "sharing.h"

static void every_protection(void)
{
    moment();
    for (int protection = 0; protection < 8; protection++) {
        if ((protection & PROT_EXEC) && mprotect(arena, PAGE, PROT_NONE | PROT_EXEC) != 0)
            continue;
        unsigned char *at = mmap(NULL, SIZE, protection, MAP_SHARED, file, 0);
        printf("protection %d: %s\n", protection, at == MAP_FAILED ? strerror(errno) : "mapped");
        if (at == MAP_FAILED)
            continue;
        SAY_ACCESS(at + 5);
        if (protection == 3)
            moment();
        SAY_ACCESS(at + 3 * PAGE + 7);
        SAY(munmap(at, SIZE));
    }
}

/* On x86 what may be stored into can be read as well. */
static void a_mapping_only_to_store_into_can_be_read(void)
{
    unsigned char *at = SAY_PLACE(map_at(0, PAGES, PROT_WRITE, 0));
    moment();
    for (int round = 0; round < 2; round++) {
        printf("%d\n", at[2 * PAGE]);
        STORE(at + 3, 50 + round);
        SAY(mprotect(at, SIZE, round ? PROT_WRITE : PROT_WRITE | PROT_EXEC));
        printf("%d\n", at[5 * PAGE]);
        STORE(at + 4 * PAGE + 3, 60 + round);
        moment();
        printf("%d\n", at[7 * PAGE]);
    }
}

static void a_descriptor_that_may_not_write(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    int reader = open(path, O_RDONLY), writer = open(path, O_WRONLY);
    CHECK(reader >= 0 && writer >= 0);
    for (int round = 0; round < 2; round++) {
        SAY_PLACE(mmap(NULL, SIZE, RW, MAP_SHARED, reader, 0));
        SAY_PLACE(mmap(NULL, SIZE, PROT_WRITE, MAP_SHARED, writer, 0));
        SAY_PLACE(mmap(NULL, SIZE, PROT_READ, MAP_SHARED, writer, 0));
        SAY_PLACE(mmap(arena, PAGE, RW, MAP_SHARED | MAP_FIXED, reader, 0));
        unsigned char *at = SAY_PLACE(mmap(NULL, SIZE, PROT_READ, MAP_SHARED, reader, 0));
        SAY(mprotect(at, SIZE, RW));
        SAY(mprotect(at + PAGE, PAGE, PROT_WRITE));
        SAY_ACCESS(at + PAGE);
        SAY(munmap(at, SIZE));
        moment();
    }
    /* One that may, in between: what comes before it is changed, what comes behind is not. */
    CHECK(map_at(2, 2, PROT_READ, 0) != MAP_FAILED);
    CHECK(mmap(arena + 4 * PAGE, 2 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, reader, 4 * (off_t)PAGE) != MAP_FAILED);
    CHECK(map_at(6, 2, PROT_READ, 8) != MAP_FAILED);
    SAY(mprotect(arena + 2 * PAGE, 6 * PAGE, RW));
    for (size_t page = 2; page < 8; page += 2)
        SAY_ACCESS(arena + page * PAGE);
}

static void mprotect_of_parts(void)
{
    unsigned char *at = map_at(0, PAGES, RW, 0);
    CHECK(at != MAP_FAILED);
    moment();
    STORE(at, 1);
    SAY(mprotect(at + 2 * PAGE, 3 * PAGE, PROT_READ));
    SAY_ACCESS(at + 2 * PAGE);
    SAY_ACCESS(at + 5 * PAGE);
    moment();
    SAY(mprotect(at + PAGE, 2 * PAGE, RW));
    SAY_ACCESS(at + PAGE);
    SAY_ACCESS(at + 2 * PAGE);
    SAY_ACCESS(at + 3 * PAGE);
    SAY(mprotect(at + 4 * PAGE, 4 * PAGE, PROT_NONE));
    moment();
    SAY_ACCESS(at + 4 * PAGE);
    SAY(mprotect(at, SIZE, RW));
    SAY(mprotect(at, SIZE - 9, RW));
    for (size_t page = 0; page < PAGES; page++)
        STORE(at + page * PAGE + 9, 100 + page);
    moment();
    for (size_t page = 0; page < PAGES; page += 3)
        STORE(at + page * PAGE + 9, 150 + page);
}

static void mprotect_over_mappings_and_gaps(void)
{
    CHECK(map_at(1, 3, RW, 0) != MAP_FAILED);
    CHECK(map_at(4, 2, PROT_READ, 10) != MAP_FAILED);
    CHECK(map_at(9, 3, RW, 5) != MAP_FAILED);
    CHECK(mmap(arena + 6 * PAGE, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
    moment();
    SAY(mprotect(arena, 12 * PAGE, PROT_READ));
    SAY_ACCESS(arena + PAGE);
    SAY_ACCESS(arena + 10 * PAGE);
    SAY(mprotect(arena + 2 * PAGE, 8 * PAGE, RW));
    SAY_ACCESS(arena + 3 * PAGE);
    SAY_ACCESS(arena + 5 * PAGE);
    SAY_ACCESS(arena + 7 * PAGE);
    SAY_ACCESS(arena + 9 * PAGE);
    SAY_ACCESS(arena + 10 * PAGE);
    CHECK(munmap(arena + 7 * PAGE, PAGE) == 0);
    moment();
    SAY(mprotect(arena + 6 * PAGE, 6 * PAGE, PROT_READ));
    SAY_ACCESS(arena + 6 * PAGE);
    SAY_ACCESS(arena + 9 * PAGE);
    SAY(mprotect(arena + 7 * PAGE, 5 * PAGE, RW));
    SAY_ACCESS(arena + 11 * PAGE);
    SAY(mprotect(arena + 4 * PAGE, 2 * PAGE, PROT_NONE));
    SAY_ACCESS(arena + 4 * PAGE);
}

static void mprotect_that_is_refused(void)
{
    unsigned char *at = map_at(1, PAGES, RW, 0);
    CHECK(at != MAP_FAILED);
    for (int round = 0; round < 2; round++) {
        SAY(mprotect(at + 1, PAGE, PROT_READ));
        SAY(mprotect(at + 1, 0, PROT_READ));
        SAY(mprotect(at, 0, PROT_READ));
        SAY(mprotect(at, (size_t)-1, PROT_READ));
        SAY(mprotect(at, PAGE, 0x40));
        SAY(mprotect(at, PAGE, PROT_READ | PROT_GROWSDOWN));
        SAY(mprotect(at, PAGE, RW | PROT_GROWSDOWN | PROT_GROWSUP));
        SAY(munmap(at + 1, PAGE));
        SAY(munmap(at, 0));
        SAY_ACCESS(at);
        moment();
    }
}

static void protection_keys(void)
{
    unsigned char *at = map_at(0, PAGES, PROT_READ, 0);
    CHECK(at != MAP_FAILED);
    moment();
    SAY(pkey_mprotect(at, 2 * PAGE, RW, -1));
    SAY_ACCESS(at);
    SAY_ACCESS(at + 2 * PAGE);
    SAY(pkey_mprotect(at, PAGE, RW, 77));
    SAY(pkey_mprotect(at, 2 * PAGE, PROT_READ, -1));
    SAY_ACCESS(at);
}

static void munmap_of_parts(void)
{
    unsigned char *at = map_at(0, PAGES, RW, 0);
    CHECK(at != MAP_FAILED);
    moment();
    STORE(at + 4 * PAGE, 9);
    SAY(munmap(at + 3 * PAGE, 2 * PAGE - 7));
    SAY_ACCESS(at + 2 * PAGE);
    SAY_ACCESS(at + 3 * PAGE);
    SAY_ACCESS(at + 5 * PAGE);
    moment();
    STORE(at + 2 * PAGE, 10);
    STORE(at + 5 * PAGE, 11);
    SAY(munmap(at + 2 * PAGE, 5 * PAGE));
    SAY(munmap(at, PAGE));
    STORE(at + PAGE, 12);
    STORE(at + 15 * PAGE + 4095, 13);
    SAY(munmap(at, SIZE));
    SAY_ACCESS(at + PAGE);
    /* Something else in its place is none of the file's. */
    CHECK(mmap(at, SIZE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at);
    moment();
    STORE(at + PAGE, 14);
}

static void mapped_over(void)
{
    unsigned char *at = map_at(0, PAGES, RW, 0);
    CHECK(at != MAP_FAILED);
    moment();
    SAY_PLACE(mmap(at + PAGE, 2 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    SAY_PLACE(mmap(at + 5 * PAGE, 2 * PAGE, RW, MAP_PRIVATE | MAP_FIXED, file, 0));
    SAY_PLACE(map_at(9, 3, RW, 1));
    SAY_PLACE(map_at(13, 1, PROT_READ, 13));
    SAY_PLACE(mmap(at + 14 * PAGE, PAGE, RW, MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0));
    SAY_PLACE(mmap(at + 14 * PAGE + 5, PAGE, RW, MAP_SHARED | MAP_FIXED, file, 0));
    SAY_PLACE(mmap(at + 14 * PAGE, PAGE, RW, MAP_SHARED | MAP_FIXED, file, 5));
    SAY_PLACE(mmap(at + 14 * PAGE, (size_t)-1, RW, MAP_SHARED | MAP_FIXED, file, 0));
    SAY_PLACE(mmap(at + 14 * PAGE, 0, RW, MAP_SHARED | MAP_FIXED, file, 0));
    SAY_PLACE(mmap(at + 14 * PAGE, PAGE, RW, MAP_SHARED | MAP_FIXED, -1, 0));
    for (size_t page = 0; page < PAGES; page++)
        SAY_ACCESS(at + page * PAGE);
    moment();
    for (size_t page = 0; page < PAGES; page += 2)
        STORE(at + page * PAGE + 1, 30 + page);
    moment();
    for (size_t page = 0; page < PAGES; page++)
        if (page != 13)
            STORE(at + page * PAGE + 1, 60 + page);
}

/* What a snapshot shows is none of a failed call's business. */
static void a_call_that_fails_over_a_snapshot(void)
{
    if (keeper != OWN)
        return;
    moment();
    SAY_PLACE(mmap(moments[0].snapshot + 5, PAGE, RW, MAP_SHARED | MAP_FIXED, file, 0));
    SAY_PLACE(mmap(moments[0].snapshot + PAGE, PAGE, RW, MAP_SHARED | MAP_FIXED, file, 5));
    overwrite(file, 0, SIZE, 1);
    look("overwritten");
}

static void mremap_grows_and_shrinks(void)
{
    unsigned char *at = map_at(0, 8, RW, 0);
    CHECK(at != MAP_FAILED && munmap(arena + 8 * PAGE, 8 * PAGE) == 0);
    moment();
    STORE(at + 2 * PAGE, 1);
    SAY_PLACE(mremap(at, 8 * PAGE, 12 * PAGE, 0));
    STORE(at + 10 * PAGE, 2);
    SAY_ACCESS(at + 3 * PAGE);
    moment();
    SAY_PLACE(mremap(at, 12 * PAGE, 5 * PAGE, 0));
    SAY_ACCESS(at + 5 * PAGE);
    STORE(at + 4 * PAGE, 3);
    SAY_PLACE(mremap(at + PAGE, 4 * PAGE, 6 * PAGE, 0));
    moment();
    STORE(at + 6 * PAGE, 4);
    SAY_ACCESS(at);
    SAY_ACCESS(at + 7 * PAGE);
    SAY_PLACE(mremap(at, 7 * PAGE, 0, 0));
    SAY_PLACE(mremap(at + 1, 7 * PAGE, PAGE, 0));
    SAY_PLACE(mremap(at, 7 * PAGE, PAGE, 0x80));
    SAY_PLACE(mremap(at + 20 * PAGE, PAGE, 2 * PAGE, 0));
}

static void mremap_moves(void)
{
    unsigned char *at = map_at(0, 8, RW, 4), *to = arena + 20 * PAGE;
    CHECK(at != MAP_FAILED);
    moment();
    STORE(at + PAGE, 1);
    SAY_PLACE(mremap(at, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to));
    SAY_ACCESS(at);
    STORE(to + PAGE, 2);
    STORE(to + 3 * PAGE, 3);
    moment();
    /* A part, onto another shared mapping and a private one. */
    CHECK(map_at(40, 4, RW, 0) != MAP_FAILED);
    SAY_PLACE(mremap(to + 2 * PAGE, 3 * PAGE, 3 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, arena + 42 * PAGE));
    for (size_t page = 40; page < 46; page++)
        SAY_ACCESS(arena + page * PAGE);
    moment();
    for (size_t page = 40; page < 45; page++)
        STORE(arena + page * PAGE + 6, page);
    STORE(to, 4);
    STORE(to + 5 * PAGE, 5);
    SAY_PLACE(mremap(to, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to + PAGE));
    SAY_PLACE(mremap(to, 2 * PAGE, 2 * PAGE, MREMAP_FIXED, arena));
    SAY_PLACE(mremap(to, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, arena + 1));
    STORE(to + PAGE + 4, 6);
    /* Onto it: what is moved is no file. */
    CHECK(mmap(arena + 50 * PAGE, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
    SAY_PLACE(mremap(arena + 50 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to));
    moment();
    STORE(to, 7);
    STORE(to + PAGE, 8);
}

static void pages_in_another_order(void)
{
    unsigned char *at = map_at(0, 8, RW, 0);
    CHECK(at != MAP_FAILED);
    moment();
    STORE(at + 2 * PAGE, 1);
    SAY(remap_file_pages(at + 2 * PAGE, 2 * PAGE, 0, 12, 0));
    STORE(at + PAGE + 1, 2);
    STORE(at + 2 * PAGE + 2, 3);
    STORE(at + 4 * PAGE + 3, 4);
    moment();
    STORE(at + 3 * PAGE + 4, 5);
    SAY(remap_file_pages(at + 3 * PAGE, 2 * PAGE, 0, 0, 0));
    STORE(at + 3 * PAGE + 5, 6);
    STORE(at + 4 * PAGE + 6, 7);
    STORE(at + 5 * PAGE + 7, 8);
    SAY(remap_file_pages(at, PAGE, PROT_READ, 1, 0));
    SAY(remap_file_pages(at + 9 * PAGE, PAGE, 0, 1, 0));
    moment();
    STORE(at, 9);
    STORE(at + 2 * PAGE + 8, 10);
}

static void mremap_of_length_zero_doubles(void)
{
    unsigned char *at = map_at(0, 8, RW, 0), *to = arena + 20 * PAGE;
    CHECK(at != MAP_FAILED);
    moment();
    STORE(at + 2 * PAGE, 1);
    SAY_PLACE(mremap(at + 2 * PAGE, 0, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to));
    SAY_PLACE(mremap(at, 0, PAGE, 0));
    STORE(to, 2);
    STORE(to + 3 * PAGE, 3);
    STORE(at + 4 * PAGE, 4);
    moment();
    STORE(to + PAGE, 5);
    STORE(at + 3 * PAGE + 1, 6);
    SAY(munmap(at, 8 * PAGE));
    STORE(to + 3 * PAGE, 7);
}

static void mremap_that_does_not_unmap(void)
{
    unsigned char *at = map_at(0, 8, RW, 0), *to = arena + 20 * PAGE;
    CHECK(at != MAP_FAILED);
    moment();
    STORE(at + 2 * PAGE, 1);
    int flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
    SAY_PLACE(mremap(at, 8 * PAGE, 8 * PAGE, flags, to));
    SAY_PLACE(mremap(at, 8 * PAGE, 9 * PAGE, flags, to));
    STORE(to + 2 * PAGE, 2);
    STORE(at + 3 * PAGE, 3);
    moment();
    STORE(to + 4 * PAGE, 4);
    STORE(at + 5 * PAGE, 5);
    SAY_ACCESS(at + 2 * PAGE);
}

/* What lies behind the shorter mapping stays what it was. */
static void mremap_moves_and_shrinks(void)
{
    unsigned char *at = map_at(0, 8, RW, 0), *to = arena + 20 * PAGE;
    CHECK(at != MAP_FAILED && map_at(24, 4, RW, 10) != MAP_FAILED);
    SAY_PLACE(mremap(at, 8 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to));
    moment();
    SAY_ACCESS(at);
    SAY_ACCESS(at + 6 * PAGE);
    for (size_t page = 0; page < 8; page++)
        STORE(to + page * PAGE, page + 1);
    moment();
    STORE(to + 5 * PAGE, 9);
}

/* Since Linux 6.17 a move takes several mappings along; before it fails. */
static void mremap_of_several_mappings(void)
{
    CHECK(map_at(0, 3, RW, 8) != MAP_FAILED);
    CHECK(map_at(3, 2, PROT_READ, 0) != MAP_FAILED);
    CHECK(map_at(5, 3, RW, 3) != MAP_FAILED);
    moment();
    STORE(arena + PAGE, 1);
    unsigned char *to = SAY_PLACE(mremap(arena, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, arena + 20 * PAGE));
    to = to == MAP_FAILED ? arena : to;
    moment();
    for (size_t page = 0; page < 8; page++)
        SAY_ACCESS(to + page * PAGE);
    moment();
    STORE(to + 6 * PAGE, 2);
    STORE(to + PAGE, 3);
    moment();
    STORE(to + 7 * PAGE, 4);
    /* The first of them is no shared mapping. */
    CHECK(munmap(arena, ARENA * PAGE) == 0);
    CHECK(mmap(arena, 2 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == arena);
    CHECK(map_at(2, 2, RW, 5) != MAP_FAILED);
    moment();
    to = SAY_PLACE(mremap(arena, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, arena + 30 * PAGE));
    to = to == MAP_FAILED ? arena : to;
    moment();
    STORE(to + 2 * PAGE, 5);
    STORE(to + 3 * PAGE, 6);
    STORE(to, 7);
}

static void advice(void)
{
    unsigned char *at = map_at(0, PAGES, RW, 0);
    CHECK(at != MAP_FAILED);
    moment();
    STORE(at + PAGE, 1);
    SAY(madvise(at, SIZE, MADV_DONTNEED));
    STORE(at + 2 * PAGE, 2);
    SAY(madvise(at + 4 * PAGE, 4 * PAGE, 23 /* MADV_POPULATE_WRITE */));
    SAY(madvise(at, 4 * PAGE, 22 /* MADV_POPULATE_READ */));
    moment();
    STORE(at + 5 * PAGE, 3);
    SAY(madvise(at, PAGE, MADV_FREE));
    SAY(madvise(at, PAGE, MADV_WIPEONFORK));
    SAY(madvise(at, SIZE, MADV_RANDOM));
    SAY(madvise(at, SIZE, MADV_WILLNEED));
    SAY(madvise(at, SIZE, MADV_SEQUENTIAL));
    SAY(madvise(at, SIZE, 21 /* MADV_PAGEOUT */));
    SAY(madvise(at, SIZE, 4711));
    STORE(at + 6 * PAGE, 4);
    SAY(msync(at, SIZE, MS_SYNC));
    SAY(msync(at, SIZE, MS_ASYNC));
    SAY(msync(at, SIZE, MS_INVALIDATE));
    SAY(msync(at + 1, SIZE, MS_SYNC));
    SAY(mlock(at, 2 * PAGE));
    STORE(at, 5);
    SAY(munlock(at, 2 * PAGE));
    SAY(mprotect(at, 2 * PAGE, PROT_READ));
    SAY(madvise(at, 4 * PAGE, 23));
    SAY(madvise(at + 30 * PAGE, PAGE, 23));
    STORE(at + 7 * PAGE, 6);
}

static void holes_are_punched(void)
{
    unsigned char *at = map_at(0, PAGES, RW, 0);
    CHECK(at != MAP_FAILED);
    moment();
    STORE(at + PAGE, 1);
    SAY(madvise(at + PAGE, 3 * PAGE, MADV_REMOVE));
    STORE(at + 2 * PAGE, 2);
    moment();
    SAY(mprotect(at + 8 * PAGE, 4 * PAGE, PROT_READ));
    SAY(madvise(at + 7 * PAGE, 3 * PAGE, MADV_REMOVE));
    SAY_ACCESS(at + 9 * PAGE);
    SAY(madvise(at + PAGES * PAGE, PAGE, MADV_REMOVE));
    STORE(at + 3 * PAGE, 3);
}

/* One call over more mappings than anything is nested deep. */
static void advice_over_many_mappings(void)
{
    for (size_t page = 0; page < 15; page++)
        CHECK(map_at(page, 1, RW, 15 - page) != MAP_FAILED);
    moment();
    SAY(madvise(arena, 15 * PAGE, 23));
    moment();
    SAY(madvise(arena, 15 * PAGE, MADV_REMOVE));
    moment();
    for (size_t page = 0; page < 15; page++)
        STORE(arena + page * PAGE, page);
}

static void forked_processes_store(void)
{
    unsigned char *at = map_at(0, PAGES, RW, 0), *aside = map_at(20, 4, RW, 0);
    CHECK(at != MAP_FAILED && aside != MAP_FAILED);
    moment();
    IN_CHILD({
        at[PAGE] = 1;
        IN_CHILD({
            at[2 * PAGE] = 2;
            aside[3 * PAGE] = 3;
        });
        at[3 * PAGE + 1] = 4;
    });
    look("stored by the child and its child");
    STORE(at + PAGE + 1, 5);
    moment();
    int ends[2];
    char byte = 0;
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        CHECK(read(ends[0], &byte, 1) == 1);
        for (size_t page = 0; page < PAGES; page++)
            at[page * PAGE + 2] = (unsigned char)page;
        _exit(0);
    }
    /* Taken of what the child has mapped, too. */
    moment();
    STORE(at + 5, 6);
    CHECK(write(ends[1], &byte, 1) == 1);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    look("stored by a child that was there before");
    SAY(madvise(aside, 2 * PAGE, MADV_DONTFORK));
    SAY_ACCESS(aside);
    SAY_ACCESS(aside + 2 * PAGE);
    moment();
    SAY_ACCESS(aside + 2 * PAGE);
    STORE(aside, 7);
    SAY(madvise(aside, 4 * PAGE, MADV_DOFORK));
    SAY_ACCESS(aside);
}

static void the_same_file_twice(void)
{
    unsigned char *one = map_at(0, PAGES, RW, 0), *two = map_at(20, PAGES, RW, 0);
    STORE(one, 1);
    moment();
    STORE(one + 3, 2);
    STORE(two + 3, 3);
    STORE(two + PAGE, 4);
    STORE(one + PAGE, 5);
    unsigned char *three = SAY_PLACE(mmap(NULL, 4 * PAGE, RW, MAP_SHARED, file, 2 * (off_t)PAGE));
    STORE(three, 6);
    STORE(three + PAGE, 7);
    moment();
    STORE(three + PAGE, 8);
    STORE(two + 3 * PAGE, 9);
    SAY(munmap(one, SIZE));
    STORE(two + 4 * PAGE, 10);
}

static void behind_the_end(void)
{
    if (is_device)
        return;
    unsigned char *at = map_at(0, PAGES + 4, RW, 0);
    CHECK(ftruncate(file, (off_t)(SIZE - 100)) == 0);
    moment();
    SAY_ACCESS(at + SIZE - 101);
    SAY_ACCESS(at + SIZE - 50);
    SAY_ACCESS(at + SIZE);
    SAY_ACCESS(at + SIZE + 3 * PAGE);
    SAY(ftruncate(file, (off_t)(SIZE + PAGE)));
    SAY_ACCESS(at + SIZE);
    moment();
    SAY_ACCESS(at + SIZE + 5);
    STORE(at + SIZE + 6, 1);
    SAY(ftruncate(file, (off_t)(3 * PAGE + 5)));
    SAY_ACCESS(at + 4 * PAGE);
    STORE(at + 2 * PAGE, 2);
    STORE(at + 3 * PAGE + 1, 3);
    moment();
    SAY(ftruncate(file, 0));
    SAY_ACCESS(at);
    SAY(ftruncate(file, (off_t)SIZE));
    STORE(at + 5 * PAGE, 4);
    moment();
    STORE(at + 5 * PAGE, 5);
}

static void seals(void)
{
    if (fcntl(file, F_GET_SEALS) < 0)
        return;
    unsigned char *at = map_at(0, PAGES, RW, 0), *reader = map_at(20, PAGES, PROT_READ, 0);
    moment();
    SAY(fcntl(file, F_ADD_SEALS, F_SEAL_WRITE));
    SAY(fcntl(file, F_ADD_SEALS, 0x10 /* F_SEAL_FUTURE_WRITE */));
    SAY_PLACE(mmap(NULL, SIZE, RW, MAP_SHARED, file, 0));
    SAY(mprotect(reader, SIZE, RW));
    SAY_ACCESS(reader);
    STORE(at, 1);
    moment();
    STORE(at, 2);
    SAY(munmap(at, SIZE));
    SAY(munmap(reader, SIZE));
    SAY(fcntl(file, F_ADD_SEALS, F_SEAL_WRITE));
    SAY_PLACE(mmap(NULL, SIZE, RW, MAP_SHARED, file, 0));
    reader = SAY_PLACE(map_at(20, PAGES, PROT_READ, 0));
    SAY(mprotect(reader, SIZE, RW));
    SAY_ACCESS(reader);
}

static const struct part parts[] = {
    PART(every_protection),
    PART(a_mapping_only_to_store_into_can_be_read),
    PART(a_descriptor_that_may_not_write),
    PART(mprotect_of_parts),
    PART(mprotect_over_mappings_and_gaps),
    PART(mprotect_that_is_refused),
    PART(protection_keys),
    PART(munmap_of_parts),
    PART(mapped_over),
    PART(a_call_that_fails_over_a_snapshot),
    PART(mremap_grows_and_shrinks),
    PART(mremap_moves),
    PART(pages_in_another_order),
    PART(mremap_of_length_zero_doubles),
    PART(mremap_moves_and_shrinks),
    PART(mremap_that_does_not_unmap),
    PART(mremap_of_several_mappings),
    PART(advice),
    PART(holes_are_punched),
    PART(advice_over_many_mappings),
    PART(forked_processes_store),
    PART(the_same_file_twice),
    PART(behind_the_end),
    PART(seals),
};
SHARING_MAIN(parts)

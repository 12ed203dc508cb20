/* Read-only shared mappings of a file that SNAPSHIM_SHARED_FILES names: what becomes of them, and what is left alone. */
#include "check.h"

#include <sys/syscall.h>

#define PAGES ((size_t)8)
#define SIZE (PAGES * PAGE)

static unsigned char *shared_as(int fd, int protection, int type)
{
    unsigned char *at = mmap(NULL, SIZE, protection, type, fd, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

static unsigned char *reading_only(void)
{
    int fd = open("file", O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    unsigned char *at = shared_as(fd, PROT_READ, MAP_SHARED);
    close(fd);
    return at;
}

static void stays_what_it_was(int protection, enum who who)
{
    close(make_file("file", SIZE - 100));
    struct writer writer = writer_before(who, "file");
    int fd = open("file", O_RDONLY | O_CLOEXEC);
    unsigned char *at = shared_as(fd, PROT_READ, protection & PROT_WRITE ? MAP_SHARED_VALIDATE : MAP_SHARED);
    writer_after(&writer);
    writer_writes(&writer, 0, SIZE + PAGE, 1);
    CHECK(shows(at, 0, SIZE - 100, 0));
    CHECK(msync(at, SIZE, MS_SYNC) == 0 && msync(at, SIZE, MS_ASYNC) == 0 && msync(at, SIZE, MS_INVALIDATE) == 0);
    IN_CHILD(CHECK(shows(at, 0, SIZE - 100, 0)));
    CHECK(truncate("file", 0) == 0);
    CHECK(shows(at, 0, SIZE - 100, 0));
    CHECK(stat_of(at).state == SNAPSHIM_EXACT);
    unsigned char *again = shared_as(fd, PROT_READ, MAP_SHARED);
    CHECK(fault_of_reading(again) == SIGBUS);
    writer_end(&writer);
}

static void is_read_only_for_good(const unsigned char *at, size_t length)
{
    void *start = (void *)at;
    CHECK_ERRNO(mprotect(start, length, PROT_READ | PROT_WRITE), -1, EACCES);
    CHECK_ERRNO(mprotect(start, length, PROT_WRITE), -1, EACCES);
    CHECK_ERRNO(pkey_mprotect(start, length, PROT_READ | PROT_WRITE, -1), -1, EACCES);
    CHECK_ERRNO(syscall(SYS_mprotect, start, length, PROT_READ | PROT_WRITE), -1, EACCES);
    CHECK(mprotect(start, length, PROT_NONE) == 0 && mprotect(start, length, PROT_READ) == 0);
    CHECK_ERRNO(mprotect(start, length, PROT_READ | PROT_WRITE), -1, EACCES);
    struct sigaction action = {.sa_handler = on_fault}, old;
    sigaction(SIGSEGV, &action, &old);
    fault_signal = 0;
    if (sigsetjmp(fault_escape, 1) == 0)
        *(volatile unsigned char *)start = 1;
    sigaction(SIGSEGV, &old, NULL);
    CHECK(fault_signal == SIGSEGV);
}

/* As natively, where mprotect(2) says: EACCES if a file that is open for reading only is mapped shared. */
static void never_becomes_writable(int protection, enum who who)
{
    (void)protection, (void)who;
    int fd = make_file("file", SIZE);
    unsigned char *at = reading_only();
    is_read_only_for_good(at, SIZE);
    is_read_only_for_good(at + 2 * PAGE, PAGE);
    IN_CHILD(is_read_only_for_good(at, SIZE));

    unsigned char *other = free_range(2 * PAGE);
    CHECK(mremap(at + 6 * PAGE, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, other) == other);
    is_read_only_for_good(other, 2 * PAGE);
    CHECK(munmap(at + 4 * PAGE, PAGE) == 0);
    is_read_only_for_good(at, 4 * PAGE);

    overwrite(fd, 0, SIZE, 1);
    is_read_only_for_good(at, 4 * PAGE);
    CHECK(ftruncate(fd, 5 * PAGE) == 0);
    is_read_only_for_good(at, 4 * PAGE);
}

/* What lies before it is changed, what lies behind is not. */
static void mprotect_over_it_ends_there(int protection, enum who who)
{
    (void)protection, (void)who;
    close(make_file("file", SIZE));
    int fd = open("file", O_RDONLY);
    unsigned char *at = mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    CHECK(mmap(at + PAGE, 2 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == at + PAGE);
    CHECK_ERRNO(mprotect(at, 4 * PAGE, PROT_READ | PROT_WRITE), -1, EACCES);
    at[0] = 1;
    struct sigaction action = {.sa_handler = on_fault}, old;
    for (size_t page = 1; page < 4; page++) {
        sigaction(SIGSEGV, &action, &old);
        fault_signal = 0;
        if (sigsetjmp(fault_escape, 1) == 0)
            *(volatile unsigned char *)(at + page * PAGE) = 1;
        sigaction(SIGSEGV, &old, NULL);
        CHECK(fault_signal == SIGSEGV);
    }
}

/* A process that could not store through the mapping, or mapped privately, or maps another file, was not named. */
static void others_see_the_changes(int protection, enum who who)
{
    (void)protection, (void)who;
    int fd = make_file("file", SIZE), other = make_file("other", SIZE);
    unsigned char *mappings[] = {
        shared_as(fd, PROT_READ, MAP_SHARED),
        shared_as(fd, PROT_READ, MAP_SHARED_VALIDATE),
        shared_as(fd, PROT_READ | PROT_WRITE, MAP_SHARED),
        shared_as(open("file", O_RDONLY), PROT_READ, MAP_PRIVATE),
        shared_as(open("other", O_RDONLY), PROT_READ, MAP_SHARED),
    };
    overwrite(fd, 0, SIZE, 1);
    overwrite(other, 0, SIZE, 1);
    for (size_t i = 0; i < sizeof mappings / sizeof *mappings; i++)
        CHECK(shows(mappings[i], 0, SIZE, 1));

    CHECK(mprotect(mappings[0], SIZE, PROT_READ | PROT_WRITE) == 0);
    mappings[0][5] = 99;
    unsigned char byte;
    CHECK(pread(fd, &byte, 1, 5) == 1 && byte == 99);
    CHECK_ERRNO(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, open("file", O_RDONLY), 0), MAP_FAILED, EACCES);
    CHECK_ERRNO(mmap(NULL, SIZE, PROT_READ, MAP_SHARED_VALIDATE | 0x80000000, open("file", O_RDONLY), 0), MAP_FAILED, EOPNOTSUPP);
}

static void sees_the_changes(int protection, enum who who)
{
    (void)protection, (void)who;
    int fd = make_file("file", SIZE);
    unsigned char *at = reading_only();
    overwrite(fd, 0, SIZE, 1);
    CHECK(shows(at, 0, SIZE, 1));
}

static const struct scenario scenarios[] = {
    EACH(stays_what_it_was),
    ONCE(never_becomes_writable),
    ONCE(mprotect_over_it_ends_there),
    ONCE(others_see_the_changes),
    ONCE(sees_the_changes),
};
MAIN(scenarios)

/* Where and how a snapshot is mapped: MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_POPULATE, MAP_LOCKED, and every protection. */
#include "check.h"

#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>

#define PAGES ((size_t)8)
#define SIZE (PAGES * PAGE)

static unsigned char *fixed(unsigned char *place, int fd, size_t first, size_t pages, int protection)
{
    unsigned char *at = mmap(place, pages * PAGE, protection, MAP_PRIVATE | MAP_SNAPSHOT | MAP_FIXED, fd, (off_t)(first * PAGE));
    CHECK(at == place);
    return at;
}

static void fixed_where_nothing_is(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = fixed(free_range(SIZE), fd, 0, PAGES, protection);
    writer_after(&writer);
    writer_writes(&writer, 0, SIZE, 1);
    CHECK(shows(at, 0, SIZE, 0));
    CHECK(stat_of(at).pages == PAGES && stat_of(at).preserved == PAGES);
    writer_end(&writer);
}

/* The kernel offers the addresses that were freed last: whatever the library maps meanwhile must not be in the way. */
static void fixed_where_something_was_unmapped(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *first = snapshot(fd, 0, PAGE, PROT_READ);
    writer_after(&writer);
    int version = 0;
    for (size_t pages = 1; pages <= 64; pages *= 2) {
        unsigned char *gap = free_range(2 * pages * PAGE);
        size_t shown = pages < PAGES ? pages : PAGES;
        unsigned char *back = fixed(gap + pages * PAGE, fd, 0, pages, protection);
        writer_writes(&writer, 0, shown * PAGE, version + 1);
        unsigned char *front = fixed(gap, fd, 0, pages, protection);
        writer_writes(&writer, 0, SIZE, version + 2);
        CHECK(shows(back, 0, shown * PAGE, version) && shows(front, 0, shown * PAGE, version + 1));
        CHECK(stat_of(back).pages == shown && stat_of(front).pages == shown);
        version += 2;
    }
    CHECK(shows(first, 0, PAGE, 0));
    writer_end(&writer);
}

static void fixed_over_a_plain_mapping(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *plain = mmap(NULL, 6 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(plain, 0xab, 6 * PAGE);
    unsigned char *at = fixed(plain + 2 * PAGE, fd, 1, 3, protection);
    writer_after(&writer);
    writer_writes(&writer, 0, SIZE, 1);
    CHECK(shows(at, PAGE, 3 * PAGE, 0));
    for (size_t i = 0; i < PAGE; i++)
        CHECK(plain[i] == 0xab && plain[PAGE + i] == 0xab && plain[5 * PAGE + i] == 0xab);
    memset(plain, 0xac, 2 * PAGE);
    CHECK(plain[0] == 0xac);
    writer_end(&writer);
}

static void fixed_over_another_snapshot(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *old = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    writer_writes(&writer, 2 * PAGE, 3 * PAGE, 1);
    unsigned char *new = fixed(old + 3 * PAGE, fd, 0, 4, PROT_READ);
    CHECK(shows(new, 0, 2 * PAGE, 0) && shows(new + 2 * PAGE, 2 * PAGE, 2 * PAGE, 1));
    writer_writes(&writer, 0, SIZE, 2);
    CHECK(shows(old, 0, 3 * PAGE, 0) && shows(old + 7 * PAGE, 7 * PAGE, PAGE, 0));
    CHECK(shows(new, 0, 2 * PAGE, 0) && shows(new + 2 * PAGE, 2 * PAGE, 2 * PAGE, 1));
    CHECK(stat_of(old).pages == 4 && stat_of(new).pages == 4);

    unsigned char *newest = fixed(old, fd, 0, PAGES, protection);
    writer_writes(&writer, 0, SIZE, 3);
    CHECK(shows(newest, 0, SIZE, 2));
    CHECK(stat_of(old).pages == PAGES);
    writer_end(&writer);
}

/* A mapping that fails leaves what was there. */
static void fixed_that_fails_changes_nothing(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    int flags = MAP_PRIVATE | MAP_SNAPSHOT | MAP_FIXED;
    CHECK_ERRNO(mmap(at, PAGE, PROT_READ, flags, -1, 0), MAP_FAILED, EBADF);
    CHECK_ERRNO(mmap(at, PAGE, PROT_READ, flags, fd, 1), MAP_FAILED, EINVAL);
    CHECK_ERRNO(mmap(at + 1, PAGE, PROT_READ, flags, fd, 0), MAP_FAILED, EINVAL);
    CHECK_ERRNO(mmap(at, PAGE, PROT_READ, flags, open("file", O_WRONLY), 0), MAP_FAILED, EACCES);
    writer_writes(&writer, 0, SIZE, 1);
    CHECK(shows(at, 0, SIZE, 0));
    CHECK(stat_of(at).pages == PAGES);
    writer_end(&writer);
}

static void noreplace_never_replaces(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *place = free_range(SIZE);
    int flags = MAP_PRIVATE | MAP_SNAPSHOT | MAP_FIXED_NOREPLACE;
    unsigned char *at = mmap(place, 4 * PAGE, protection, flags, fd, 0);
    CHECK(at == place);
    writer_after(&writer);
    writer_writes(&writer, 0, PAGE, 1);
    CHECK_ERRNO(mmap(place + 2 * PAGE, 4 * PAGE, protection, flags, fd, 0), MAP_FAILED, EEXIST);
    CHECK_ERRNO(mmap(place, PAGE, protection, flags | MAP_FIXED, fd, 0), MAP_FAILED, EEXIST);
    writer_writes(&writer, 0, SIZE, 2);
    CHECK(shows(at, 0, 4 * PAGE, 0));
    unsigned char *next = mmap(place + 4 * PAGE, 4 * PAGE, protection, flags, fd, 0);
    CHECK(next == place + 4 * PAGE);
    writer_writes(&writer, 0, SIZE, 3);
    CHECK(shows(at, 0, 4 * PAGE, 0) && shows(next, 0, 4 * PAGE, 2));
    writer_end(&writer);
}

/* The mapper is stopped, so that no writer could push with its help; timeouts and failing writes would show. */
static void populate_leaves_nothing_to_push(int protection, enum who who)
{
    if (who == FORKED_AFTER)
        return;
    const size_t pages = 3000, size = pages * PAGE + 17;
    int fd = make_file("file", size);
    pid_t mapper = fork();
    CHECK(mapper >= 0);
    if (mapper == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct writer writer = writer_before(who, "file");
        unsigned char *at = mmap(NULL, size, protection, MAP_PRIVATE | MAP_SNAPSHOT | MAP_POPULATE, fd, 0);
        CHECK(at != MAP_FAILED);
        struct snapshim_stat before = stat_of(at);
        CHECK(before.pages == pages + 1 && before.preserved == pages + 1);
        CHECK(before.bytes_held >= (pages + 1) * PAGE);
        raise(SIGSTOP);
        CHECK(shows(at, 0, size, 0));
        writer_writes(&writer, 0, size, 2);
        CHECK(shows(at, 0, size, 0));
        CHECK(stat_of(at).preserved == before.preserved && stat_of(at).state == SNAPSHIM_EXACT);
        writer_end(&writer);
        _exit(0);
    }
    int status;
    CHECK(waitpid(mapper, &status, WUNTRACED) == mapper && WIFSTOPPED(status));
    CHECK(try_overwrite(fd, 0, size + 5 * PAGE, 1) == 0);
    CHECK(kill(mapper, SIGCONT) == 0);
    CHECK(waitpid(mapper, &status, 0) == mapper && status == 0);
}

/* Kilobytes of the process that are locked. */
static size_t locked(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    CHECK(file);
    char line[256];
    size_t found = 0;
    while (fgets(line, sizeof line, file))
        sscanf(line, "VmLck: %zu", &found);
    fclose(file);
    return found;
}

static void locked_memory_stays_locked(int protection, enum who who)
{
    int fd = make_file("file", SIZE + 100);
    struct writer writer = writer_before(who, "file");
    size_t before = locked();
    unsigned char *at = mmap(NULL, SIZE + 100, protection, MAP_PRIVATE | MAP_SNAPSHOT | MAP_LOCKED, fd, 0);
    if (at == MAP_FAILED && errno == EAGAIN)
        SKIP("RLIMIT_MEMLOCK is too low");
    CHECK(at != MAP_FAILED);
    writer_after(&writer);
    CHECK(locked() - before == (PAGES + 1) * 4);
    writer_writes(&writer, 3 * PAGE, 2 * PAGE, 1);
    CHECK(locked() - before == (PAGES + 1) * 4);
    writer_writes(&writer, 0, SIZE + 100, 1);
    CHECK(shows(at, 0, SIZE + 100, 0));
    CHECK(locked() - before == (PAGES + 1) * 4);
    CHECK(munmap(at, SIZE + 100) == 0);
    CHECK(locked() == before);
    writer_end(&writer);
}

static void locking_beyond_the_limit_is_eagain(int protection, enum who who)
{
    (void)protection, (void)who;
    int fd = make_file("file", SIZE);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {0};
    CHECK(syscall(SYS_capset, &header, none) == 0);
    CHECK(setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){.rlim_cur = 4 * PAGE, .rlim_max = 4 * PAGE}) == 0);
    int flags = MAP_PRIVATE | MAP_LOCKED;
    CHECK_ERRNO(mmap(NULL, SIZE, PROT_READ, flags, fd, 0), MAP_FAILED, EAGAIN);
    CHECK_ERRNO(mmap(NULL, SIZE, PROT_READ, flags | MAP_SNAPSHOT, fd, 0), MAP_FAILED, EAGAIN);
    CHECK(mmap(NULL, 2 * PAGE, PROT_READ, flags | MAP_SNAPSHOT, fd, 0) != MAP_FAILED);
}

static void none_opened_later(int protection, enum who who)
{
    int fd = make_file("file", SIZE + 50);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE + 2 * PAGE, PROT_NONE);
    writer_after(&writer);
    CHECK(fault_of_reading(at) == SIGSEGV && fault_of_reading(at + SIZE + PAGE) == SIGSEGV);
    writer_writes(&writer, 0, 3 * PAGE, 1);
    CHECK(fault_of_reading(at) == SIGSEGV);
    CHECK(mprotect(at + PAGE, 4 * PAGE, protection) == 0);
    CHECK(shows(at + PAGE, PAGE, 4 * PAGE, 0));
    CHECK(fault_of_reading(at) == SIGSEGV && fault_of_reading(at + 5 * PAGE) == SIGSEGV);
    writer_writes(&writer, 0, SIZE + 2 * PAGE, 2);
    CHECK(fault_of_reading(at) == SIGSEGV && fault_of_reading(at + 5 * PAGE) == SIGSEGV);
    CHECK(mprotect(at, SIZE + 2 * PAGE, protection) == 0);
    CHECK(shows(at, 0, SIZE + 50, 0));
    CHECK(at[SIZE + 50] == 0 && at[SIZE + PAGE - 1] == 0);
    CHECK(fault_of_reading(at + SIZE + PAGE) == SIGBUS);
    CHECK(stat_of(at).state == SNAPSHIM_EXACT);
    writer_end(&writer);
}

/* mov eax, VALUE; ret */
static int code(unsigned char *to, unsigned char value)
{
    const unsigned char bytes[] = {0xb8, value, 0, 0, 0, 0xc3};
    memcpy(to, bytes, sizeof bytes);
    return (int)sizeof bytes;
}

static void executable_code_stays(int protection, enum who who)
{
    (void)who;
    int fd = make_file("file", 2 * PAGE);
    unsigned char bytes[8];
    int length = code(bytes, 42);
    CHECK(pwrite(fd, bytes, (size_t)length, 0) == length);
    int writable = protection & PROT_WRITE;
    unsigned char *at = snapshot(fd, 0, 2 * PAGE, PROT_READ | PROT_EXEC | writable);
    unsigned char *only = snapshot(fd, 0, 2 * PAGE, PROT_EXEC);
    code(bytes, 43);
    if (who == ITSELF)
        CHECK(pwrite(fd, bytes, (size_t)length, 0) == length);
    else
        IN_CHILD(CHECK(pwrite(fd, bytes, (size_t)length, 0) == length));
    CHECK(at[1] == 42);
#ifdef __x86_64__
    CHECK(((int (*)(void))(uintptr_t)at)() == 42);
    CHECK(((int (*)(void))(uintptr_t)only)() == 42);
#endif
    CHECK(mprotect(only, PAGE, PROT_READ) == 0);
    CHECK(only[1] == 42);
}

static void write_only_is_private_too(int protection, enum who who)
{
    (void)protection;
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, PROT_WRITE);
    writer_after(&writer);
    at[5] = 0xfe;
    writer_writes(&writer, 0, SIZE, 1);
    at[PAGE] = 0xfd;
    CHECK(mprotect(at, SIZE, PROT_READ) == 0);
    CHECK(at[5] == 0xfe && at[PAGE] == 0xfd);
    CHECK(shows(at + 6, 6, PAGE - 6, 0) && shows(at + PAGE + 1, PAGE + 1, SIZE - PAGE - 1, 0));
    unsigned char byte;
    CHECK(pread(fd, &byte, 1, 5) == 1 && byte == stamp(0, 1));
    writer_end(&writer);
}

static int truncated;

static void truncate_it(int number)
{
    (void)number;
    CHECK(ftruncate(truncated, 2 * PAGE) == 0 && ftruncate(truncated, SIZE) == 0);
}

/* The truncation moves a part of the snapshot off the file before the snapshot has come to its place: all of it has to come there. The
 * signal waits until the snapshot is made. */
static void fixed_while_the_file_is_truncated(int protection, enum who who)
{
    (void)who;
    truncated = make_file("file", 2 * PAGE);
    CHECK(ftruncate(truncated, SIZE) == 0);
    unsigned char *plain = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct sigaction action = {.sa_handler = truncate_it, .sa_flags = SA_RESTART};
    struct itimerval often = {{0, 100}, {0, 100}}, never = {{0, 0}, {0, 0}};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    for (int round = 0; round < 200; round++) {
        memset(plain, 0xab, SIZE);
        CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
        unsigned char *at = fixed(plain, truncated, 0, PAGES, protection);
        CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
        size_t size = stat_of(at).size;
        CHECK(size >= 2 * PAGE && shows(at, 0, 2 * PAGE, 0));
        for (size_t i = 2 * PAGE; i < size; i++)
            CHECK(at[i] == 0);
        CHECK(mmap(plain, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == plain);
    }
}

static const struct scenario scenarios[] = {
    EACH(fixed_where_nothing_is),
    EACH(fixed_where_something_was_unmapped),
    EACH(fixed_over_a_plain_mapping),
    EACH(fixed_over_another_snapshot),
    EACH(fixed_that_fails_changes_nothing),
    EACH(fixed_while_the_file_is_truncated),
    EACH(noreplace_never_replaces),
    EACH(populate_leaves_nothing_to_push),
    EACH(locked_memory_stays_locked),
    ONCE(locking_beyond_the_limit_is_eagain),
    EACH(none_opened_later),
    EACH(executable_code_stays),
    EACH(write_only_is_private_too),
};
MAIN(scenarios)

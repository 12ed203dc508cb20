/* Calls on mappings by their less known names, and by number. */
#include "check.h"

#include <dlfcn.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define PAGES ((size_t)16)
#define SIZE (PAGES * PAGE)

enum { DONTNEED_LOCKED = 24, GUARD_INSTALL = 102, SELF = -10000 };

static void posix_advice_keeps_what_is_preserved(int protection, enum who who)
{
    static const int advices[] = {POSIX_MADV_DONTNEED, DONTNEED_LOCKED, POSIX_MADV_WILLNEED};
    static const int refused[] = {MADV_FREE, MADV_REMOVE, MADV_WIPEONFORK, GUARD_INSTALL};
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    for (int version = 1; version < 3; version++) {
        writer_writes(&writer, 0, (size_t)version * SIZE / 2, version);
        errno = 77;
        for (size_t i = 0; i < sizeof advices / sizeof *advices; i++)
            CHECK(posix_madvise(at, SIZE, advices[i]) == 0 && shows(at, 0, SIZE, 0));
        for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
            CHECK(posix_madvise(at, SIZE, refused[i]) != 0 && shows(at, 0, SIZE, 0));
        CHECK(posix_madvise(at + 1, SIZE, MADV_NORMAL) == EINVAL && errno == 77);
    }
    CHECK(stat_of(at).state == SNAPSHIM_EXACT);
    writer_end(&writer);
}

static ssize_t advise(int by_number, int pidfd, const struct iovec *vector, size_t count, int advice)
{
    return by_number ? syscall(SYS_process_madvise, pidfd, vector, count, advice, 0U)
                     : process_madvise(pidfd, vector, count, advice, 0);
}

static void advice_to_oneself_keeps_what_is_preserved(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    unsigned char *plain = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    writer_after(&writer);
    int selves[] = {(int)syscall(SYS_pidfd_open, getpid(), 0), SELF};
    CHECK(selves[0] >= 0);
    struct iovec vector[] = {{at, 3 * PAGE}, {plain, PAGE}, {at + 3 * PAGE, SIZE - 3 * PAGE}};
    for (int version = 1; version < 3; version++) {
        writer_writes(&writer, 0, (size_t)version * SIZE / 2, version);
        for (int way = 0; way < 4; way++) {
            int by_number = way & 1, self = selves[way / 2];
            *plain = 7;
            ssize_t advised = advise(by_number, self, vector, 3, way & 2 ? MADV_DONTNEED : DONTNEED_LOCKED);
            if (advised == -1 && (errno == EINVAL || errno == EBADF || errno == EPERM) && way < 2)
                SKIP("process_madvise gives a process no such advice before Linux 6.13");
            if (advised == -1 && errno == EBADF)
                continue;
            CHECK(advised == (ssize_t)(SIZE + PAGE) && *plain == 0 && shows(at, 0, SIZE, 0));
            /* Until one fails. */
            struct iovec half[] = {{plain, PAGE}, {at + 1, PAGE}, {plain, PAGE}};
            CHECK(advise(by_number, self, half, 3, MADV_DONTNEED) == (ssize_t)PAGE);
            CHECK_ERRNO(advise(by_number, self, half + 1, 2, MADV_DONTNEED), -1, EINVAL);
            CHECK_ERRNO(advise(by_number, self, vector, 1, GUARD_INSTALL), -1, EINVAL);
            CHECK_ERRNO(advise(by_number, self, (void *)8, 1, MADV_DONTNEED), -1, EFAULT);
            CHECK(shows(at, 0, SIZE, 0));
        }
    }
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        for (;;)
            pause();
    int other = (int)syscall(SYS_pidfd_open, child, 0);
    CHECK_ERRNO(advise(0, other, vector, 3, MADV_DONTNEED), -1, EINVAL);
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
    CHECK(stat_of(at).state == SNAPSHIM_EXACT && shows(at, 0, SIZE, 0));
    writer_end(&writer);
}

/* A mapping that becomes writable is armed, by whatever name and number. */
static void a_key_or_none_keeps_it_armed(int protection, enum who who)
{
    (void)who;
    int fd = make_file("file", SIZE);
    unsigned char *shared = mmap(NULL, SIZE, protection, MAP_SHARED, fd, 0);
    CHECK(shared != MAP_FAILED);
    unsigned char *at = snapshot(fd, 0, SIZE, PROT_READ);
    CHECK(syscall(SYS_pkey_mprotect, shared, SIZE, PROT_READ | PROT_WRITE, -1) == 0);
    memset(shared, 9, SIZE);
    CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
    /* A snapshot that has become writable keeps what is stored into it. */
    CHECK(syscall(SYS_pkey_mprotect, at, SIZE, PROT_READ | PROT_WRITE, -1) == 0);
    at[5] = 99;
    overwrite(fd, 0, SIZE, 3);
    CHECK(at[5] == 99 && shows(at + PAGE, PAGE, SIZE - PAGE, 0));
}

static void a_segment_attached_over_it_takes_its_place(int protection, enum who who)
{
    for (int by_number = 0; by_number < 2; by_number++) {
        int fd = make_file("file", SIZE);
        struct writer writer = writer_before(who, "file");
        unsigned char *at = snapshot(fd, 0, SIZE, protection);
        writer_after(&writer);
        int segment = shmget(IPC_PRIVATE, SIZE / 2, 0600 | IPC_CREAT);
        CHECK(segment >= 0);
        unsigned char *where = at + 4 * PAGE + (by_number ? 100 : 0);
        int flags = SHM_REMAP | (by_number ? SHM_RND : 0);
        long found = by_number ? syscall(SYS_shmat, segment, where, flags) : (long)shmat(segment, where, flags);
        CHECK(shmctl(segment, IPC_RMID, NULL) == 0);
        CHECK(found == (long)(at + 4 * PAGE));
        memset(at + 4 * PAGE, 'S', SIZE / 2);
        writer_writes(&writer, 0, SIZE, 1);
        for (size_t i = 4 * PAGE; i < 4 * PAGE + SIZE / 2; i++)
            CHECK(at[i] == 'S');
        CHECK(shows(at, 0, 4 * PAGE, 0) && shows(at + 12 * PAGE, 12 * PAGE, 4 * PAGE, 0));
        struct snapshim_stat stat;
        CHECK(snapshim_stat(at + 4 * PAGE, &stat) == -1 && stat_of(at).state == SNAPSHIM_EXACT);
        CHECK(shmdt(at + 4 * PAGE) == 0);
        writer_end(&writer);
        munmap(at, SIZE);
        close(fd);
    }
}

static void lock(int by_number, int all, void *at)
{
    long locked = all ? (by_number ? syscall(SYS_mlockall, MCL_CURRENT) : mlockall(MCL_CURRENT))
                      : (by_number ? syscall(SYS_mlock, at, SIZE) : mlock2(at, SIZE, 0));
    CHECK(locked == 0);
}

/* Kilobytes of the mapping at `at` that are locked. */
static size_t locked_at(const void *at)
{
    char line[300];
    size_t found = 0, start, end, number;
    int is_there = 0;
    FILE *maps = fopen("/proc/self/smaps", "r");
    CHECK(maps);
    while (fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%zx-%zx ", &start, &end) == 2)
            is_there = start <= (size_t)at && (size_t)at < end;
        if (is_there && sscanf(line, "Locked: %zu", &number) == 1)
            found = number;
    }
    fclose(maps);
    return found;
}

/* What is locked stays so when it is moved off the file, and what is not is not. */
static void locks_by_number_are_known(int protection, enum who who)
{
    (void)who;
    for (int turn = 0; turn < 4; turn++) {
        int by_number = turn & 1, all = turn / 2;
        int fd = make_file("file", SIZE);
        unsigned char *at = snapshot(fd, 0, SIZE, protection);
        lock(by_number, all, at);
        CHECK(ftruncate(fd, 0) == 0 && shows(at, 0, SIZE, 0));
        CHECK(locked_at(at) != 0);
        CHECK(munmap(at, SIZE) == 0);
        CHECK(munlockall() == 0);
        close(fd);

        fd = make_file("file", SIZE);
        at = snapshot(fd, 0, SIZE, protection);
        lock(by_number, all, at);
        long unlocked = all ? (by_number ? syscall(SYS_munlockall) : munlockall()) : syscall(SYS_munlock, at, SIZE);
        CHECK(unlocked == 0 && ftruncate(fd, 0) == 0 && shows(at, 0, SIZE, 0));
        CHECK(locked_at(at) == 0);
        CHECK(munmap(at, SIZE) == 0);
        close(fd);
    }
}

/* Opens the file behind a mapping. */
static int behind(const void *at, size_t length)
{
    char name[100];
    snprintf(name, sizeof name, "/proc/self/map_files/%zx-%zx", (size_t)at, (size_t)at + length);
    return open(name, O_RDWR);
}

static void memory_without_a_file_is_eopnotsupp(int protection, enum who who)
{
    (void)who;
    int zero = open("/dev/zero", O_RDWR), segment = shmget(IPC_PRIVATE, SIZE, 0600 | IPC_CREAT);
    int memory = memfd_create("dev/zero", MFD_CLOEXEC);
    CHECK(zero >= 0 && segment >= 0 && memory >= 0 && ftruncate(memory, SIZE) == 0);
    int rw = PROT_READ | PROT_WRITE;
    void *mapped[] = {mmap(NULL, SIZE, rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0), mmap(NULL, SIZE, rw, MAP_SHARED, zero, 0),
                      shmat(segment, NULL, 0), mmap(NULL, SIZE, rw, MAP_SHARED, memory, 0)};
    CHECK(shmctl(segment, IPC_RMID, NULL) == 0);
    for (int i = 0; i < 4; i++) {
        CHECK(mapped[i] != MAP_FAILED);
        memset(mapped[i], 'A', SIZE);
        int fd = behind(mapped[i], SIZE);
        if (fd < 0 && errno == EPERM)
            SKIP("/proc/self/map_files is closed");
        CHECK(fd >= 0);
        if (i < 3) {
            CHECK_ERRNO(mmap(NULL, SIZE, protection, MAP_PRIVATE | MAP_SNAPSHOT, fd, 0), MAP_FAILED, EOPNOTSUPP);
            continue;
        }
        /* A memfd is a file. */
        unsigned char *at = snapshot(fd, 0, SIZE, protection);
        memset(mapped[i], 'B', SIZE);
        for (size_t at_byte = 0; at_byte < SIZE; at_byte++)
            CHECK(at[at_byte] == 'A');
        CHECK(stat_of(at).state == SNAPSHIM_EXACT);
    }
}

static int fault_handler(void *at, size_t length)
{
    int faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.range = {(uint64_t)(uintptr_t)at, length}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (faults < 0 || ioctl(faults, UFFDIO_API, &api) != 0 || ioctl(faults, UFFDIO_REGISTER, &range) != 0)
        return -1;
    return faults;
}

static void fill(int faults, unsigned char *shared, int elsewhere)
{
    static unsigned char page[4096] __attribute__((aligned(4096)));
    memset(page, 'U', sizeof page);
    if (elsewhere)
        CHECK(munmap(shared, SIZE) == 0);
    struct uffdio_copy copy = {
        .dst = (uint64_t)(uintptr_t)(shared + PAGE), .src = (uint64_t)(uintptr_t)page, .len = PAGE};
    CHECK(ioctl(faults, UFFDIO_COPY, &copy) == 0 && copy.copy == (int64_t)PAGE);
}

/* A page that userfaultfd puts into a hole of a file changes it, and nothing can be preserved before: the call goes on as ever. */
static void a_hole_that_is_filled_makes_it_doubtful(int protection, enum who who)
{
    (void)who;
    for (int elsewhere = 0; elsewhere < 2; elsewhere++) {
        unlink("file");
        int fd = open("file", O_RDWR | O_CREAT, 0600), untouched = make_file("other", SIZE);
        CHECK(fd >= 0 && ftruncate(fd, SIZE) == 0);
        unsigned char *shared = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        int faults = fault_handler(shared, SIZE);
        if (faults < 0)
            SKIP("no userfaultfd on mappings of this file");
        unsigned char *at = snapshot(fd, 0, SIZE, protection), *other = snapshot(untouched, 0, SIZE, protection);
        IN_CHILD(fill(faults, shared, elsewhere));
        CHECK(shared[PAGE] == 'U' && stat_of(at).state == SNAPSHIM_DOUBTFUL);
        CHECK(elsewhere || stat_of(other).state == SNAPSHIM_EXACT);
        munmap(at, SIZE), munmap(other, SIZE), munmap(shared, SIZE), close(faults), close(fd), close(untouched);
    }
}

/* What has been moved off the file must not lose its pages by UFFDIO_MOVE. */
static void its_pages_cannot_be_moved_away(int protection, enum who who)
{
    (void)who;
    struct {
        uint64_t to, from, length, mode;
        int64_t moved;
    } move = {.length = PAGE};
    int fd = make_file("file", SIZE);
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    CHECK(ftruncate(fd, 0) == 0);
    unsigned char *plain = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *source = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(source, 7, SIZE);
    int faults = fault_handler(plain, SIZE);
    if (faults < 0)
        SKIP("no userfaultfd");
    move.to = (uint64_t)(uintptr_t)plain;
    move.from = (uint64_t)(uintptr_t)source;
    if (ioctl(faults, 0xc028aa05UL, &move) != 0)
        SKIP("no UFFDIO_MOVE before Linux 6.8");
    CHECK(plain[0] == 7);
    move.to += PAGE;
    move.from = (uint64_t)(uintptr_t)at;
    CHECK_ERRNO(ioctl(faults, 0xc028aa05UL, &move), -1, EINVAL);
    CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
}

/* libc's own function: a handle of libc's leads past what the shim exports. */
static void *of_libc(const char *name)
{
    void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
    void *function = libc ? dlsym(libc, name) : NULL;
    CHECK(function);
    return function;
}

static void a_handle_of_libc_leads_to_the_same(int protection, enum who who)
{
    void *(*map)(void *, size_t, int, int, int, off_t) = of_libc("mmap");
    int (*unmap)(void *, size_t) = of_libc("munmap"), (*protect)(void *, size_t, int) = of_libc("mprotect");
    int (*advise)(void *, size_t, int) = of_libc("madvise"), (*advise_portably)(void *, size_t, int) = of_libc("posix_madvise");
    void *(*move)(void *, size_t, size_t, int, ...) = of_libc("mremap");
    int fd = make_file("file", SIZE), both = PROT_READ | PROT_WRITE;
    struct writer writer = writer_before(who, "file");
    unsigned char *shared = map(NULL, SIZE, both, MAP_SHARED, fd, 0);
    unsigned char *closed = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
    unsigned char *at = map(NULL, SIZE, protection, MAP_PRIVATE | MAP_SNAPSHOT, fd, 0);
    CHECK(shared != MAP_FAILED && closed != MAP_FAILED && at != MAP_FAILED);
    writer_after(&writer);
    memset(shared, 9, PAGE);
    CHECK(protect(closed, SIZE, both) == 0);
    memset(closed + PAGE, 9, PAGE);
    CHECK(advise(shared + 2 * PAGE, 2 * PAGE, MADV_REMOVE) == 0);
    CHECK(advise_portably(shared + 4 * PAGE, 2 * PAGE, MADV_REMOVE) == 0);
    CHECK(shows(at, 0, SIZE, 0));
    writer_writes(&writer, 0, SIZE / 2, 1);
    CHECK(advise(at, SIZE, MADV_DONTNEED) == 0 && shows(at, 0, SIZE, 0));
    CHECK_ERRNO(advise(at, SIZE, MADV_REMOVE), -1, EINVAL);
    /* What takes its place is no snapshot any more, and what is moved is. */
    CHECK(map(at + 8 * PAGE, PAGE, both, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at + 8 * PAGE);
    CHECK(unmap(at + 9 * PAGE, PAGE) == 0);
    unsigned char *moved = map(NULL, 4 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(move(at + 10 * PAGE, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, moved) == moved);
    struct snapshim_stat stat;
    for (size_t page = 8; page < 10; page++)
        CHECK_ERRNO(snapshim_stat(at + page * PAGE, &stat), -1, EINVAL);
    writer_writes(&writer, 0, SIZE, 2);
    CHECK(shows(at, 0, 8 * PAGE, 0) && shows(moved, 10 * PAGE, 4 * PAGE, 0) && shows(at + 14 * PAGE, 14 * PAGE, 2 * PAGE, 0));
    CHECK(at[8 * PAGE] == 0 && stat_of(at).state == SNAPSHIM_EXACT && stat_of(moved).state == SNAPSHIM_EXACT);
    writer_end(&writer);
}

/* The kernel takes a number's low 32 bits alone; numbers of the x32 table are no calls to it here. */
static void high_bits_of_a_number_hide_nothing(int protection, enum who who)
{
    (void)who;
    int fd = make_file("file", SIZE);
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    char byte = 9;
    for (long high = 1L << 32; high != 0; high <<= 8) {
        long written = syscall(high | SYS_pwrite64, fd, &byte, 1L, (long)PAGE);
        CHECK(written == 1 || (written == -1 && errno == ENOSYS));
    }
    CHECK_ERRNO(syscall(0x40000000L | SYS_pwrite64, fd, &byte, 1L, 0L), -1, ENOSYS);
    CHECK_ERRNO(syscall(535L, fd, &byte, 1L, 0L), -1, ENOSYS);
    CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
}

/* A mapping of huge pages is as long as they are, and takes the place of all that lies there. */
static void a_huge_page_over_it_takes_its_place(int protection, enum who who)
{
    enum { HUGE_PAGE = 2 << 20, OF_THIS_SIZE = 21 << 26 };
    unsigned char *room = mmap(NULL, 2 * HUGE_PAGE + SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *huge = (unsigned char *)(((uintptr_t)room + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    unsigned char *where = huge + HUGE_PAGE - SIZE / 2;
    int file = memfd_create("huge", MFD_HUGETLB | OF_THIS_SIZE);
    for (int way = 0; way < 3; way++) {
        int fd = make_file("file", SIZE);
        struct writer writer = writer_before(who, "file");
        unsigned char *at = mmap(where, SIZE, protection, MAP_PRIVATE | MAP_SNAPSHOT | MAP_FIXED, fd, 0);
        CHECK(at == where && stat_of(at).state == SNAPSHIM_EXACT);
        writer_after(&writer);
        int flags = MAP_FIXED | MAP_NORESERVE | (way == 2 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB);
        void *made = mmap(huge, PAGE, PROT_READ, flags | (way == 1 ? OF_THIS_SIZE : 0), way == 2 ? file : -1, 0);
        if (made == MAP_FAILED)
            SKIP("no huge pages of 2 MiB");
        struct snapshim_stat stat;
        CHECK_ERRNO(snapshim_stat(at, &stat), -1, EINVAL);
        writer_writes(&writer, 0, SIZE, 1);
        CHECK(shows(at + SIZE / 2, SIZE / 2, SIZE / 2, 0) && stat_of(at + SIZE / 2).state == SNAPSHIM_EXACT);
        writer_end(&writer);
        CHECK(munmap(at + SIZE / 2, SIZE / 2) == 0 && munmap(huge, HUGE_PAGE) == 0);
        close(fd);
    }
}

/* Where huge pages are wanting, the call fails when it has taken away what was there. */
static void what_a_failed_call_took_away_is_known(int protection, enum who who)
{
    enum { HUGE_PAGE = 2 << 20 };
    unsigned char *room = mmap(NULL, 2 * HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *huge = (unsigned char *)(((uintptr_t)room + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = mmap(huge, SIZE, protection, MAP_PRIVATE | MAP_SNAPSHOT | MAP_FIXED, fd, 0);
    CHECK(at == huge && stat_of(at).state == SNAPSHIM_EXACT);
    writer_after(&writer);
    int huge_pages = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED;
    if (mmap(huge, HUGE_PAGE, PROT_READ, huge_pages, -1, 0) != MAP_FAILED) {
        writer_end(&writer);
        SKIP("there are huge pages");
    }
    unsigned char in_memory;
    struct snapshim_stat stat;
    if (mincore(at, PAGE, &in_memory) != 0) {
        CHECK_ERRNO(snapshim_stat(at, &stat), -1, EINVAL);
        /* What comes to that place is the program's alone. */
        CHECK(mmap(at, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == at);
        memset(at, 9, SIZE);
        writer_writes(&writer, 0, SIZE, 1);
        for (size_t i = 0; i < SIZE; i++)
            CHECK(at[i] == 9);
    } else {
        writer_writes(&writer, 0, SIZE, 1);
        CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
    }
    writer_end(&writer);
}

static const struct scenario scenarios[] = {
    EACH(posix_advice_keeps_what_is_preserved),
    EACH(advice_to_oneself_keeps_what_is_preserved),
    EACH(a_key_or_none_keeps_it_armed),
    EACH(a_segment_attached_over_it_takes_its_place),
    EACH(locks_by_number_are_known),
    EACH(memory_without_a_file_is_eopnotsupp),
    EACH(a_hole_that_is_filled_makes_it_doubtful),
    EACH(its_pages_cannot_be_moved_away),
    EACH(a_handle_of_libc_leads_to_the_same),
    EACH(high_bits_of_a_number_hide_nothing),
    EACH(a_huge_page_over_it_takes_its_place),
    EACH(what_a_failed_call_took_away_is_known),
};
MAIN(scenarios)

/* mmap(MAP_SNAPSHOT) refuses what it cannot promise, and otherwise what mmap(2) refuses. */
#include "check.h"

#include <sys/eventfd.h>
#include <sys/socket.h>

static void *ask(int fd, int flags)
{
    return mmap(NULL, PAGE, PROT_READ, flags | MAP_SNAPSHOT, fd, 0);
}

static void shared_and_anonymous_are_einval(int protection, enum who who)
{
    (void)protection, (void)who;
    int fd = make_file("file", PAGE);
    CHECK_ERRNO(ask(fd, MAP_SHARED), MAP_FAILED, EINVAL);
    CHECK_ERRNO(ask(fd, MAP_SHARED_VALIDATE), MAP_FAILED, EINVAL);
    CHECK_ERRNO(ask(-1, MAP_PRIVATE | MAP_ANONYMOUS), MAP_FAILED, EINVAL);
    CHECK_ERRNO(ask(fd, MAP_PRIVATE | MAP_ANONYMOUS), MAP_FAILED, EINVAL);
    CHECK_ERRNO(ask(-1, MAP_SHARED | MAP_ANONYMOUS), MAP_FAILED, EINVAL);
    CHECK_ERRNO(ask(fd, 0), MAP_FAILED, EINVAL);
    CHECK(ask(fd, MAP_PRIVATE) != MAP_FAILED);
}

static void neither_file_nor_block_device_is_enodev(int protection, enum who who)
{
    (void)protection, (void)who;
    int pair[2], ends[2];
    CHECK(pipe(ends) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    int others[] = {ends[0],
                    ends[1],
                    pair[0],
                    open(".", O_RDONLY | O_DIRECTORY),
                    open("/dev/null", O_RDWR),
                    open("/dev/zero", O_RDWR),
                    eventfd(0, 0)};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        CHECK(others[i] >= 0);
        CHECK_ERRNO(ask(others[i], MAP_PRIVATE), MAP_FAILED, ENODEV);
    }
}

static void procfs_is_eopnotsupp(int protection, enum who who)
{
    (void)protection, (void)who;
    static const char *const paths[] = {"/proc/self/maps", "/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        int fd = open(paths[i], O_RDONLY);
        if (fd < 0 && i == 2)
            continue;
        CHECK(fd >= 0);
        CHECK_ERRNO(ask(fd, MAP_PRIVATE), MAP_FAILED, EOPNOTSUPP);
    }
}

static void hugetlbfs_is_eopnotsupp(int protection, enum who who)
{
    (void)protection, (void)who;
    int fd = memfd_create("huge", MFD_HUGETLB);
    if (fd < 0)
        SKIP("the kernel has no hugetlbfs");
    CHECK(ftruncate(fd, 2 << 20) == 0);
    CHECK_ERRNO(ask(fd, MAP_PRIVATE), MAP_FAILED, EOPNOTSUPP);
}

/* What mmap(2) says with these arguments and a descriptor; 0 if it succeeds. */
static int answer(void *address, size_t length, int flags, int fd, off_t offset)
{
    errno = 0;
    void *at = mmap(address, length, PROT_READ, flags, fd, offset);
    if (at == MAP_FAILED)
        return errno;
    CHECK(munmap(at, length) == 0);
    return 0;
}

#define AS_PLAIN(address, length, flags, fd, offset)                                                              \
    do {                                                                                                          \
        int plain_ = answer(address, length, MAP_PRIVATE | (flags), fd, offset);                                  \
        int snapshot_ = answer(address, length, MAP_PRIVATE | MAP_SNAPSHOT | (flags), fd, offset);                \
        if (plain_ != snapshot_) {                                                                                \
            fprintf(stderr, "%s:%d: plain errno %d, snapshot errno %d\n", __FILE__, __LINE__, plain_, snapshot_); \
            differences++;                                                                                        \
        }                                                                                                         \
    } while (0)

static void other_arguments_are_judged_as_by_mmap(int protection, enum who who)
{
    (void)protection, (void)who;
    int differences = 0;
    int fd = make_file("file", 8 * PAGE + 5), closed = dup(fd);
    CHECK(close(closed) == 0);
    AS_PLAIN(NULL, PAGE, 0, closed, 0);
    AS_PLAIN(NULL, PAGE, 0, -1, 0);
    AS_PLAIN(NULL, PAGE, 0, -7, 0);
    AS_PLAIN(NULL, PAGE, 0, 0x7fffffff, 0);
    AS_PLAIN(NULL, PAGE, 0, open("file", O_WRONLY), 0);
    AS_PLAIN(NULL, PAGE, 0, open("file", O_PATH), 0);

    static const size_t lengths[] = {0,          1,         PAGE - 1,           PAGE,    PAGE + 1,      8 * PAGE,
                                     9 * PAGE,   20 * PAGE, (size_t)1 << 40,    -1UL,    -4096UL,       (size_t)1 << 47,
                                     (size_t)1 << 63, -4095UL, ((size_t)1 << 47) - 4096};
    static const off_t offsets[] = {0, 1, 4095, 4096, 8 * 4096, 9 * 4096, 1L << 40, -4096, -1,
                                    0x7ffffffffffff000, 0x7fffffffffffffff, (off_t)(1UL << 63)};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
        for (size_t j = 0; j < sizeof offsets / sizeof offsets[0]; j++) {
            int before = differences;
            AS_PLAIN(NULL, lengths[i], 0, fd, offsets[j]);
            if (differences != before)
                fprintf(stderr, "  with length %#zx, offset %#lx\n", lengths[i], (long)offsets[j]);
        }

    unsigned char *place = free_range(4 * PAGE);
    AS_PLAIN(place + 5, PAGE, 0, fd, 0);
    AS_PLAIN(place, PAGE, MAP_FIXED, fd, 0);
    AS_PLAIN(place + 5, PAGE, MAP_FIXED, fd, 0);
    AS_PLAIN(place, 0, MAP_FIXED, fd, 0);
    AS_PLAIN(place, PAGE, MAP_FIXED, fd, 5);
    AS_PLAIN(place, PAGE, MAP_FIXED, closed, 0);
    AS_PLAIN((void *)0xffff800000000000, PAGE, MAP_FIXED, fd, 0);
    AS_PLAIN((void *)0x00007ffffffff000, 4 * PAGE, MAP_FIXED, fd, 0);
    AS_PLAIN((void *)-4096UL, 2 * PAGE, MAP_FIXED, fd, 0);
    AS_PLAIN(place, PAGE, MAP_FIXED_NOREPLACE, fd, 0);
    AS_PLAIN(place + 5, PAGE, MAP_FIXED_NOREPLACE, fd, 0);
    AS_PLAIN((void *)0xffff800000000000, PAGE, MAP_FIXED_NOREPLACE, fd, 0);
    AS_PLAIN(NULL, PAGE, MAP_NORESERVE | MAP_DENYWRITE | MAP_EXECUTABLE, fd, 0);
    CHECK(differences == 0);
}

/* The descriptor may be closed at once, may be read-only, and its position does not matter. */
static void the_descriptor_is_not_needed_any_more(int protection, enum who who)
{
    close(make_file("file", 4 * PAGE));
    struct writer writer = writer_before(who, "file");
    int fd = open("file", O_RDONLY | O_CLOEXEC);
    CHECK(lseek(fd, 3 * PAGE, SEEK_SET) == 3 * PAGE);
    unsigned char *at = snapshot(fd, 0, 4 * PAGE, protection);
    CHECK(lseek(fd, 0, SEEK_CUR) == 3 * PAGE);
    close(fd);
    writer_after(&writer);
    writer_writes(&writer, 0, 4 * PAGE, 1);
    CHECK(shows(at, 0, 4 * PAGE, 0));
    CHECK(stat_of(at).state == SNAPSHIM_EXACT);
    writer_end(&writer);
}

/* Once the snapshot was split where no page begins, and the table was damaged. */
static void a_place_that_mremap_refuses_leaves_it(int protection, enum who who)
{
    int fd = make_file("file", 4 * PAGE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, 4 * PAGE, protection);
    int shared = make_file("shared", PAGE);
    void *other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
    CHECK(other != MAP_FAILED);
    CHECK_ERRNO(mremap(other, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at + PAGE + 1), MAP_FAILED, EINVAL);
    CHECK_ERRNO(mremap(other, PAGE, (size_t)-1, MREMAP_MAYMOVE | MREMAP_FIXED, at + PAGE), MAP_FAILED, EINVAL);
    writer_after(&writer);
    writer_writes(&writer, 0, 4 * PAGE, 1);
    CHECK(shows(at, 0, 4 * PAGE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
    CHECK(munmap(snapshot(fd, 0, 4 * PAGE, protection), 4 * PAGE) == 0 && munmap(other, PAGE) == 0);
    writer_end(&writer);
}

static const struct scenario scenarios[] = {
    ONCE(shared_and_anonymous_are_einval),
    ONCE(neither_file_nor_block_device_is_enodev),
    ONCE(procfs_is_eopnotsupp),
    ONCE(hugetlbfs_is_eopnotsupp),
    ONCE(other_arguments_are_judged_as_by_mmap),
    EACH(the_descriptor_is_not_needed_any_more),
    EACH(a_place_that_mremap_refuses_leaves_it),
};
MAIN(scenarios)

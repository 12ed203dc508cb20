/* A mapper that answers faults in its memory itself (userfaultfd(2)), beside a writer of the file. The first argument is a scenario; the
 * policy and the way of preserving are in the environment. */
#include "check.h"

#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

enum { PAGES = 4, SIZE = PAGES * 4096 };

/* ioctl(2) past every hook. */
static long bare_ioctl(int fd, unsigned long request, void *argument)
{
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(SYS_ioctl), "D"(fd), "S"(request), "d"(argument)
                     : "rcx", "r11", "memory");
    return result;
}

static int make_faults(void)
{
    int faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_WP_HUGETLBFS_SHMEM};
    return faults >= 0 && ioctl(faults, UFFDIO_API, &api) == 0 ? faults : -1;
}

static struct uffdio_register range_of(const void *at, size_t length, unsigned mode)
{
    return (struct uffdio_register){.range = {(uintptr_t)at, length}, .mode = mode};
}

static void a_snapshot_is_not_registered(int protection, enum who who)
{
    int faults = make_faults();
    if (faults < 0)
        SKIP("userfaultfd(2) needs root");
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    static const unsigned modes[] = {UFFDIO_REGISTER_MODE_WP, UFFDIO_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_MINOR};
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        struct uffdio_register all = range_of(at, SIZE, modes[i]), end = range_of(at + SIZE - PAGE, 8 * PAGE, modes[i]);
        CHECK_ERRNO(ioctl(faults, UFFDIO_REGISTER, &all), -1, EINVAL);
        CHECK_ERRNO(syscall(SYS_ioctl, faults, UFFDIO_REGISTER, &end), -1, EINVAL);
    }
    /* Other memory is, as ever. */
    unsigned char *other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register range = range_of(other, PAGE, UFFDIO_REGISTER_MODE_MISSING);
    CHECK(other != MAP_FAILED && ioctl(faults, UFFDIO_REGISTER, &range) == 0);
    writer_writes(&writer, 0, SIZE, 1);
    CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
    writer_end(&writer);
}

/* Registers a snapshot past the hooks and write-protects its pages. They are not there yet: what stands for them looks swapped, and must
 * not be taken for pages of the mapper's own. 0: that cannot be done here. */
static int is_registered(int faults, unsigned char *at)
{
    struct uffdio_register range = range_of(at, SIZE, UFFDIO_REGISTER_MODE_WP);
    struct uffdio_writeprotect all = {.range = range.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    if (faults < 0 || bare_ioctl(faults, UFFDIO_REGISTER, &range) != 0)
        return 0;
    CHECK(ioctl(faults, UFFDIO_WRITEPROTECT, &all) == 0);
    return 1;
}

/* Without an answer the write ends all the same: well, and the snapshot faults, or not at all. */
static void ends_without_an_answer(int protection)
{
    int faults = make_faults();
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(FORKED_BEFORE, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    if (!is_registered(faults, at))
        SKIP("no snapshot can be registered past the hooks here");
    int failure = writer_tries(&writer, 0, PAGE, 1);
    CHECK(failure == 0 || failure == ENOSPC || failure == EIO);
    if (fault_of_reading(at) == 0)
        CHECK(shows(at, 0, SIZE, 0));
    else
        CHECK(failure == 0 && stat_of(at).state == SNAPSHIM_BROKEN);
    writer_end(&writer);
}

static void a_writer_does_not_wait_for_ever(int protection, enum who who)
{
    (void)who;
    IN_CHILD(ends_without_an_answer(protection));
    IN_CHILD(ends_without_an_answer(protection | PROT_WRITE));
}

static void *answer(void *number)
{
    int faults = (int)(intptr_t)number;
    for (struct uffd_msg message; read(faults, &message, sizeof message) == sizeof message;) {
        struct uffdio_writeprotect page = {.range = {message.arg.pagefault.address / PAGE * PAGE, PAGE}};
        CHECK(message.event == UFFD_EVENT_PAGEFAULT && ioctl(faults, UFFDIO_WRITEPROTECT, &page) == 0);
    }
    return NULL;
}

static void a_writer_goes_on_when_the_fault_is_answered(int protection, enum who who)
{
    int faults = make_faults();
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    if (!is_registered(faults, at))
        SKIP("no snapshot can be registered past the hooks here");
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, answer, (void *)(intptr_t)faults) == 0);
    writer_writes(&writer, 0, SIZE, 1);
    CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
    writer_end(&writer);
}

static const struct scenario scenarios[] = {
    EACH(a_snapshot_is_not_registered),
    ONCE(a_writer_does_not_wait_for_ever),
    EACH(a_writer_goes_on_when_the_fault_is_answered),
};

MAIN(scenarios)

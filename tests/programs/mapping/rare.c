/* rare MODE FILE: memory calls that a mapper makes seldom, and snapshots where there is little room. Natively the same is said. */
#include "check.h"

#include <linux/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static const char *path;
static int file;

static const char *error_of(long result)
{
    return result < 0 ? strerrorname_np(errno) : "ok";
}

/* For a user that may not lock all memory. */
static void lock_all(void)
{
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    if (limit.rlim_max > 64 << 20)
        limit.rlim_max = 64 << 20;
    limit.rlim_cur = limit.rlim_max;
    CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
    CHECK(pwrite(file, "w", 1, 0) == 1);
    printf("what is there: %s\n", error_of(mlockall(MCL_CURRENT)));
    CHECK(munlockall() == 0);
    unsigned char *at = snapshot(file, 0, 4 * PAGE, PROT_READ | PROT_WRITE);
    printf("with a snapshot: %s\n", error_of(mlockall(MCL_CURRENT | MCL_FUTURE)));
    CHECK(munlockall() == 0);
    CHECK(munmap(at, 4 * PAGE) == 0);
    void *much = mmap(NULL, 2 * limit.rlim_cur, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(much != MAP_FAILED);
    printf("more than is allowed: %s\n", error_of(mlockall(MCL_CURRENT)));
}

/* By the name that glibc has from 2.43 on. With an older one the library's own hook is found. */
int mseal(void *at, size_t size, unsigned long flags) __attribute__((weak));

static long seal_by_number(void *at, size_t size)
{
    return syscall(462 /* mseal */, at, size, 0L);
}

static long seal_by_name(void *at, size_t size)
{
    CHECK(mseal || !snapshim_active());
    return mseal ? mseal(at, size, 0) : seal_by_number(at, size);
}

/* A sealed mapping stays where it is, so the snapshot leaves its file before. */
static void seal(long (*by)(void *at, size_t size))
{
    size_t size = 16 * PAGE;
    unsigned char *before = malloc(size), *at = snapshot(file, 0, size, PROT_READ);
    memcpy(before, at, size);
    long sealed = by(at, size);
    if (sealed != 0 && errno == ENOSYS) {
        printf("no mseal here\n");
        return;
    }
    CHECK(sealed == 0);
    printf("munmap: %s\n", error_of(munmap(at, size)));
    printf("mprotect: %s\n", error_of(mprotect(at, size, PROT_NONE)));
    printf("write: %s\n", error_of(pwrite(file, "w", 1, 5 * PAGE)));
    printf("cut: %s\n", error_of(ftruncate(file, 0)));
    if (snapshim_active())
        CHECK(memcmp(before, at, size) == 0);
}

static void sealed_by_number(void)
{
    seal(seal_by_number);
}

static void sealed_by_name(void)
{
    seal(seal_by_name);
}

/* The page with the end of the file is a hole, and the file system is full. */
static void full(void)
{
    void *at = mmap(NULL, 70000, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, file, 0);
    printf("mmap: %s\n", error_of(at == MAP_FAILED ? -1 : 0));
}

/* What strace shows of it is looked at. */
static void allow_ptrace(void)
{
    prctl(PR_SET_PTRACER, getppid(), 0, 0, 0);
    unsigned char *first = snapshot(file, 0, PAGE, PROT_READ), *second = snapshot(file, 0, PAGE, PROT_READ);
    CHECK(munmap(first, PAGE) == 0);
    IN_CHILD(CHECK(munmap(second, PAGE) == 0));
    CHECK(munmap(second, PAGE) == 0);
}

static const struct {
    const char *name;
    void (*run)(void);
} modes[] = {{"lock-all", lock_all}, {"seal", sealed_by_number}, {"seal-by-name", sealed_by_name}, {"full", full}, {"allow-ptrace", allow_ptrace}};

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    path = argv[2];
    file = open(path, O_RDWR);
    CHECK(file >= 0);
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (strcmp(modes[i].name, argv[1]) == 0) {
            modes[i].run();
            return 0;
        }
    return 2;
}

/* A mapper that is suspended, or that the writer may not touch, and what happens when a page cannot be preserved.
 * The driver sets SNAPSHIM_PUSH, SNAPSHIM_ON_FAILURE and SNAPSHIM_TIMEOUT_MS, and says in the second argument what has to come out:
 * "served", "refused" (the write fails, the snapshot stays exact) or "broken" (the snapshot faults, the write goes on). */
#include "suspend.h"

#include <grp.h>
#include <sys/syscall.h>
#include <time.h>

#define PAGES ((size_t)40)
#define SIZE (PAGES * PAGE)

static enum { SERVED, REFUSED, BROKEN } outcome;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double timeout(void)
{
    const char *value = getenv("SNAPSHIM_TIMEOUT_MS");
    return value ? atof(value) / 1000 : 2;
}

static int file_shows(int fd, size_t pages, int version)
{
    unsigned char page[4096];
    for (size_t i = 0; i < pages; i++) {
        CHECK(pread(fd, page, PAGE, (off_t)(i * PAGE)) == (ssize_t)PAGE);
        if (!shows(page, i * PAGE, PAGE, version))
            return 0;
    }
    return 1;
}

static int goes_on[2];

/* Starts a mapper that holds a snapshot, and is suspended then. */
static pid_t start_mapper(int protection, void (*check)(unsigned char *at))
{
    int is_ready[2];
    char byte;
    CHECK(pipe(is_ready) == 0 && pipe(goes_on) == 0);
    pid_t mapper = fork();
    CHECK(mapper >= 0);
    if (mapper == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int fd = open("file", O_RDONLY);
        CHECK(fd >= 0);
        unsigned char *at = snapshot(fd, 0, SIZE, protection);
        CHECK(write(is_ready[1], "", 1) == 1 && read(goes_on[0], &byte, 1) == 1);
        check(at);
        _exit(0);
    }
    CHECK(read(is_ready[0], &byte, 1) == 1);
    suspend(mapper);
    return mapper;
}

static void finish_mapper(pid_t mapper)
{
    int status;
    resume(mapper);
    CHECK(write(goes_on[1], "", 1) == 1);
    CHECK(waitpid(mapper, &status, 0) == mapper);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void check_exact(unsigned char *at)
{
    CHECK(shows(at, 0, SIZE, 0));
    CHECK(stat_of(at).state == SNAPSHIM_EXACT);
}

/* Served: promptly, without the mapper's help. Refused: after the timeout the write fails, and nothing has changed. */
static void a_suspended_mapper(int protection, enum who who)
{
    if (who == FORKED_AFTER)
        return;
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    pid_t mapper = start_mapper(protection, check_exact);
    double start = now();
    int failure = writer_tries(&writer, 0, SIZE, 1);
    double took = now() - start;
    if (outcome == SERVED) {
        CHECK(failure == 0 && took < timeout() / 4);
        CHECK(file_shows(fd, PAGES, 1));
    } else {
        CHECK(failure == ENOSPC && took >= timeout());
        CHECK(file_shows(fd, PAGES, 0));
    }
    finish_mapper(mapper);
    writer_writes(&writer, 0, SIZE, 2);
    CHECK(file_shows(fd, PAGES, 2));
    writer_end(&writer);
}

static void check_broken(unsigned char *at)
{
    struct snapshim_stat stat = stat_of(at);
    CHECK(stat.state == SNAPSHIM_BROKEN);
    CHECK(strstr(why_of(at), "its process"));
    for (size_t page = 0; page < stat.pages; page++)
        CHECK(fault_of_reading(at + page * PAGE) == SIGBUS);
}

static void become(uid_t uid, gid_t gid, gid_t common)
{
    CHECK(setgroups(1, &common) == 0 && setresgid(gid, gid, gid) == 0 && setresuid(uid, uid, uid) == 0);
}

enum { COMMON = 4242, MAPPER = 4243, WRITER = 4244, NOBODY = 65534 };

/* The table's directory belongs to root and a group that both are in. */
static void share_directory(void)
{
    const char *directory = getenv("SNAPSHIM_DIR");
    CHECK(directory && (mkdir(directory, 0770) == 0 || errno == EEXIST));
    CHECK(chown(directory, 0, COMMON) == 0 && chmod(directory, 0770) == 0);
}

/* `prepare` makes the mapper one that the writer may not touch. */
static void served_or_refused(int protection, void (*prepare)(void), uid_t writer_uid, gid_t writer_gid)
{
    if (geteuid() != 0)
        SKIP("needs root, to become two users");
    share_directory();
    int fd = make_file("file", SIZE), ready[2], go[2];
    CHECK(fchmod(fd, 0666) == 0);
    CHECK(pipe(ready) == 0 && pipe(go) == 0);
    pid_t mapper = fork();
    CHECK(mapper >= 0);
    if (mapper == 0) {
        prepare();
        close(go[1]);
        int file = open("file", O_RDONLY);
        unsigned char *at = snapshot(file, 0, SIZE, protection);
        unsigned char *part = snapshot(file, 3 * PAGE, 2 * PAGE, protection);
        char byte = 0;
        CHECK(write(ready[1], &byte, 1) == 1 && read(go[0], &byte, 1) == 1);
        if (outcome == BROKEN) {
            check_broken(at);
            check_broken(part);
        } else {
            check_exact(at);
            CHECK(shows(part, 3 * PAGE, 2 * PAGE, 0));
        }
        _exit(0);
    }
    close(ready[1]);
    char byte;
    CHECK(read(ready[0], &byte, 1) == 1);
    IN_CHILD({
        become(writer_uid, writer_gid, COMMON);
        int file = open("file", O_RDWR);
        CHECK(file >= 0 && snapshim_active() == 1);
        CHECK(try_overwrite(file, 5 * PAGE + 10, 3 * PAGE, 1) == (outcome == REFUSED ? ENOSPC : 0));
        CHECK(try_overwrite(file, 0, SIZE, 2) == (outcome == REFUSED ? ENOSPC : 0));
        CHECK(file_shows(file, PAGES, outcome == REFUSED ? 0 : 2));
    });
    CHECK(write(go[1], &byte, 1) == 1);
    int status;
    CHECK(waitpid(mapper, &status, 0) == mapper && status == 0);
}

/* Dropping a user id makes a process non-dumpable until it says otherwise (prctl(2)). */
static void be_dumpable(void)
{
    become(NOBODY, NOBODY, COMMON);
    CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
}

static void be_undumpable(void)
{
    become(NOBODY, NOBODY, COMMON);
    CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
}

static void be_another_user(void)
{
    become(MAPPER, MAPPER, COMMON);
    CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
}

static void be_another_user_of_that_group(void)
{
    become(MAPPER, COMMON, COMMON);
    CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
}

static void a_dumpable_mapper_of_the_same_user(int protection, enum who who)
{
    if (who == ITSELF)
        served_or_refused(protection, be_dumpable, NOBODY, NOBODY);
}

static void a_mapper_that_is_not_dumpable(int protection, enum who who)
{
    if (who == ITSELF)
        served_or_refused(protection, be_undumpable, NOBODY, NOBODY);
}

static void a_mapper_of_another_user(int protection, enum who who)
{
    if (who == ITSELF)
        served_or_refused(protection, be_another_user_of_that_group, WRITER, COMMON);
}

/* The common group is not the primary one of either: the table has to be the directory's group's all the same. */
static void a_mapper_of_another_user_and_primary_group(int protection, enum who who)
{
    if (who == ITSELF)
        served_or_refused(protection, be_another_user, WRITER, WRITER);
}

#ifdef __x86_64__
/* A call by the bare instruction, which no library sees. */
static long bare_call(long number, long first, long second, long third)
{
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(first), "S"(second), "d"(third)
                     : "rcx", "r11", "memory");
    return result;
}

static long bare_mprotect(void *at, size_t length, long protection)
{
    return bare_call(SYS_mprotect, (long)at, (long)length, protection);
}
#endif

/* The mapping was closed behind the shim's back, so neither writer nor agent can copy the page. */
static void a_page_that_nobody_can_copy(int protection, enum who who)
{
    (void)protection;
#ifndef __x86_64__
    (void)who;
    SKIP("needs a bare system call instruction of x86-64");
#else
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, PROT_READ | PROT_WRITE);
    unsigned char *other = snapshot(fd, 0, SIZE, PROT_READ);
    writer_after(&writer);
    writer_writes(&writer, 0, PAGE, 1);
    CHECK(bare_mprotect(at, SIZE, PROT_NONE) == 0);
    int failure = writer_tries(&writer, PAGE, PAGE, 2);
    CHECK(bare_mprotect(at, SIZE, PROT_READ | PROT_WRITE) == 0);
    unsigned char page[4096];
    CHECK(pread(fd, page, PAGE, PAGE) == (ssize_t)PAGE);
    CHECK(shows(other, 0, SIZE, 0) && stat_of(other).state == SNAPSHIM_EXACT);
    if (outcome == BROKEN) {
        CHECK(failure == 0 && shows(page, PAGE, PAGE, 2));
        check_broken(at);
        CHECK(mprotect(at, SIZE, PROT_READ) == 0);
        check_broken(at);
        CHECK(munmap(at, SIZE) == 0);
        CHECK_ERRNO(snapshim_stat(at, &(struct snapshim_stat){0}), -1, EINVAL);
    } else {
        CHECK(failure == ENOSPC && shows(page, PAGE, PAGE, 0));
        check_exact(at);
        writer_writes(&writer, 0, SIZE, 3);
        check_exact(at);
    }
    writer_writes(&writer, 0, SIZE, 4);
    CHECK(shows(other, 0, SIZE, 0));
    writer_end(&writer);
#endif
}

/* A sequential writer has pages ahead of its own preserved. Behind a cut that no library saw there are none, which fails no write. */
static void pages_ahead_that_nobody_can_copy(int protection, enum who who)
{
#ifndef __x86_64__
    (void)protection, (void)who;
    SKIP("needs a bare system call instruction of x86-64");
#else
    const size_t written = 40, whole = 256 * PAGE;
    int fd = make_file("file", whole);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, whole, protection);
    writer_after(&writer);
    for (size_t page = 0; page < written; page++)
        writer_writes(&writer, page * PAGE, PAGE, 1);
    struct snapshim_stat before = stat_of(at);
    CHECK(before.preserved > written && before.preserved < whole / PAGE);
    size_t end = (before.preserved + 3) * PAGE;
    CHECK(bare_call(SYS_ftruncate, fd, (long)end, 0) == 0);
    for (size_t page = written; page < end / PAGE; page++)
        writer_writes(&writer, page * PAGE, PAGE, 1);
    CHECK(shows(at, 0, end, 0) && stat_of(at).state != SNAPSHIM_BROKEN);
    writer_end(&writer);
#endif
}

static const struct scenario scenarios[] = {
    EACH(a_suspended_mapper),
    EACH(a_dumpable_mapper_of_the_same_user),
    EACH(a_mapper_that_is_not_dumpable),
    EACH(a_mapper_of_another_user),
    EACH(a_mapper_of_another_user_and_primary_group),
    EACH(a_page_that_nobody_can_copy),
    EACH(pages_ahead_that_nobody_can_copy),
};

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    outcome = strcmp(argv[2], "served") == 0 ? SERVED : strcmp(argv[2], "broken") == 0 ? BROKEN : REFUSED;
    return run_scenarios(argc, argv, scenarios, sizeof scenarios / sizeof scenarios[0]);
}

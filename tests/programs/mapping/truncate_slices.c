/* truncate_slices SCENARIO: a file is cut under a long snapshot. What is there of it is kept, and its holes stay holes. */
#include "check.h"

#include <pthread.h>
#include <time.h>

#define MIB ((size_t)1 << 20)
#define SLICE (2 * MIB)

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* A number of /proc/self/FILE, in KiB. */
static size_t kib_of(const char *file, const char *name)
{
    char line[256];
    size_t found = 0;
    FILE *lines = fopen(file, "r");
    CHECK(lines);
    while (fgets(line, sizeof line, lines))
        if (strncmp(line, name, strlen(name)) == 0)
            found += strtoul(line + strlen(name), NULL, 10);
    fclose(lines);
    return found;
}

static int mappings_in(const unsigned char *at, size_t length)
{
    char line[512];
    int count = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    while (fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx", &start, &end) == 2)
            count += start < (unsigned long)(at + length) && (unsigned long)at < end;
    }
    fclose(maps);
    return count;
}

static void cut_to(const char *path, off_t length)
{
    int fd = open(path, O_WRONLY);
    CHECK(fd >= 0 && ftruncate(fd, length) == 0);
    close(fd);
}

/* Empties the file by another process, or by this one. */
static void have_cut(enum who who, const char *path, off_t length)
{
    if (who == ITSELF)
        cut_to(path, length);
    else
        IN_CHILD(prctl(PR_SET_PDEATHSIG, SIGKILL); cut_to(path, length));
}

/* Whether every page of the range shows the file of `make_file`. */
static void check_pages(const unsigned char *at, size_t length)
{
    for (size_t page = 0; page < length / PAGE; page++)
        CHECK(at[page * PAGE] == stamp(page, 0) && at[page * PAGE + PAGE - 1] == stamp(page, 0));
}

/* Where the sparse file has data: at its start, its end, alone, in long runs, and across the bounds of slices. */
static const struct {
    size_t first, pages;
} data[] = {{0, 1}, {5, 2}, {100, 700}, {511, 2}, {4096, 512}, {70000, 3}, {200000, 1}, {262143, 1}};
static const size_t SPARSE = 262144 * PAGE;

static int has_data(size_t page)
{
    for (size_t i = 0; i < sizeof data / sizeof data[0]; i++)
        if (page - data[i].first < data[i].pages)
            return 1;
    return 0;
}

static int make_sparse(size_t *pages)
{
    int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)SPARSE) == 0);
    *pages = 0;
    for (size_t i = 0; i < sizeof data / sizeof data[0]; i++) {
        overwrite(fd, data[i].first * PAGE, data[i].pages * PAGE, 0);
        *pages += data[i].pages;
    }
    return fd;
}

/* What a page shows is looked at only where there is something: a look at a hole would fill it. */
static void check_sparse(const unsigned char *at, size_t stored)
{
    for (size_t i = 0; i < sizeof data / sizeof data[0]; i++)
        for (size_t page = data[i].first; page < data[i].first + data[i].pages; page++)
            CHECK(shows(at + page * PAGE, page * PAGE, PAGE, 0));
    for (size_t page = 3; page < SPARSE / PAGE; page += 40001)
        if (!has_data(page) && page != stored)
            for (size_t i = 0; i < PAGE; i += 64)
                CHECK(at[page * PAGE + i] == 0);
}

/* Once went wrong: a gigabyte of holes became a gigabyte of memory. */
static void holes_cost_nothing(int protection, enum who who)
{
    size_t pages, stored = 150001;
    int fd = make_sparse(&pages);
    unsigned char *at = snapshot(fd, 0, SPARSE, protection);
    /* A page of the mapper's own where the file has none, and a few that were only looked at. */
    if (protection & PROT_WRITE)
        at[stored * PAGE + 7] = 1;
    CHECK(at[100 * PAGE] == stamp(100, 0) && at[4096 * PAGE] == stamp(4096, 0));
    size_t before = kib_of("/proc/self/status", "RssAnon:");
    have_cut(who, "file", 0);
    size_t grown = kib_of("/proc/self/status", "RssAnon:") - before;
    CHECK(stat_of(at).state == SNAPSHIM_EXACT);
    /* A slice without holes is a huge page, one with a few is copied whole. */
    CHECK(grown <= pages * 4 * 11 / 10 + 512);
    CHECK(mappings_in(at, SPARSE) < 40);
    check_sparse(at, protection & PROT_WRITE ? stored : SIZE_MAX);
    if (protection & PROT_WRITE)
        CHECK(at[stored * PAGE + 7] == 1 && at[stored * PAGE + 8] == 0);
    /* The file is written anew, everywhere. */
    CHECK(ftruncate(fd, (off_t)SPARSE) == 0);
    overwrite(fd, 0, 8 * PAGE, 1);
    overwrite(fd, 200000 * PAGE - PAGE, 3 * PAGE, 1);
    check_sparse(at, protection & PROT_WRITE ? stored : SIZE_MAX);
    CHECK(munmap(at, SPARSE) == 0);
}

/* Only what lies behind the cut is moved; the pages before it are preserved when they change. */
static void a_cut_in_the_middle_keeps_both_parts(int protection, enum who who)
{
    const size_t size = 9 * MIB + 3 * PAGE + 5, cut = 3 * MIB + PAGE + 17;
    int fd = make_file("file", size);
    unsigned char *at = snapshot(fd, 0, size, protection);
    have_cut(who, "file", (off_t)cut);
    struct snapshim_stat stat = stat_of(at);
    CHECK(stat.state == SNAPSHIM_EXACT && stat.pages == size / PAGE + 1);
    CHECK(ftruncate(fd, (off_t)size) == 0);
    overwrite(fd, 0, size, 1);
    CHECK(shows(at, 0, size, 0));
    have_cut(who, "file", 0);
    CHECK(shows(at, 0, size, 0) && stat_of(at).preserved == size / PAGE + 1);
    CHECK(mappings_in(at, size) < 12);
}

/* Pieces of different protection, one of them locked, one that a child does not inherit. */
static void what_was_divided_keeps_its_rights(int protection, enum who who)
{
    const size_t size = 12 * MIB;
    int fd = make_file("file", size);
    unsigned char *at = snapshot(fd, 0, size, protection);
    CHECK(mprotect(at + MIB, 3 * MIB + PAGE, PROT_READ) == 0);
    CHECK(mprotect(at + 6 * MIB, MIB, PROT_NONE) == 0);
    CHECK(madvise(at + 9 * MIB, MIB, MADV_DONTFORK) == 0);
    have_cut(who, "file", 0);
    CHECK(fault_of_reading(at + 6 * MIB) == SIGSEGV && mprotect(at + 6 * MIB, MIB, PROT_READ) == 0);
    CHECK(shows(at, 0, size, 0) && stat_of(at).state == SNAPSHIM_EXACT);
    IN_CHILD(CHECK(fault_of_reading(at + 9 * MIB) == SIGSEGV && shows(at, 0, 9 * MIB, 0)));
}

static unsigned char *busy;
static size_t busy_size;
static volatile int is_over;

/* Changes of the mapper's own between slices: rights of the middle, by turns. */
static void *change_rights(void *nothing)
{
    while (!is_over)
        for (size_t offset = SLICE / 2; offset + SLICE < busy_size && !is_over; offset += 2 * SLICE) {
            CHECK(mprotect(busy + offset, SLICE, PROT_READ) == 0);
            CHECK(mprotect(busy + offset, SLICE, PROT_READ | PROT_WRITE) == 0);
        }
    return nothing;
}

static void rights_may_change_between_slices(int protection, enum who who)
{
    (void)protection;
    busy_size = 16 * MIB;
    is_over = 0;
    int fd = make_file("file", busy_size);
    busy = snapshot(fd, 0, busy_size, PROT_READ | PROT_WRITE);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, change_rights, NULL) == 0);
    have_cut(who, "file", 0);
    is_over = 1;
    CHECK(pthread_join(thread, NULL) == 0);
    check_pages(busy, busy_size);
    CHECK(stat_of(busy).state == SNAPSHIM_EXACT);
}

static void *unmap_middle(void *nothing)
{
    for (size_t offset = 7 * SLICE; offset < 9 * SLICE; offset += SLICE / 2)
        CHECK(munmap(busy + offset, SLICE / 2) == 0);
    return nothing;
}

static void parts_may_be_unmapped_between_slices(int protection, enum who who)
{
    busy_size = 20 * MIB;
    int fd = make_file("file", busy_size);
    busy = snapshot(fd, 0, busy_size, protection);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, unmap_middle, NULL) == 0);
    have_cut(who, "file", 0);
    CHECK(pthread_join(thread, NULL) == 0);
    check_pages(busy, 7 * SLICE);
    for (size_t page = 9 * SLICE / PAGE; page < busy_size / PAGE; page++)
        CHECK(busy[page * PAGE] == stamp(page, 0));
    CHECK(stat_of(busy).state == SNAPSHIM_EXACT);
}

/* Two processes cut at once, to different lengths. */
static void two_cut_at_once(int protection, enum who who)
{
    (void)who;
    const size_t size = 16 * MIB;
    int fd = make_file("file", size);
    unsigned char *at = snapshot(fd, 0, size, protection);
    pid_t cutters[2];
    for (int i = 0; i < 2; i++) {
        cutters[i] = fork();
        CHECK(cutters[i] >= 0);
        if (cutters[i] == 0) {
            cut_to("file", i ? 5 * (off_t)MIB + 3 : 0);
            _exit(0);
        }
    }
    for (int i = 0; i < 2; i++) {
        int status;
        CHECK(waitpid(cutters[i], &status, 0) == cutters[i] && status == 0);
    }
    check_pages(at, size);
    CHECK(stat_of(at).state == SNAPSHIM_EXACT && mappings_in(at, size) < 16);
}

static enum who busy_who;

static void *cut_busy(void *nothing)
{
    have_cut(busy_who, "file", 0);
    return nothing;
}

/* Children are forked while it goes on. */
static void a_child_that_is_forked_meanwhile_has_it_all(int protection, enum who who)
{
    busy_size = 16 * MIB;
    busy_who = who;
    int fd = make_file("file", busy_size);
    busy = snapshot(fd, 0, busy_size, protection);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, cut_busy, NULL) == 0);
    for (int i = 0; i < 4; i++)
        IN_CHILD(check_pages(busy, busy_size); CHECK(stat_of(busy).state == SNAPSHIM_EXACT));
    CHECK(pthread_join(thread, NULL) == 0);
    check_pages(busy, busy_size);
    CHECK(stat_of(busy).state == SNAPSHIM_EXACT);
}

/* A process that holds a snapshot until it is told to look at it; it says whether it is exact. */
struct holder {
    pid_t pid;
    int tell, told;
};

static struct holder hold(int fd, size_t size, int protection)
{
    int tell[2], told[2];
    CHECK(pipe(tell) == 0 && pipe(told) == 0);
    struct holder holder = {fork(), tell[1], told[0]};
    CHECK(holder.pid >= 0);
    char byte = 0;
    if (holder.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        unsigned char *at = snapshot(fd, 0, size, protection);
        CHECK(write(told[1], &byte, 1) == 1 && read(tell[0], &byte, 1) == 1);
        char is_exact = stat_of(at).state == SNAPSHIM_EXACT;
        if (is_exact)
            check_pages(at, size);
        CHECK(write(told[1], &is_exact, 1) == 1);
        _exit(0);
    }
    CHECK(read(told[0], &byte, 1) == 1);
    close(tell[0]);
    close(told[1]);
    return holder;
}

static int is_exact_in(struct holder *holder)
{
    char is_exact = 0;
    int status;
    CHECK(write(holder->tell, "", 1) == 1 && read(holder->told, &is_exact, 1) == 1);
    CHECK(waitpid(holder->pid, &status, 0) == holder->pid && status == 0);
    close(holder->tell);
    close(holder->told);
    return is_exact;
}

static pid_t start_cut(int fd)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(ftruncate(fd, 0) == 0 ? 0 : errno == ENOSPC ? 1 : 2);
    }
    return pid;
}

static int end_of(pid_t pid)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

enum { MIDDLES = 4 };
static const int rights[] = {PROT_READ, PROT_READ | PROT_WRITE};

/* Somewhere in the middle, or before, or after. */
static void wait_for_middle(int round)
{
    usleep(1000 + (useconds_t)round * 7000);
}

/* A truncation in the middle of which a mapper, or the writer, meets something. */
struct middle {
    int fd;
    struct holder holder;
    pid_t cutter;
};

enum { MIDDLE_SIZE = 32 * MIB };

static struct middle come_to_middle(int round)
{
    struct middle middle = {.fd = make_file("file", MIDDLE_SIZE)};
    middle.holder = hold(middle.fd, MIDDLE_SIZE, rights[round % 2]);
    middle.cutter = start_cut(middle.fd);
    wait_for_middle(round);
    return middle;
}

/* Stopped, it moves nothing: the cut fails after a while, or has been done, or the snapshot is broken when the mapper goes on. */
static void a_mapper_that_is_stopped_in_the_middle_loses_no_byte(int protection, enum who who)
{
    (void)protection;
    (void)who;
    for (int round = 0; round < MIDDLES; round++) {
        struct middle at = come_to_middle(round);
        CHECK(kill(at.holder.pid, SIGSTOP) == 0);
        int status = end_of(at.cutter);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
        struct stat stat;
        CHECK(fstat(at.fd, &stat) == 0 && (size_t)stat.st_size == (WEXITSTATUS(status) ? MIDDLE_SIZE : 0));
        CHECK(kill(at.holder.pid, SIGCONT) == 0);
        is_exact_in(&at.holder);
        close(at.fd);
    }
}

static void a_mapper_that_is_killed_in_the_middle_holds_nobody_up(int protection, enum who who)
{
    (void)protection;
    (void)who;
    for (int round = 0; round < MIDDLES; round++) {
        struct middle at = come_to_middle(round);
        CHECK(kill(at.holder.pid, SIGKILL) == 0);
        CHECK(end_of(at.cutter) == 0 && end_of(at.holder.pid) == SIGKILL);
        close(at.fd);
    }
}

static void a_writer_that_is_killed_in_the_middle_leaves_it_exact(int protection, enum who who)
{
    (void)protection;
    (void)who;
    for (int round = 0; round < MIDDLES; round++) {
        struct middle at = come_to_middle(round);
        CHECK(kill(at.cutter, SIGKILL) == 0);
        end_of(at.cutter);
        overwrite(at.fd, MIDDLE_SIZE / 2, 3 * PAGE, 1);
        overwrite(at.fd, 0, PAGE, 1);
        CHECK(end_of(start_cut(at.fd)) == 0);
        CHECK(is_exact_in(&at.holder));
        close(at.fd);
    }
}

/* Has a snapshot of `pages` pages cut into as many records as there are. */
static void fill_table(unsigned char *at, size_t pages)
{
    for (size_t page = 1; page < pages; page += 2)
        if (mprotect(at + page * PAGE, PAGE, PROT_NONE) != 0) {
            CHECK(errno == ENOMEM);
            return;
        }
    CHECK(!"the table is full");
}

/* Where no record is free for what has been moved, the cut fails; what has been moved stays, whatever the mapper gives up of it. */
static void a_full_table_loses_no_byte(int protection, enum who who)
{
    (void)protection;
    (void)who;
    enum { PIECES = 20000 };
    const size_t size = 8 * MIB;
    int fd = make_file("file", size), other = make_file("other", PIECES * PAGE), tell[2];
    alarm(200);
    CHECK(pipe(tell) == 0);
    pid_t cutter = fork();
    CHECK(cutter >= 0);
    if (cutter == 0) {
        char byte;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        CHECK(read(tell[0], &byte, 1) == 1);
        CHECK_ERRNO(ftruncate(fd, MIB + 5), -1, ENOSPC);
        _exit(0);
    }
    unsigned char *at = snapshot(fd, 0, size, PROT_READ);
    unsigned char *pieces = snapshot(other, 0, PIECES * PAGE, PROT_READ);
    fill_table(pieces, PIECES);
    CHECK(write(tell[1], "x", 1) == 1 && end_of(cutter) == 0);
    CHECK(madvise(at, size, MADV_DONTNEED) == 0);
    CHECK(shows(at, 0, size, 0) && stat_of(at).state == SNAPSHIM_EXACT);
    /* Once there is room. */
    CHECK(munmap(pieces, PIECES * PAGE) == 0);
    CHECK(ftruncate(fd, MIB + 5) == 0 && madvise(at, size, MADV_DONTNEED) == 0);
    CHECK(shows(at, 0, size, 0) && stat_of(at).state == SNAPSHIM_EXACT);
}

/* A piece that shows no page of the file misses none. */
static void what_lies_behind_the_end_is_not_missed(int protection, enum who who)
{
    const size_t size = 10 * PAGE + 5;
    int fd = make_file("file", size);
    unsigned char *at = snapshot(fd, 0, 30 * PAGE, protection);
    CHECK(mprotect(at + 15 * PAGE, 5 * PAGE, PROT_NONE) == 0 && munmap(at + 25 * PAGE, PAGE) == 0);
    for (int round = 0; round < 2; round++) {
        for (size_t page = 0; page < 30; page += 5)
            CHECK(page == 25 || stat_of(at + page * PAGE).state == SNAPSHIM_EXACT);
        have_cut(who, "file", 0);
    }
    CHECK(shows(at, 0, size, 0));
}

/* fallocate(2) that moves what lies behind, where the file system can do it. */
static void collapsing_and_inserting_keep_the_holes(int protection, enum who who)
{
    (void)who;
    size_t pages;
    for (int mode = 0; mode < 2; mode++) {
        int fd = make_sparse(&pages);
        unsigned char *at = snapshot(fd, 0, SPARSE, protection);
        size_t before = kib_of("/proc/self/status", "RssAnon:");
        if (fallocate(fd, mode ? FALLOC_FL_INSERT_RANGE : FALLOC_FL_COLLAPSE_RANGE, 16 * PAGE, 16 * PAGE) != 0) {
            CHECK(errno == EOPNOTSUPP);
            puts("SKIPPED the file system collapses no ranges");
            return;
        }
        CHECK(kib_of("/proc/self/status", "RssAnon:") - before <= pages * 4 * 11 / 10 + 512);
        check_sparse(at, SIZE_MAX);
        CHECK(stat_of(at).state == SNAPSHIM_EXACT && munmap(at, SPARSE) == 0);
        close(fd);
    }
}

/* A lock of the application's on the file is not lost by looking for its holes. */
static void record_locks_stay(int protection, enum who who)
{
    (void)who;
    size_t pages;
    int fd = make_sparse(&pages);
    unsigned char *at = snapshot(fd, 0, SPARSE, protection);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10};
    CHECK(fcntl(fd, F_SETLK, &lock) == 0 && lseek(fd, 1234, SEEK_SET) == 1234);
    CHECK(ftruncate(fd, 0) == 0);
    CHECK(lseek(fd, 0, SEEK_CUR) == 1234);
    IN_CHILD(struct flock other = lock; CHECK(fcntl(fd, F_GETLK, &other) == 0 && other.l_type == F_WRLCK));
    check_sparse(at, SIZE_MAX);
}

/* `cut_slices patient FILE MIB`: prints how long the cut took, in ms, and how it ended. */
static int cut_dense(const char *path, size_t size)
{
    int fd = make_file(path, size);
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t cutter = fork();
    CHECK(cutter >= 0);
    if (cutter == 0) {
        char byte;
        CHECK(read(ends[0], &byte, 1) == 1);
        double start = now();
        int result = ftruncate(fd, 0);
        printf("%ld %s\n", (long)((now() - start) * 1e3), result == 0 ? "cut" : strerror(errno));
        fflush(stdout);
        _exit(0);
    }
    unsigned char *at = snapshot(fd, 0, size, PROT_READ);
    CHECK(write(ends[1], "x", 1) == 1 && waitpid(cutter, NULL, 0) == cutter);
    if (stat_of(at).state == SNAPSHIM_EXACT) {
        check_pages(at, size);
        CHECK((size_t)mappings_in(at, size) <= size / SLICE + 8);
        puts("exact");
    } else {
        puts("broken");
    }
    unlink(path);
    return 0;
}

static const struct scenario scenarios[] = {
    EACH(holes_cost_nothing),
    EACH(a_cut_in_the_middle_keeps_both_parts),
    EACH(what_was_divided_keeps_its_rights),
    EACH(rights_may_change_between_slices),
    EACH(parts_may_be_unmapped_between_slices),
    EACH(two_cut_at_once),
    EACH(a_child_that_is_forked_meanwhile_has_it_all),
    ONCE(a_mapper_that_is_stopped_in_the_middle_loses_no_byte),
    ONCE(a_mapper_that_is_killed_in_the_middle_holds_nobody_up),
    ONCE(a_writer_that_is_killed_in_the_middle_leaves_it_exact),
    EACH(what_lies_behind_the_end_is_not_missed),
    ONCE(a_full_table_loses_no_byte),
    EACH(collapsing_and_inserting_keep_the_holes),
    EACH(record_locks_stay),
};

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "dense") == 0)
        return cut_dense(argv[2], strtoul(argv[3], NULL, 10) * MIB);
    return run_scenarios(argc, argv, scenarios, sizeof scenarios / sizeof scenarios[0]);
}

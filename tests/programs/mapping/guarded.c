/* guarded SCENARIO WRITER: a mapping that shows its file as it is, and what it shows when the file is truncated. WRITER is `itself`
 * (the process truncates the file that it has mapped) or `another`. The file "victim" has 5 pages and a half; the environment
 * guards it.
 */
#include "check.h"

#include <time.h>

enum { PAGES = 6 };
static const size_t SIZE = 5 * PAGE + PAGE / 2;

static int is_another;

/* Runs `body` here, or in a child that was there before the mapping. */
#define AS_WRITER(body)                                     \
    do {                                                    \
        if (is_another) {                                   \
            IN_CHILD(body);                                 \
        } else {                                            \
            body;                                           \
        }                                                   \
    } while (0)

/* What each page shows: a version of the test file, zeros, or a signal. */
static void show(const unsigned char *at, const char *when)
{
    printf("%s:", when);
    for (size_t page = 0; page < PAGES; page++) {
        const unsigned char *start = at + page * PAGE;
        int number = fault_of_reading(start), found = -1;
        for (int version = 0; number == 0 && version < 4; version++)
            if (start[0] == stamp(page, version) && start[PAGE / 2 - 1] == stamp(page, version))
                found = version;
        if (number != 0)
            printf(" SIG%s", sigabbrev_np(number));
        else if (found >= 0)
            printf(" %d", found);
        else
            printf(" %s", start[0] == 0 ? "zero" : "?");
    }
    puts("");
}

static unsigned char *map(int flags, int protection)
{
    close(make_file("victim", SIZE));
    int file = open("victim", O_RDONLY);
    unsigned char *at = mmap(NULL, PAGES * PAGE, protection, flags, file, 0);
    CHECK(at != MAP_FAILED && close(file) == 0);
    return at;
}

static int writer(int flags)
{
    int file = open("victim", O_RDWR | flags);
    CHECK(file >= 0);
    return file;
}

/* Later writes are shown, and growth. */
static void follows(void)
{
    unsigned char *at = map(MAP_SHARED, PROT_READ);
    AS_WRITER({
        int file = writer(0);
        overwrite(file, PAGE, PAGE, 1);
        overwrite(file, 5 * PAGE, PAGE, 2);
        close(file);
    });
    show(at, "written");
    CHECK(at[PAGES * PAGE - 1] == stamp(5, 2));
}

/* The file is rewritten in place, as by `>`: each time what was there stays, and what it has again is not shown. */
static void rewritten(void)
{
    unsigned char *at = map(MAP_SHARED, PROT_READ);
    show(at, "mapped");
    AS_WRITER({ overwrite(writer(0), 0, 2 * PAGE, 1); });
    AS_WRITER({ close(writer(O_TRUNC)); });
    show(at, "cut to nothing");
    AS_WRITER({ overwrite(writer(0), 0, SIZE, 2); });
    show(at, "written anew");
    AS_WRITER({ CHECK(truncate("victim", 0) == 0); });
    show(at, "cut again");
}

/* What is before the cut stays live. */
static void shortened(void)
{
    unsigned char *at = map(MAP_SHARED, PROT_READ);
    AS_WRITER({ CHECK(ftruncate(writer(0), 2 * PAGE + 100) == 0); });
    show(at, "cut");
    CHECK(at[2 * PAGE + 99] == at[2 * PAGE + 101]);
    AS_WRITER({ overwrite(writer(0), 0, 4 * PAGE, 1); });
    show(at, "written");
    AS_WRITER({ CHECK(ftruncate(writer(0), PAGE) == 0); });
    show(at, "cut again");
    AS_WRITER({ overwrite(writer(0), 0, PAGE, 2); });
    show(at, "written again");
}

/* Growing takes nothing away: nothing is kept, and all stays live. */
static void grown(void)
{
    unsigned char *at = map(MAP_SHARED, PROT_READ);
    AS_WRITER({ CHECK(ftruncate(writer(0), 20 * PAGE) == 0); });
    AS_WRITER({ overwrite(writer(0), 0, 20 * PAGE, 1); });
    show(at, "grown");
}

/* Private mappings as well: the program's own stores stay, and other pages are live. */
static void stored(void)
{
    unsigned char *at = map(MAP_PRIVATE, PROT_READ | PROT_WRITE);
    for (size_t i = 0; i < PAGE; i++)
        at[i] = stamp(0, 3);
    AS_WRITER({ overwrite(writer(0), 0, 2 * PAGE, 1); });
    show(at, "written");
    AS_WRITER({ CHECK(truncate("victim", 0) == 0); });
    show(at, "cut");
    at[3 * PAGE] = stamp(3, 2);
    CHECK(at[3 * PAGE] == stamp(3, 2));
}

/* A part that is moved, and one that is unmapped. */
static void moved(void)
{
    unsigned char *at = map(MAP_SHARED, PROT_READ), *to = free_range(2 * PAGE);
    AS_WRITER({ CHECK(truncate("victim", 4 * PAGE) == 0); });
    unsigned char *part = mremap(at + 3 * PAGE, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
    if (part == MAP_FAILED) /* two mappings, before Linux 6.17 */
        CHECK(errno == EFAULT);
    else
        CHECK(part[0] == stamp(3, 0) && part[PAGE] == stamp(4, 0));
    CHECK(munmap(at, PAGE) == 0);
    AS_WRITER({ CHECK(truncate("victim", 0) == 0); });
    CHECK(at[PAGE] == stamp(1, 0) && at[2 * PAGE] == stamp(2, 0) && fault_of_reading(at) == SIGSEGV);
    puts("moved");
}

/* A child has what its parent has. */
static void inherited(void)
{
    unsigned char *at = map(MAP_SHARED, PROT_READ);
    AS_WRITER({ CHECK(truncate("victim", 4 * PAGE) == 0); });
    IN_CHILD({
        CHECK(truncate("victim", 0) == 0);
        show(at, "in the child");
    });
    show(at, "in the parent");
    CHECK_ERRNO(mprotect(at, PAGE, PROT_READ | PROT_WRITE), -1, EACCES);
    CHECK(madvise(at, PAGES * PAGE, MADV_DONTNEED) == 0);
    show(at, "after MADV_DONTNEED");
}

/* Each reader asks for the size, maps so much and reads all of it, while the file is rewritten in place. */
static void storm(void)
{
    close(make_file("victim", 40 * PAGE));
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (int version = 0;; version = (version + 1) % 3) {
            int file = writer(O_TRUNC);
            overwrite(file, 0, (size_t)(8 + 16 * version) * PAGE, version);
            close(file);
        }
    }
    time_t end = time(NULL) + 3;
    size_t maps = 0, sum = 0;
    while (time(NULL) < end) {
        int file = open("victim", O_RDONLY);
        struct stat found;
        CHECK(file >= 0 && fstat(file, &found) == 0);
        size_t length = (size_t)found.st_size;
        unsigned char *at = length ? mmap(NULL, length, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
        CHECK(close(file) == 0);
        if (at == MAP_FAILED) {
            CHECK(length == 0 || errno == ENXIO);
            continue;
        }
        for (int round = 0; round < 20; round++)
            for (size_t i = 0; i < length; i += 64)
                sum += ((volatile unsigned char *)at)[i];
        CHECK(munmap(at, length) == 0);
        maps++;
    }
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
    printf("%s, %s\n", maps > 20 ? "many maps" : "few maps", sum ? "read" : "nothing read");
}

/* `hold`: has the mapping, says "ready", and when a line comes in, what it shows. */
static void hold(void)
{
    unsigned char *at = map(MAP_SHARED, PROT_READ);
    struct snapshim_stat stat = {.state = -1};
    snapshim_stat(at, &stat);
    printf("state %d\n", stat.state);
    fflush(stdout);
    CHECK(getchar() == '\n');
    show(at, "held");
    snapshim_stat(at, &stat);
    printf("state %d\n", stat.state);
}

static const struct {
    const char *name;
    void (*run)(void);
} scenarios[] = {
    {"follows", follows}, {"rewritten", rewritten}, {"shortened", shortened}, {"grown", grown}, {"stored", stored},
    {"moved", moved},     {"inherited", inherited}, {"storm", storm},         {"hold", hold},
};

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    is_another = strcmp(argv[2], "another") == 0;
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++)
        if (strcmp(argv[1], scenarios[i].name) == 0) {
            scenarios[i].run();
            return 0;
        }
    CHECK(!"a known scenario");
}

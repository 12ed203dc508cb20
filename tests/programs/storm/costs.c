/* What a call costs with little and with much around it. Prints lines: the name of a cost, nanoseconds with little, with much. Works in
 * the current directory.
 *
 * Where it can, it measures both by turns, and reports the turn that is in the middle: what else the machine does meanwhile slows down
 * both sides of a turn. */
#include "check.h"

#include <dirent.h>
#include <sys/resource.h>
#include <time.h>

enum { MOST = 400, ROUNDS = 5 };

/* Of which file the snapshots are that are held: each of one of its own, or all of one. */
static int is_one_file;

static double time_by(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static double now(void)
{
    return time_by(CLOCK_MONOTONIC);
}

static int by_size(const void *one, const void *other)
{
    double first = *(const double *)one, second = *(const double *)other;
    return (first > second) - (first < second);
}

static double median(double *times, int count)
{
    qsort(times, (size_t)count, sizeof *times, by_size);
    return times[count / 2];
}

static void report(const char *name, double little, double much)
{
    printf("%s %.0f %.0f\n", name, little, much);
    fflush(stdout);
}

/* What was measured of a cost in each round, with little and with much around it. */
struct rounds {
    double with[2][ROUNDS];
};

static void report_rounds(const char *name, const struct rounds *rounds)
{
    int before[ROUNDS] = {0}, middle = 0;
    for (int i = 0; i < ROUNDS; i++) {
        for (int j = 0; j < ROUNDS; j++) {
            double here = rounds->with[1][i] * rounds->with[0][j], there = rounds->with[1][j] * rounds->with[0][i];
            before[i] += there < here || (there == here && j < i);
        }
        middle = before[i] == ROUNDS / 2 ? i : middle;
    }
    report(name, rounds->with[0][middle], rounds->with[1][middle]);
}

/* One operation, and what was measured of it. */
struct operation {
    const char *name;
    int count;
    double (*measure)(void);
    struct rounds rounds;
};

static int file, unrelated;
static unsigned char *kept;

static unsigned char *take(int fd)
{
    return snapshot(fd, 0, PAGE, PROT_READ);
}

static double of_stat(void)
{
    struct snapshim_stat stat;
    double start = now();
    CHECK(snapshim_stat(kept, &stat) == 0);
    return now() - start;
}

static double of_mmap(void)
{
    double start = now();
    unsigned char *at = take(file);
    double took = now() - start;
    munmap(at, PAGE);
    return took;
}

static double of_munmap(void)
{
    unsigned char *at = take(file);
    double start = now();
    munmap(at, PAGE);
    return now() - start;
}

/* The next piece of a large snapshot that is unmapped from the front. */
static double of_front(void)
{
    enum { LARGE = 4096 * PAGE, PIECE = 16 * PAGE };
    static unsigned char *at, *end;
    if (at == end) {
        int fd = make_file("large", LARGE);
        at = snapshot(fd, 0, LARGE, PROT_READ);
        end = at + LARGE;
        close(fd);
    }
    double start = now();
    CHECK(munmap(at, PIECE) == 0);
    double took = now() - start;
    at += PIECE;
    return took;
}

static double of_mprotect(void)
{
    double start = now();
    CHECK(mprotect(kept, PAGE, PROT_READ | PROT_WRITE) == 0);
    double took = now() - start;
    CHECK(mprotect(kept, PAGE, PROT_READ) == 0);
    return took;
}

/* The processor time: a long fork has other processes run in between. */
static double of_fork(void)
{
    double start = time_by(CLOCK_THREAD_CPUTIME_ID);
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    double took = time_by(CLOCK_THREAD_CPUTIME_ID) - start;
    CHECK(child > 0 && waitpid(child, NULL, 0) == child);
    return took;
}

/* The processor's clock is asked once for many of these, which are short. */
enum { SHORT = 50 };

static double of_write(void)
{
    double start = now();
    for (int i = 0; i < SHORT; i++)
        CHECK(pwrite(unrelated, "byte", 4, 0) == 4);
    return (now() - start) / SHORT;
}

static double of_memory(void)
{
    double start = now();
    for (int i = 0; i < SHORT; i++) {
        void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(at != MAP_FAILED && munmap(at, PAGE) == 0);
    }
    return (now() - start) / SHORT;
}

static struct operation operations[] = {
    {.name = "stat", .count = 20, .measure = of_stat},
    {.name = "mmap", .count = 40, .measure = of_mmap},
    {.name = "munmap", .count = 40, .measure = of_munmap},
    {.name = "front", .count = 40, .measure = of_front},
    {.name = "mprotect", .count = 40, .measure = of_mprotect},
    {.name = "fork", .count = 6, .measure = of_fork},
    {.name = "write", .count = 40, .measure = of_write},
    {.name = "memory", .count = 40, .measure = of_memory},
};

enum { OPERATIONS = sizeof operations / sizeof *operations };

static double median_of(double (*measure)(void), int count)
{
    double times[MOST];
    measure();
    for (int i = 0; i < count; i++)
        times[i] = measure();
    return median(times, count);
}

static void measure(int is_much, int round)
{
    for (int i = 0; i < OPERATIONS; i++)
        operations[i].rounds.with[is_much][round] = median_of(operations[i].measure, operations[i].count);
}

static unsigned char *held[8192];

static void hold(int count)
{
    for (int i = 0; i < count; i++) {
        char name[32];
        snprintf(name, sizeof name, "held.%d", is_one_file ? 0 : i);
        int fd = make_file(name, PAGE);
        held[i] = take(fd);
        close(fd);
    }
}

static void drop(int count)
{
    for (int i = 0; i < count; i++)
        CHECK(munmap(held[i * 7919 % count], PAGE) == 0);
}

/* A process that holds `count` snapshots until it is told to go. */
static pid_t other_that_holds(int count, int *tell)
{
    int ready[2], go[2];
    char byte;
    CHECK(pipe(ready) == 0 && pipe(go) == 0);
    pid_t other = fork();
    CHECK(other >= 0);
    if (other == 0) {
        close(go[1]);
        hold(count);
        CHECK(write(ready[1], "", 1) == 1);
        CHECK(read(go[0], &byte, 1) == 0);
        _exit(0);
    }
    close(go[0]);
    CHECK(read(ready[0], &byte, 1) == 1);
    *tell = go[1];
    return other;
}

/* held COUNT: with `count` snapshots held by the process itself. */
static void with_own_held(int count)
{
    kept = take(file);
    for (int round = 0; round < ROUNDS; round++) {
        measure(0, round);
        hold(count);
        measure(1, round);
        drop(count);
    }
}

/* other COUNT: the same with snapshots that another process holds. */
static void with_others_held(int count)
{
    for (int turn = 0; turn < 2 * ROUNDS; turn++) {
        int tell;
        pid_t other = other_that_holds(turn % 2 ? count : 1, &tell);
        kept = take(file);
        measure(turn % 2, turn / 2);
        munmap(kept, PAGE);
        close(tell);
        CHECK(waitpid(other, NULL, 0) == other);
    }
}

static double of_shared(void)
{
    double start = now();
    void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, unrelated, 0);
    CHECK(at != MAP_FAILED && munmap(at, PAGE) == 0);
    return now() - start;
}

/* shared COUNT: with `count` pages of another file mapped shared by the process itself, none beside the one before it in that file. */
static void with_own_shared(int count)
{
    struct rounds rounds;
    int other = make_file("shared", 2 * PAGE);
    kept = take(file);
    CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, other, 0) != MAP_FAILED);
    for (int round = 0; round < ROUNDS; round++) {
        measure(0, round);
        rounds.with[0][round] = median_of(of_shared, 200);
        for (int i = 0; i < count; i++) {
            held[i] = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, other, i % 2 ? (off_t)PAGE : 0);
            CHECK(held[i] != MAP_FAILED);
        }
        measure(1, round);
        rounds.with[1][round] = median_of(of_shared, 200);
        drop(count);
    }
    report_rounds("shared", &rounds);
}

static void report_all(void)
{
    for (int i = 0; i < OPERATIONS; i++)
        report_rounds(operations[i].name, &operations[i].rounds);
}

/* forks COUNT: what each further snapshot adds to a fork, few and many of them. */
static void forks(int count)
{
    struct rounds rounds;
    int counts[] = {1, count / 10, count};
    for (int round = 0; round < ROUNDS; round++) {
        double took[3];
        for (int which = 0; which < 3; which++) {
            hold(counts[which]);
            took[which] = median_of(of_fork, 7);
            drop(counts[which]);
        }
        rounds.with[0][round] = (took[1] - took[0]) / counts[1];
        rounds.with[1][round] = (took[2] - took[0]) / counts[2];
    }
    report_rounds("fork", &rounds);
}

enum { FILES = 64 };

/* What mmap and munmap of a snapshot take, of the file of several at which most others take less: a file may have its records among
 * those of another. */
static void measure_files(struct rounds *rounds, int is_much, int round)
{
    double times[2][FILES];
    int first = file;
    for (int i = 0; i < FILES; i++) {
        char name[32];
        snprintf(name, sizeof name, "beside.%d", i);
        file = make_file(name, PAGE);
        times[0][i] = median_of(of_mmap, 15);
        times[1][i] = median_of(of_munmap, 15);
        close(file);
    }
    file = first;
    for (int which = 0; which < 2; which++) {
        qsort(times[which], FILES, sizeof times[which][0], by_size);
        rounds[which].with[is_much][round] = times[which][FILES * 9 / 10];
    }
}

/* crowd COUNT: snapshots of each of several files, beside as many of one file. */
static void crowd(int count)
{
    struct rounds rounds[2];
    is_one_file = 1;
    kept = take(file);
    for (int round = 0; round < ROUNDS; round++) {
        measure_files(rounds, 0, round);
        hold(count);
        measure_files(rounds, 1, round);
        drop(count);
    }
    report_rounds("mmap", &rounds[0]);
    report_rounds("munmap", &rounds[1]);
}

/* gone COUNT: a write before and after `count` snapshots came and went. */
static void gone(int count)
{
    kept = take(file);
    double before = median_of(of_write, MOST / 2);
    hold(count);
    drop(count);
    report("write", before, median_of(of_write, MOST / 2));
}

static double *answer;

/* The first write of a new process: the processor time, as above. */
static double of_newcomer(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        double start = time_by(CLOCK_THREAD_CPUTIME_ID);
        CHECK(pwrite(unrelated, "byte", 4, 0) == 4);
        *answer = time_by(CLOCK_THREAD_CPUTIME_ID) - start;
        _exit(0);
    }
    CHECK(waitpid(child, NULL, 0) == child);
    return *answer;
}

enum { NEWCOMERS = 40 };

/* The first writes of new processes, in the order of what they took. */
static void of_newcomers(double *times)
{
    for (int i = 0; i < NEWCOMERS; i++)
        times[i] = of_newcomer();
    qsort(times, NEWCOMERS, sizeof *times, by_size);
}

static void start_idle(pid_t *others, int count)
{
    int ready[2];
    CHECK(pipe(ready) == 0);
    for (int i = 0; i < count; i++) {
        char byte;
        others[i] = fork();
        CHECK(others[i] >= 0);
        if (others[i] == 0) {
            CHECK(pwrite(unrelated, "byte", 4, 0) == 4 && write(ready[1], "", 1) == 1);
            pause();
        }
        CHECK(read(ready[0], &byte, 1) == 1);
    }
}

/* newcomers COUNT: with no other process, with `count` that are idle, and with as many that were killed. */
static void newcomers(int count)
{
    static double alone[NEWCOMERS], idle[NEWCOMERS], dead[NEWCOMERS];
    static pid_t others[4096];
    int tell;
    answer = shared_page();
    pid_t mapper = other_that_holds(1, &tell);
    of_newcomers(alone);
    of_newcomers(alone);
    start_idle(others, count);
    of_newcomers(idle);
    for (int i = 0; i < count; i++)
        CHECK(kill(others[i], SIGKILL) == 0);
    for (int i = 0; i < count; i++)
        CHECK(waitpid(others[i], NULL, 0) == others[i]);
    of_newcomers(dead);
    close(tell);
    CHECK(waitpid(mapper, NULL, 0) == mapper);
    report("idle", alone[NEWCOMERS / 2], idle[NEWCOMERS / 2]);
    report("dead", alone[NEWCOMERS / 2], dead[NEWCOMERS / 2]);
    report("worst", alone[NEWCOMERS / 2], dead[NEWCOMERS - 1]);
}

/* each SCENARIO COUNT: a scenario that changes the table for good, in each round with a table of its own. */
static void each(const char *scenario, const char *count)
{
    enum { COSTS = 4 };
    static struct rounds rounds[COSTS];
    static char names[COSTS][32];
    char self[4096] = "", directory[2048], command[9000];
    int found = 0;
    CHECK(readlink("/proc/self/exe", self, sizeof self - 1) > 0 && getcwd(directory, sizeof directory));
    for (int round = 0; round < ROUNDS; round++) {
        snprintf(command, sizeof command, "SNAPSHIM_DIR='%s/table.%d' '%s' %s %s; rm -r '%s/table.%d'", directory, round, self,
                 scenario, count, directory, round);
        FILE *said = popen(command, "r");
        CHECK(said != NULL);
        for (found = 0; found < COSTS; found++)
            if (fscanf(said, "%31s %lf %lf", names[found], &rounds[found].with[0][round], &rounds[found].with[1][round]) != 3)
                break;
        CHECK(pclose(said) == 0 && found > 0);
    }
    for (int i = 0; i < found; i++)
        report_rounds(names[i], &rounds[i]);
}

/* sparse: a snapshot of 16 TiB, none of which is there, beside one of a page. */
static void sparse(void)
{
    size_t size = ((size_t)16 << 40) - PAGE;
    int fd = make_file("sparse", 0);
    if (ftruncate(fd, (off_t)size) != 0) {
        printf("SKIPPED no file can be as long (errno %d)\n", errno);
        return;
    }
    for (int round = 0; round < ROUNDS; round++) {
        kept = take(file);
        measure(0, round);
        munmap(kept, PAGE);
        kept = snapshot(fd, 0, size, PROT_READ);
        CHECK(pwrite(fd, "byte", 4, (off_t)(size / 2)) == 4);
        measure(1, round);
        struct snapshim_stat stat;
        CHECK(snapshim_stat(kept, &stat) == 0 && stat.state == SNAPSHIM_EXACT);
        munmap(kept, size);
    }
    report_all();
}

static int descriptors(void)
{
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory != NULL);
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

enum { PAGES = 256 };

/* What a first write to a page takes while `count` processes have a snapshot of the file. */
static double first_write_beside(int count)
{
    static double times[PAGES];
    int ready[2], go[2];
    char byte;
    CHECK(pipe(ready) == 0 && pipe(go) == 0);
    for (int i = 0; i < count; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            close(go[1]);
            snapshot(file, 0, PAGES * PAGE, PROT_READ | PROT_WRITE);
            CHECK(write(ready[1], "", 1) == 1);
            CHECK(read(go[0], &byte, 1) == 0);
            _exit(0);
        }
        CHECK(read(ready[0], &byte, 1) == 1);
    }
    for (int i = 0; i < PAGES; i++) {
        off_t offset = (off_t)((size_t)i * 101 % PAGES * PAGE);
        double start = now();
        CHECK(pwrite(file, "byte", 4, offset) == 4);
        times[i] = now() - start;
    }
    close(go[1]);
    while (wait(NULL) > 0)
        continue;
    close(go[0]);
    close(ready[0]);
    close(ready[1]);
    return median(times, PAGES);
}

/* mappers COUNT: a first write beside `count` mappers, for each of them, and beside one; then what the writer has open. */
static void mappers(int count)
{
    overwrite(file, 0, PAGES * PAGE, 1);
    double one = first_write_beside(1);
    int before = descriptors() + 2;
    double many = first_write_beside(count);
    report("first", one, many / count);
    /* A process that goes on with writes finds within a second that they have ended. */
    int tell;
    pid_t mapper = other_that_holds(1, &tell);
    for (double start = now(); now() - start < 1.2e9;)
        CHECK(pwrite(unrelated, "byte", 4, 0) == 4);
    report("open", before, descriptors());
    close(tell);
    CHECK(waitpid(mapper, NULL, 0) == mapper);
}

int main(int argc, char **argv)
{
    CHECK(argc >= 2);
    const char *scenario = argv[1];
    int count = argc > 2 ? atoi(argv[2]) : 0;
    is_one_file = argc > 3 && strcmp(argv[3], "one") == 0;
    file = make_file("file", PAGE);
    unrelated = make_file("unrelated", PAGE);
    if (strcmp(scenario, "own") == 0)
        with_own_held(count), report_all();
    else if (strcmp(scenario, "other") == 0)
        with_others_held(count), report_all();
    else if (strcmp(scenario, "shared") == 0)
        with_own_shared(count), report_all();
    else if (strcmp(scenario, "forks") == 0)
        forks(count);
    else if (strcmp(scenario, "each") == 0 && argc == 4)
        each(argv[2], argv[3]);
    else if (strcmp(scenario, "crowd") == 0)
        crowd(count);
    else if (strcmp(scenario, "gone") == 0)
        gone(count);
    else if (strcmp(scenario, "newcomers") == 0)
        newcomers(count);
    else if (strcmp(scenario, "sparse") == 0)
        sparse();
    else if (strcmp(scenario, "mappers") == 0)
        mappers(count);
    else
        CHECK(!"a scenario");
    return 0;
}

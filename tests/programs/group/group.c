/* Several files at one instant, by snapshim_mapv().
 *
 * cut ROUNDS group|singly: a writer changes pages of three files in turn, by calls and by stores, and counts up. What a group shows must
 * be a state that there was: no page is behind a page that is written later, and none is more than one round ahead.
 * foreign, errors, places, one_file, many COUNT: see the functions.
 */
#include "check.h"

#include <sys/resource.h>
#include <time.h>

enum { FILES = 3, PAGES = 4, PLACES = FILES * PAGES };
#define SIZE (PAGES * PAGE)

static int files[FILES];

static void open_files(void)
{
    static const char *const names[] = {"first", "second", "third"};
    for (int i = 0; i < FILES; i++)
        files[i] = make_file(names[i], SIZE);
}

static void request(struct snapshim_map *maps)
{
    for (int i = 0; i < FILES; i++)
        maps[i] = (struct snapshim_map){files[i], PROT_READ | (i == 1 ? PROT_WRITE : 0), 0, SIZE, NULL, 0, -1};
}

/* Where the next number goes: each page of each file in turn. The pages of the second file are stored into. */
static void write_on(volatile uint64_t *stored, uint64_t number, int place)
{
    int file = place % FILES, page = place / FILES;
    if (file == 1)
        stored[page * PAGE / 8] = number;
    else
        CHECK(pwrite(files[file], &number, sizeof number, page * (off_t)PAGE) == sizeof number);
}

static pid_t start_writer(_Atomic int *rounds)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    volatile uint64_t *stored = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, files[1], 0);
    CHECK(stored != MAP_FAILED);
    for (uint64_t number = 1;; number++) {
        for (int place = 0; place < PLACES; place++)
            write_on(stored, number, place);
        *rounds = (int)number;
    }
}

/* Whether the mappings show a state that there was. */
static int is_cut(unsigned char *const at[FILES], uint64_t *first)
{
    uint64_t before = 0;
    for (int place = 0; place < PLACES; place++) {
        uint64_t number = *(volatile uint64_t *)(at[place % FILES] + place / FILES * PAGE);
        if (place == 0)
            *first = number;
        else if (number > before || number + 1 < *first)
            return 0;
        before = number;
    }
    return 1;
}

static void take_singly(unsigned char *at[FILES])
{
    for (int i = 0; i < FILES; i++) {
        at[i] = snapshot(files[i], 0, SIZE, PROT_READ);
        /* The writer goes on, as it does beside any two calls sooner or later. */
        usleep(200);
    }
}

static void take_group(unsigned char *at[FILES])
{
    struct snapshim_map maps[FILES];
    request(maps);
    CHECK(snapshim_mapv(maps, FILES) == 0);
    for (int i = 0; i < FILES; i++) {
        CHECK(maps[i].error == 0);
        at[i] = maps[i].addr;
    }
}

static int cut(int rounds, int is_group)
{
    open_files();
    uint64_t zero = 0;
    for (int place = 0; place < PLACES; place++)
        CHECK(pwrite(files[place % FILES], &zero, sizeof zero, place / FILES * (off_t)PAGE) == sizeof zero);
    _Atomic int *written = shared_page();
    pid_t writer = start_writer(written);
    int wrong = 0;
    for (int round = 0; round < rounds; round++) {
        unsigned char *at[FILES];
        uint64_t first, again;
        int seen = *written;
        (is_group ? take_group : take_singly)(at);
        int is_right = is_cut(at, &first);
        CHECK(!is_group || first >= (uint64_t)seen);
        /* The writer goes on over it. */
        for (int before = *written, i = 0; *written < before + 2 && i < 2000; i++)
            usleep(10);
        is_right &= is_cut(at, &again) && again == first;
        for (int i = 0; i < FILES; i++) {
            CHECK(stat_of(at[i]).state == SNAPSHIM_EXACT);
            CHECK(munmap(at[i], SIZE) == 0);
        }
        wrong += !is_right;
    }
    kill(writer, SIGKILL);
    CHECK(waitpid(writer, NULL, 0) == writer);
    printf("%d of %d wrong\n", wrong, rounds);
    return is_group ? wrong != 0 : wrong == 0;
}

/* Nothing is mapped, nothing stays in the table, and the entry that is the reason says so. */
static void fails(struct snapshim_map *maps, int count, int at, int wanted)
{
    CHECK_ERRNO(snapshim_mapv(maps, count), -1, wanted);
    for (int i = 0; i < count; i++)
        CHECK(maps[i].error == (i == at ? wanted : 0) && (maps[i].flags || maps[i].addr == NULL));
}

static int errors(void)
{
    struct snapshim_map maps[FILES];
    int pipes[2];
    open_files();
    CHECK(pipe(pipes) == 0);
    request(maps);
    CHECK_ERRNO(snapshim_mapv(maps, 0), -1, EINVAL);
    CHECK_ERRNO(snapshim_mapv(maps, -1), -1, EINVAL);
    maps[1].fd = 1000;
    fails(maps, FILES, 1, EBADF);
    request(maps), maps[2].fd = pipes[0];
    fails(maps, FILES, 2, ENODEV);
    request(maps), maps[0].length = 0;
    fails(maps, FILES, 0, EINVAL);
    request(maps), maps[1].offset = 1;
    fails(maps, FILES, 1, EINVAL);
    request(maps), maps[1].flags = MAP_SHARED;
    fails(maps, FILES, 1, EINVAL);
    /* Known only at the instant: the others are there by then. */
    request(maps), maps[2].length = (size_t)1 << 46;
    maps[1].length = (size_t)1 << 46, maps[0].length = (size_t)1 << 46;
    CHECK_ERRNO(snapshim_mapv(maps, FILES), -1, ENOMEM);
    /* The place is taken, which is found after the instant. */
    request(maps), maps[2].addr = maps + 1, maps[2].flags = MAP_FIXED;
    fails(maps, FILES, 2, EINVAL);
    struct snapshim_map *more = calloc(SNAPSHIM_GROUP + 1, sizeof *more);
    CHECK_ERRNO(snapshim_mapv(more, SNAPSHIM_GROUP + 1), -1, E2BIG);
    /* After all that, nothing is left that a writer would preserve for. */
    unsigned char *at[FILES];
    take_group(at);
    for (int i = 0; i < FILES; i++)
        CHECK(munmap(at[i], SIZE) == 0);
    overwrite(files[0], 0, SIZE, 1);
    CHECK_ERRNO(snapshim_map(1000, 0, PAGE, PROT_READ), MAP_FAILED, EBADF);
    unsigned char *one = snapshim_map(files[0], 0, SIZE, PROT_READ);
    CHECK(one != MAP_FAILED);
    overwrite(files[0], 0, SIZE, 2);
    CHECK(shows(one, 0, SIZE, 1));
    return 0;
}

/* Addresses, locked and populated pages, and lengths beyond the end of the file. */
static int places(void)
{
    struct snapshim_map maps[FILES];
    open_files();
    unsigned char *place = mmap(NULL, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    request(maps);
    maps[0].addr = place, maps[0].flags = MAP_FIXED;
    maps[1].flags = MAP_POPULATE | MAP_LOCKED;
    maps[2].length = 2 * SIZE;
    CHECK(snapshim_mapv(maps, FILES) == 0 && maps[0].addr == place);
    for (int i = 0; i < FILES; i++)
        overwrite(files[i], 0, SIZE, 1);
    for (int i = 0; i < FILES; i++)
        CHECK(shows(maps[i].addr, 0, SIZE, 0));
    CHECK(fault_of_reading((unsigned char *)maps[2].addr + SIZE) == SIGBUS);
    CHECK(stat_of(maps[1].addr).preserved == PAGES);
    memset(maps[1].addr, 'x', SIZE);
    IN_CHILD(CHECK(shows(maps[0].addr, 0, SIZE, 0) && *(char *)maps[1].addr == 'x'));
    return 0;
}

/* Ranges of one file, each shown twice. */
static int one_file(void)
{
    struct snapshim_map maps[2 * PAGES];
    open_files();
    for (int i = 0; i < 2 * PAGES; i++)
        maps[i] = (struct snapshim_map){files[0], PROT_READ, i / 2 * (off_t)PAGE, PAGE, NULL, 0, 0};
    CHECK(snapshim_mapv(maps, 2 * PAGES) == 0);
    overwrite(files[0], 0, SIZE, 1);
    CHECK(ftruncate(files[0], PAGE) == 0);
    unsigned char expected[PAGE];
    for (int i = 0; i < 2 * PAGES; i++) {
        memset(expected, stamp(i / 2, 0), PAGE);
        CHECK(memcmp(maps[i].addr, expected, PAGE) == 0);
    }
    return 0;
}

/* A program without the shim changes one of so many files that not all can be watched. */
static int foreign(void)
{
    enum { MANY = 100 };
    static struct snapshim_map maps[MANY];
    struct snapshim_stat stat;
    for (int i = 0; i < MANY; i++) {
        char name[32];
        snprintf(name, sizeof name, "file-%d", i);
        maps[i] = (struct snapshim_map){make_file(name, PAGE), PROT_READ, 0, PAGE, NULL, 0, 0};
    }
    CHECK(snapshim_mapv(maps, MANY) == 0);
    CHECK(system("unset LD_PRELOAD; sleep 0.05; printf x | dd of=file-90 conv=notrunc status=none") == 0);
    overwrite(maps[91].fd, 0, PAGE, 1);
    for (int i = 0; i < MANY; i++) {
        CHECK(snapshim_check(maps[i].addr, maps[i].fd, &stat) == 0);
        CHECK(stat.state == (i == 90 ? SNAPSHIM_DOUBTFUL : SNAPSHIM_EXACT));
        CHECK(stat.cause == (i == 90 ? SNAPSHIM_FOREIGN_CHANGE : 0));
        CHECK(i == 90 ? strstr(why_of(maps[i].addr), " changed the file without the shim") != NULL : !*why_of(maps[i].addr));
    }
    CHECK_ERRNO(snapshim_check(maps[0].addr, maps[1].fd, &stat), -1, EINVAL);
    CHECK_ERRNO(snapshim_check(maps[0].addr, -1, &stat), -1, EINVAL);
    CHECK_ERRNO(snapshim_check(&stat, maps[1].fd, &stat), -1, EINVAL);
    return 0;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

/* As many files as there are: the group is taken, each is changed by another process, and each shows what it was. */
static int many(int count)
{
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_max < (rlim_t)count + 100) {
        printf("SKIPPED only %lu descriptors may be open\n", (unsigned long)limit.rlim_max);
        return 0;
    }
    struct snapshim_map *maps = calloc((size_t)count, sizeof *maps);
    for (int i = 0; i < count; i++) {
        char name[32];
        snprintf(name, sizeof name, "file-%d", i);
        maps[i].fd = make_file(name, PAGE);
        maps[i].prot = PROT_READ, maps[i].length = PAGE;
    }
    double begun = now();
    CHECK(snapshim_mapv(maps, count) == 0);
    double taken = now();
    IN_CHILD(for (int i = 0; i < count; i += 7) overwrite(maps[i].fd, 0, PAGE, 1));
    double changed = now();
    for (int i = 0; i < count; i++)
        CHECK(shows(maps[i].addr, 0, PAGE, 0));
    for (int i = 0; i < count; i++)
        CHECK(munmap(maps[i].addr, PAGE) == 0);
    printf("%d files: taken in %.1f ms, changed in %.1f ms, given back in %.1f ms\n", count, taken - begun, changed - taken,
           now() - changed);
    return 0;
}

int main(int argc, char **argv)
{
    CHECK(argc > 1);
    if (strcmp(argv[1], "cut") == 0)
        return cut(atoi(argv[2]), strcmp(argv[3], "group") == 0);
    if (strcmp(argv[1], "foreign") == 0)
        return foreign();
    if (strcmp(argv[1], "errors") == 0)
        return errors();
    if (strcmp(argv[1], "places") == 0)
        return places();
    if (strcmp(argv[1], "one_file") == 0)
        return one_file();
    return many(atoi(argv[2]));
}

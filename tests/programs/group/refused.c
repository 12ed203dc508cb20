/* refused ROUNDS: takes groups that are refused once their snapshots are there, while a writer that is preserving pages of one of them is
 * stopped. No address of theirs is left behind. Prints how many were refused so late. */
#include "check.h"

#include <pthread.h>
#include <sched.h>

#define PAGES ((size_t)16384)
#define NAME "refused-victim"

static pid_t writer;
static volatile int is_taking;

/* Whether a snapshot of the file, or what is left of one, is mapped. */
static int is_mapped(void)
{
    char line[512];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    while (!found && fgets(line, sizeof line, maps))
        found = strstr(line, NAME) != NULL;
    fclose(maps);
    return found;
}

static void write_on(int fd)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (unsigned at = 0;; at++)
        CHECK(pwrite(fd, "x", 1, (off_t)(at % PAGES * PAGE)) == 1);
}

/* Stops the writer as soon as there is something to preserve for. */
static void *stop_it(void *delay)
{
    while (is_taking && !is_mapped())
        sched_yield();
    usleep((useconds_t)(uintptr_t)delay);
    CHECK(kill(writer, SIGSTOP) == 0);
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    int fd = open(NAME, O_RDWR | O_CREAT | O_TRUNC, 0600), other = make_file("refused-other", PAGE), late = 0;
    CHECK(fd >= 0 && posix_fallocate(fd, 0, (off_t)(PAGES * PAGE)) == 0);
    writer = fork();
    CHECK(writer >= 0);
    if (writer == 0)
        write_on(fd);
    for (int round = 0; round < atoi(argv[1]); round++) {
        /* The first is filled in before the place of the second turns out to be none. */
        struct snapshim_map maps[] = {{fd, PROT_READ, 0, PAGES * PAGE, NULL, MAP_POPULATE, 0},
                                      {other, PROT_READ, 0, PAGE, (void *)1, MAP_FIXED, 0}};
        pthread_t stopper;
        is_taking = 1;
        CHECK(pthread_create(&stopper, NULL, stop_it, (void *)(uintptr_t)(round % 7 * 100)) == 0);
        CHECK(snapshim_mapv(maps, 2) == -1);
        late += errno == EINVAL;
        is_taking = 0;
        CHECK(pthread_join(stopper, NULL) == 0);
        CHECK(!is_mapped());
        CHECK(kill(writer, SIGCONT) == 0);
    }
    printf("%d late\n", late);
    CHECK(kill(writer, SIGKILL) == 0);
    return 0;
}

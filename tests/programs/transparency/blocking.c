/* blocking blocked MODE: threads block in writes to pipes until standard input ends; says "ready" when they do. MODE is quiet, or
 * busy: another thread opens and closes descriptors all the time.
 *
 * blocking measure FILE COUNT: takes COUNT snapshots of FILE; prints the median time in milliseconds. */
#include "blocked.h"

enum { BLOCKED = 3, MOST = 1000 };

static void *block(void *tid)
{
    int ends[2];
    full_pipe(ends);
    *(volatile pid_t *)tid = own_tid();
    CHECK(write(ends[1], "x", 1) == 1);
    return NULL;
}

static void *open_and_close(void *unused)
{
    for (;;) {
        int fd = dup(0);
        CHECK(fd >= 0 && close(fd) == 0);
        sched_yield();
    }
    return unused;
}

static void blocked(int busy)
{
    pthread_t thread;
    for (int i = 0; i < BLOCKED; i++) {
        volatile pid_t tid = 0;
        CHECK(pthread_create(&thread, NULL, block, (void *)(uintptr_t)&tid) == 0);
        while (tid == 0)
            sched_yield();
        await_blocked(tid, SYS_write);
    }
    if (busy)
        CHECK(pthread_create(&thread, NULL, open_and_close, NULL) == 0);
    else
        CHECK(close(dup(0)) == 0);
    puts("ready");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
}

static int compare(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void measure(const char *path, size_t count)
{
    static double took[MOST];
    CHECK(count <= MOST);
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    for (size_t i = 0; i < count; i++) {
        double started = milliseconds();
        unsigned char *at = snapshot(fd, 0, PAGE, PROT_READ);
        took[i] = milliseconds() - started;
        CHECK(munmap(at, PAGE) == 0);
    }
    qsort(took, count, sizeof took[0], compare);
    printf("%.3f\n", took[count / 2]);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "blocked") == 0)
        blocked(strcmp(argv[2], "busy") == 0);
    else if (argc == 4 && strcmp(argv[1], "measure") == 0)
        measure(argv[2], strtoul(argv[3], NULL, 0));
    else
        CHECK(!"known arguments");
    return 0;
}

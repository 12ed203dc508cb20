/* ends FILE HOW [COUNT]: takes COUNT snapshots of FILE, 1 if it is not given, and ends as HOW says. */
#include "check.h"

#include <pthread.h>
#include <sys/syscall.h>

static void *wait_for_ever(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static void end_in_handler(int number)
{
    _exit(number == SIGUSR1 ? 0 : 1);
}

static void take(int fd, unsigned char **taken, size_t count)
{
    static struct snapshim_map maps[SNAPSHIM_GROUP];
    for (size_t done = 0; done < count;) {
        size_t now = count - done < SNAPSHIM_GROUP ? count - done : SNAPSHIM_GROUP;
        for (size_t i = 0; i < now; i++)
            maps[i] = (struct snapshim_map){.fd = fd, .prot = PROT_READ, .length = 3 * PAGE};
        CHECK(snapshim_mapv(maps, (int)now) == 0);
        for (size_t i = 0; i < now; i++)
            taken[done++] = maps[i].addr;
    }
}

/* A part of each of the first `count` snapshots is unmapped, so that it becomes two. */
static void split(unsigned char *const *taken, size_t count)
{
    for (size_t i = 0; i < count; i++)
        CHECK(munmap(taken[i] + PAGE, PAGE) == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc >= 3);
    const char *how = argv[2];
    size_t count = argc > 3 ? (size_t)atoi(argv[3]) : 1;
    int fd = open(argv[1], O_RDWR);
    CHECK(fd >= 0);
    unsigned char **taken = calloc(count, sizeof *taken);
    take(fd, taken, count);
    if (strcmp(how, "exit") == 0)
        exit(0);
    if (strcmp(how, "_exit") == 0)
        _exit(0);
    if (strcmp(how, "_Exit") == 0)
        _Exit(0);
    if (strcmp(how, "quick_exit") == 0)
        quick_exit(0);
    if (strcmp(how, "number") == 0)
        syscall(SYS_exit_group, 0);
    if (strcmp(how, "last_thread") == 0)
        syscall(SYS_exit, 0);
    if (strcmp(how, "pthread_exit") == 0)
        pthread_exit(NULL);
    if (strcmp(how, "handler") == 0) {
        signal(SIGUSR1, end_in_handler);
        raise(SIGUSR1);
    }
    if (strcmp(how, "forked") == 0)
        IN_CHILD((void)0);
    if (strcmp(how, "vforked") == 0) {
        /* The child ends its own image alone: the parent's snapshots stay. */
        pid_t child = vfork();
        if (child == 0)
            _exit(0);
        CHECK(child > 0 && waitpid(child, NULL, 0) == child);
        CHECK(stat_of(taken[0]).state == SNAPSHIM_EXACT);
    }
    if (strcmp(how, "threads") == 0) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, wait_for_ever, NULL) == 0);
    }
    if (strcmp(how, "split") == 0)
        split(taken, count);
    if (strcmp(how, "split_one") == 0)
        split(taken, 1);
    if (strcmp(how, "killed") == 0)
        raise(SIGKILL);
    if (strcmp(how, "aborted") == 0) {
        signal(SIGABRT, SIG_DFL);
        abort();
    }
    return 0;
}

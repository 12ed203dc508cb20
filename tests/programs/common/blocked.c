#include "blocked.h"

pid_t own_tid(void)
{
    return (pid_t)syscall(SYS_gettid);
}

void await_blocked(pid_t tid, long number)
{
    char path[64], line[64], wanted[16];
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", tid);
    int length = snprintf(wanted, sizeof wanted, "%ld ", number);
    for (;;) {
        int fd = open(path, O_RDONLY);
        CHECK(fd >= 0);
        ssize_t count = read(fd, line, sizeof line);
        close(fd);
        /* "running" while it is not blocked. */
        if (count > length && memcmp(line, wanted, (size_t)length) == 0)
            return;
        sched_yield();
    }
}

void full_pipe(int ends[2])
{
    static char filler[4096];
    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    CHECK(fcntl(ends[1], F_SETPIPE_SZ, 4096) >= 4096);
    CHECK(fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0);
    while (write(ends[1], filler, sizeof filler) > 0)
        ;
    CHECK(errno == EAGAIN);
    CHECK(fcntl(ends[1], F_SETFL, 0) == 0);
}

double milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

void snapshot_is_prompt(const char *path)
{
    if (!snapshim_active())
        return;
    IN_CHILD({
        double started = milliseconds();
        int fd = open(path, O_RDONLY);
        CHECK(fd >= 0);
        CHECK(munmap(snapshot(fd, 0, PAGE, PROT_READ), PAGE) == 0);
        CHECK(milliseconds() - started < 30000);
    });
}

void print_file(const char *path)
{
    static unsigned char bytes[1 << 20];
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    ssize_t length = read(fd, bytes, sizeof bytes);
    CHECK(length >= 0);
    uint64_t sum = 1469598103934665603u;
    for (ssize_t i = 0; i < length; i++)
        sum = (sum ^ bytes[i]) * 1099511628211u;
    printf("%s: %zd bytes, %016llx\n", path, length, (unsigned long long)sum);
    close(fd);
}

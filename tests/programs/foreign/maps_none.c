/* maps_none FILE: processes of this kind map FILE shared and writable, store, fork and unmap, all the time, while
 * snapshots of it are taken and looked at: none is ever doubtful. */
#include "check.h"

#include <time.h>

enum { SIZE = 16 * 4096, SECONDS = 3, MAPPERS = 3 };

static int fd;

static int is_time(const struct timespec *begun)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return now.tv_sec - begun->tv_sec < SECONDS;
}

static void map_and_store(int turn)
{
    volatile unsigned char *at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED);
    at[turn * 61 % SIZE] = (unsigned char)turn;
    if (turn % 4 == 0)
        IN_CHILD(at[turn * 31 % SIZE] = (unsigned char)turn);
    CHECK(mprotect((void *)at, SIZE, PROT_READ) == 0);
    CHECK(mprotect((void *)at, SIZE, PROT_READ | PROT_WRITE) == 0);
    at[turn * 7 % SIZE] = (unsigned char)turn;
    CHECK(munmap((void *)at, SIZE) == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    fd = make_file(argv[1], SIZE);
    struct timespec begun;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &begun) == 0);
    for (int i = 0; i < MAPPERS; i++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (int turn = 0; is_time(&begun); turn++)
                map_and_store(turn);
            _exit(0);
        }
    }
    while (is_time(&begun)) {
        unsigned char *at = snapshot(fd, 0, SIZE, PROT_READ), *copy = malloc(SIZE);
        memcpy(copy, at, SIZE);
        for (int look = 0; look < 10; look++) {
            CHECK(stat_of(at).state == SNAPSHIM_EXACT);
            usleep(2000);
        }
        CHECK(memcmp(copy, at, SIZE) == 0);
        CHECK(munmap(at, SIZE) == 0);
        free(copy);
    }
    for (int i = 0, status; i < MAPPERS; i++)
        CHECK(wait(&status) > 0 && status == 0);
    puts("exact");
    return 0;
}

/* What bench.rs measures: reads one command a line, does it, answers one line. Times are nanoseconds for the whole command.
 *
 *   write FILE SIZE COUNT        COUNT calls of pwrite, SIZE bytes each, one behind the other
 *   scatter FILE SIZE COUNT      the same, each at another place than behind the one before; COUNT is no multiple of 7919
 *   fault FILE SIZE COUNT        as write, and after each call one store into each of its pages in a plain private mapping
 *   hold FILE r|w LENGTH         takes a snapshot that stays until `drop`
 *   held                         memory that the process has of its own, and what snapshim_stat says the snapshot costs, in bytes
 *   make FILE LENGTH             takes a snapshot and drops it; the time is that of mmap
 *   cut FILE                     truncates it to nothing
 *   copy FILE LENGTH             reads the file into memory
 *   read FILE snapshot|plain LENGTH   maps and reads every word; the time is that of reading
 *   share FILE LENGTH            maps it shared and stores into every page; stays until `unshare`
 *   sharehuge FILE LENGTH        the same, aligned for huge pages, of which the kernel takes as many as the file has
 *   store STRIDE                 one store into each page of the shared mapping, every STRIDE-th (odd) page next
 *   run COUNT SETTING LIBRARY    runs true(1) COUNT times with SETTING in the environment and, unless it is "-", LIBRARY preloaded
 *   trap FILE LENGTH CHUNK STRIDE     the same natively after its write permission was taken away, with a handler that gives it
 *   back
 *                                to CHUNK pages at a time, and one store into each page of a plain private mapping */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "snapshim.h"

enum { PAGE = 4096 };

static void need(int holds, const char *what)
{
    if (!holds) {
        perror(what);
        exit(1);
    }
}

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

static unsigned char *map(int fd, size_t length, int protection, int flags)
{
    unsigned char *at = mmap(NULL, length, protection, MAP_PRIVATE | flags, fd, 0);
    need(at != MAP_FAILED, "mmap");
    return at;
}

static long write_all(int fd, size_t size, size_t count, size_t stride, volatile unsigned char *faults)
{
    static char *data;
    if (!data)
        need(posix_memalign((void **)&data, PAGE, 1 << 20) == 0, "memory");
    memset(data, rand(), size);
    long start = now();
    for (size_t i = 0; i < count; i++) {
        size_t first = i * stride % count * size;
        need(pwrite(fd, data, size, (off_t)first) == (ssize_t)size, "pwrite");
        for (size_t at = first; faults && at < first + size; at += PAGE)
            faults[at] = 1;
    }
    return now() - start;
}

static long read_all(int fd, size_t length, int flags)
{
    unsigned char *at = map(fd, length, PROT_READ, flags);
    long start = now();
    unsigned long sum = 0;
    for (size_t i = 0; i < length / sizeof sum; i++)
        sum += ((unsigned long *)at)[i];
    long took = now() - start;
    munmap(at, length);
    /* The sum has to be used, or the loop is not done. */
    return took + (sum == 42);
}

static long copy_all(int fd, size_t length)
{
    long start = now();
    char *copy = malloc(length);
    need(copy != NULL, "memory");
    for (size_t done = 0; done < length;) {
        ssize_t got = pread(fd, copy + done, length - done, (off_t)done);
        need(got > 0, "pread");
        done += (size_t)got;
    }
    long took = now() - start;
    free(copy);
    return took;
}

static long store_all(volatile unsigned char *at, size_t pages, size_t stride)
{
    long start = now();
    for (size_t i = 0; i < pages; i++)
        at[i * stride % pages * PAGE] += 1;
    return now() - start;
}

static unsigned char *map_shared(int fd, size_t length)
{
    unsigned char *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    need(at != MAP_FAILED, "mmap");
    store_all(at, length / PAGE, 1);
    return at;
}

enum { HUGE_PAGE = 2 << 20 };

static unsigned char *map_huge(int fd, size_t length)
{
    unsigned char *room = mmap(NULL, length + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(room != MAP_FAILED, "mmap");
    room += HUGE_PAGE - (uintptr_t)room % HUGE_PAGE;
    unsigned char *at = mmap(room, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    need(at != MAP_FAILED, "mmap");
    madvise(at, length, MADV_HUGEPAGE);
    madvise(at, length, MADV_POPULATE_WRITE);
    return at;
}

static size_t chunk;

static void open_chunk(int number, siginfo_t *information, void *context)
{
    (void)number, (void)context;
    uintptr_t at = (uintptr_t)information->si_addr / chunk * chunk;
    need(mprotect((void *)at, chunk, PROT_READ | PROT_WRITE) == 0, "mprotect");
}

static long trap_all(int fd, size_t length, size_t stride)
{
    struct sigaction action = {.sa_sigaction = open_chunk, .sa_flags = SA_SIGINFO}, before;
    unsigned char *at = map_shared(fd, length), *copy = map(fd, length, PROT_READ | PROT_WRITE, 0);
    sigaction(SIGSEGV, &action, &before);
    need(mprotect(at, length, PROT_READ) == 0, "mprotect");
    long took = store_all(at, length / PAGE, stride);
    sigaction(SIGSEGV, &before, NULL);
    took += store_all(copy, length / PAGE, stride);
    munmap(at, length);
    munmap(copy, length);
    return took;
}

static long run_all(size_t count, char *setting, const char *library)
{
    char preload[5000];
    snprintf(preload, sizeof preload, "LD_PRELOAD=%s", library);
    char *arguments[] = {"true", NULL}, *environment[] = {setting, library[0] == '-' ? NULL : preload, NULL};
    long start = now();
    for (size_t i = 0; i < count; i++) {
        pid_t child;
        int status = -1;
        need(posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environment) == 0, "posix_spawn");
        need(waitpid(child, &status, 0) == child && status == 0, "true");
    }
    return now() - start;
}

static long own_memory(void)
{
    char line[256];
    long kib = 0;
    FILE *status = fopen("/proc/self/status", "r");
    need(status != NULL, "status");
    while (fgets(line, sizeof line, status))
        sscanf(line, "RssAnon: %ld", &kib);
    fclose(status);
    return kib * 1024;
}

int main(int argc, char **argv)
{
    cpu_set_t cpu;
    CPU_ZERO(&cpu);
    CPU_SET(argc > 1 ? atoi(argv[1]) : 0, &cpu);
    sched_setaffinity(0, sizeof cpu, &cpu);
    unsigned char *held = NULL, *shared = NULL;
    size_t held_length = 0, shared_length = 0;
    static char line[8400], command[16], path[4096], setting[4096], word[16];
    while (fgets(line, sizeof line, stdin)) {
        long answer = 0, more = 0;
        size_t length = 0, size = 0, count = 0;
        sscanf(line, "%15s %4095s", command, path);
        int fd = path[0] ? open(path, O_RDWR) : -1;
        if (strcmp(command, "write") == 0 && sscanf(line, "%*s %*s %zu %zu", &size, &count) == 2) {
            answer = write_all(fd, size, count, 1, NULL);
        } else if (strcmp(command, "scatter") == 0 && sscanf(line, "%*s %*s %zu %zu", &size, &count) == 2) {
            answer = write_all(fd, size, count, 7919, NULL);
        } else if (strcmp(command, "fault") == 0 && sscanf(line, "%*s %*s %zu %zu", &size, &count) == 2) {
            unsigned char *at = map(fd, size * count, PROT_READ | PROT_WRITE, 0);
            answer = write_all(fd, size, count, 1, at);
            munmap(at, size * count);
        } else if (strcmp(command, "hold") == 0 && sscanf(line, "%*s %*s %15s %zu", word, &held_length) == 2) {
            held = map(fd, held_length, PROT_READ | (word[0] == 'w' ? PROT_WRITE : 0), MAP_SNAPSHOT);
        } else if (strcmp(command, "drop") == 0) {
            munmap(held, held_length);
        } else if (strcmp(command, "held") == 0) {
            struct snapshim_stat stat;
            need(snapshim_stat(held, &stat) == 0 && stat.state == SNAPSHIM_EXACT, "an exact snapshot");
            answer = own_memory();
            more = (long)stat.bytes_held;
        } else if (strcmp(command, "make") == 0 && sscanf(line, "%*s %*s %zu", &length) == 1) {
            long start = now();
            unsigned char *at = map(fd, length, PROT_READ, MAP_SNAPSHOT);
            answer = now() - start;
            munmap(at, length);
        } else if (strcmp(command, "cut") == 0) {
            long start = now();
            need(ftruncate(fd, 0) == 0, "ftruncate");
            answer = now() - start;
        } else if (strcmp(command, "copy") == 0 && sscanf(line, "%*s %*s %zu", &length) == 1) {
            answer = copy_all(fd, length);
        } else if (strcmp(command, "read") == 0 && sscanf(line, "%*s %*s %15s %zu", word, &length) == 2) {
            answer = read_all(fd, length, word[0] == 's' ? MAP_SNAPSHOT : 0);
        } else if (strcmp(command, "share") == 0 && sscanf(line, "%*s %*s %zu", &shared_length) == 1) {
            shared = map_shared(fd, shared_length);
        } else if (strcmp(command, "sharehuge") == 0 && sscanf(line, "%*s %*s %zu", &shared_length) == 1) {
            shared = map_huge(fd, shared_length);
        } else if (strcmp(command, "unshare") == 0) {
            munmap(shared, shared_length);
        } else if (strcmp(command, "store") == 0 && sscanf(line, "%*s %zu", &count) == 1) {
            answer = store_all(shared, shared_length / PAGE, count);
        } else if (strcmp(command, "run") == 0 && sscanf(line, "%*s %zu %4095s %4095s", &count, setting, path) == 3) {
            answer = run_all(count, setting, path);
        } else if (strcmp(command, "trap") == 0 && sscanf(line, "%*s %*s %zu %zu %zu", &length, &size, &count) == 3) {
            chunk = size * PAGE;
            answer = trap_all(fd, length, count);
        } else {
            fprintf(stderr, "not understood: %s", line);
            return 1;
        }
        close(fd);
        path[0] = 0;
        printf("%ld %ld\n", answer, more);
        fflush(stdout);
    }
    return 0;
}

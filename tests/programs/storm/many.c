/* More processes, and more threads, than one would think of: each is seen by a process that takes a snapshot. */
#include "check.h"

#include <pthread.h>
#include <spawn.h>
#include <sys/resource.h>
#include <time.h>

extern char **environ;

enum { PROCESSES = 1100, THREADS = 4200, PAGES = 64, SIZE = PAGES * 4096 };

static int file, other, ready[2], go[2], done[2];

static void __attribute__((noreturn)) skip(const char *what)
{
    printf("SKIPPED %s cannot be had here (errno %d)\n", what, errno);
    fflush(stdout);
    kill(0, SIGTERM);
    _exit(0);
}

/* The others of the group are all its own. */
static void __attribute__((noreturn)) end_all(int status)
{
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    exit(status);
}

static void tell(int fd, size_t count)
{
    char byte = 0;
    for (size_t i = 0; i < count; i++)
        CHECK(write(fd, &byte, 1) == 1);
}

static void hear(int fd, size_t count)
{
    static char bytes[512];
    while (count > 0) {
        ssize_t got = read(fd, bytes, count < sizeof bytes ? count : sizeof bytes);
        CHECK(got > 0);
        count -= (size_t)got;
    }
}

/* Joins by a write elsewhere, and writes the file when a snapshot of it has been taken. */
static void take_part(size_t number, unsigned char *shared)
{
    size_t page = number % PAGES;
    overwrite(other, page * PAGE, PAGE, 1);
    tell(ready[1], 1);
    hear(go[0], 1);
    if (shared != NULL && number % 2 == 0)
        shared[page * PAGE + number % PAGE] = stamp(page, 1);
    else
        overwrite(file, page * PAGE, PAGE, 1);
    tell(done[1], 1);
}

static void check_snapshot(size_t count)
{
    struct snapshim_stat stat;
    hear(ready[0], count);
    alarm(250);
    unsigned char *at = snapshot(file, 0, SIZE, PROT_READ | PROT_WRITE);
    tell(go[1], count);
    hear(done[0], count);
    if (!shows(at, 0, SIZE, 0)) {
        fprintf(stderr, "the snapshot shows newer bytes\n");
        end_all(1);
    }
    if (snapshim_stat(at, &stat) != 0 || stat.state != SNAPSHIM_EXACT) {
        fprintf(stderr, "the snapshot is not exact\n");
        end_all(1);
    }
}

static void each_of_many_processes_is_seen(void)
{
    pid_t leader = fork();
    if (leader == 0) {
        for (size_t i = 0; i < PROCESSES; i++) {
            pid_t pid = fork();
            if (pid < 0)
                skip("so many processes");
            if (pid == 0) {
                take_part(i, NULL);
                /* No process ends before all have written. */
                for (;;)
                    pause();
            }
        }
        for (;;)
            pause();
    }
    check_snapshot(PROCESSES);
}

static unsigned char *shared;

static void *run(void *number)
{
    take_part((size_t)number, shared);
    pause();
    return NULL;
}

static void each_of_many_threads_is_seen(void)
{
    pid_t leader = fork();
    if (leader == 0) {
        pthread_attr_t attributes;
        pthread_t thread;
        shared = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        CHECK(shared != MAP_FAILED);
        CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, 65536) == 0);
        for (size_t i = 0; i < THREADS; i++) {
            errno = pthread_create(&thread, &attributes, run, (void *)i);
            if (errno != 0)
                skip("so many threads");
        }
        for (;;)
            pause();
    }
    check_snapshot(THREADS);
}

static pthread_barrier_t together;

static void *write_once(void *unused)
{
    pthread_barrier_wait(&together);
    overwrite(other, 0, 1, 1);
    pthread_barrier_wait(&together);
    return unused;
}

/* The processor time, in milliseconds, of `count` threads that write for the first time at the same moment. */
static long time_of_newcomers(size_t count)
{
    pthread_attr_t attributes;
    pthread_t thread;
    struct rusage before, after;
    CHECK(pthread_barrier_init(&together, NULL, (unsigned)count + 1) == 0);
    CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, 65536) == 0);
    for (size_t i = 0; i < count; i++) {
        errno = pthread_create(&thread, &attributes, write_once, NULL);
        if (errno != 0)
            skip("so many threads");
    }
    CHECK(getrusage(RUSAGE_SELF, &before) == 0);
    pthread_barrier_wait(&together);
    pthread_barrier_wait(&together);
    CHECK(getrusage(RUSAGE_SELF, &after) == 0);
    const struct timeval ends[] = {before.ru_utime, before.ru_stime, after.ru_utime, after.ru_stime};
    long times[4];
    for (int i = 0; i < 4; i++)
        times[i] = ends[i].tv_sec * 1000 + ends[i].tv_usec / 1000;
    return times[2] + times[3] - times[0] - times[1];
}

/* At 1024 slots, and at each power of two from there on, one thread looks for those of the dead. */
static void threads_that_come_together_do_not_all_look_for_the_dead(void)
{
    long few = time_of_newcomers(900), many = time_of_newcomers(4500);
    printf("%ld ms, %ld ms\n", few, many);
    CHECK(many < 8 * few + 1000);
}

enum { IDLE = 300, NEWCOMERS = 21 };

/* Executed by the next: the processor time, in microseconds, of the first write; then the process may spawn a program. */
static int be_newcomer(int spawns)
{
    struct timespec before, after;
    int fd = open("other", O_RDWR);
    CHECK(fd >= 0 && clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before) == 0);
    overwrite(fd, 0, 1, 1);
    CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after) == 0);
    if (spawns) {
        pid_t pid;
        char *arguments[] = {"true", NULL};
        CHECK(posix_spawn(&pid, "/bin/true", NULL, NULL, arguments, environ) == 0 && waitpid(pid, NULL, 0) == pid);
    }
    printf("%ld\n", (after.tv_sec - before.tv_sec) * 1000000 + (after.tv_nsec - before.tv_nsec) / 1000);
    return 0;
}

static int by_size(const void *a, const void *b)
{
    long left = *(const long *)a, right = *(const long *)b;
    return (left > right) - (left < right);
}

/* The median of what the first write of a process takes, one after the other. */
static long time_of_each(const char *self, const char *what)
{
    char command[600];
    long times[NEWCOMERS];
    snprintf(command, sizeof command, "exec %s %s", self, what);
    for (int i = 0; i < NEWCOMERS; i++) {
        FILE *newcomer = popen(command, "r");
        CHECK(newcomer && fscanf(newcomer, "%ld", &times[i]) == 1 && pclose(newcomer) == 0);
    }
    qsort(times, NEWCOMERS, sizeof times[0], by_size);
    return times[NEWCOMERS / 2];
}

static void what_spawned_and_died_costs_the_next_nothing(const char *self)
{
    for (int i = 0; i < IDLE; i++) {
        pid_t pid = fork();
        if (pid < 0)
            skip("so many processes");
        if (pid == 0)
            for (;;)
                pause();
    }
    long plain = time_of_each(self, "newcomer"), spawning = time_of_each(self, "spawning_newcomer");
    printf("%ld us, %ld us\n", plain, spawning);
    CHECK(spawning < 3 * plain + 300);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strstr(argv[1], "newcomer"))
        return be_newcomer(argv[1][0] == 's');
    CHECK(argc == 2);
    signal(SIGTERM, SIG_DFL);
    CHECK(setpgid(0, 0) == 0);
    file = make_file("file", SIZE);
    other = make_file("other", SIZE);
    CHECK(pipe(ready) == 0 && pipe(go) == 0 && pipe(done) == 0);
    if (strcmp(argv[1], "each_of_many_processes_is_seen") == 0)
        each_of_many_processes_is_seen();
    else if (strcmp(argv[1], "each_of_many_threads_is_seen") == 0)
        each_of_many_threads_is_seen();
    else if (strcmp(argv[1], "threads_that_come_together_do_not_all_look_for_the_dead") == 0)
        threads_that_come_together_do_not_all_look_for_the_dead();
    else if (strcmp(argv[1], "what_spawned_and_died_costs_the_next_nothing") == 0)
        what_spawned_and_died_costs_the_next_nothing(argv[0]);
    else
        return 2;
    end_all(0);
}

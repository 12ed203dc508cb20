/* alone WHAT FILE [KIND]: maps FILE shared and writable, as many programs do that never hear of a snapshot.
 *   counts     prints how many threads it has, and what calls answer that want a process of one thread
 *   waits      prints "ready", waits as KIND says for two seconds, and prints what the wait returned, and how many threads it has
 *   wakes      a thread waits as KIND says, and is sent signals in pairs: one as of another process that asks for an agent, and one
 *              that ends the wait; prints how often in 100 times the wait went on
 *   executes   maps the file, stores into it and executes itself, KIND times
 *   snapshots  takes snapshots of FILE and gives them back, until standard input ends */
#define _GNU_SOURCE
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <time.h>

#include "check.h"

enum { PAGES = 16, SECONDS = 2 };

static int threads(void)
{
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(tasks));)
        count += entry->d_name[0] != '.';
    closedir(tasks);
    return count;
}

static volatile unsigned char *map(const char *path)
{
    int fd = open(path, O_RDWR);
    CHECK(fd >= 0);
    volatile unsigned char *at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED && close(fd) == 0);
    return at;
}

static void counts(const char *path)
{
    enum { JOIN_SESSION_KEYRING = 1, SESSION_TO_PARENT = 18 };
    map(path)[0] = 1;
    printf("threads: %d\n", threads());
    IN_CHILD({
        printf("threads of a child: %d\n", threads());
        long joined = syscall(SYS_keyctl, JOIN_SESSION_KEYRING, NULL);
        long given = joined < 0 ? joined : syscall(SYS_keyctl, SESSION_TO_PARENT);
        printf("a keyring for the parent: %s\n", given < 0 ? strerror(errno) : "given");
    });
    printf("a user namespace: %s\n", unshare(CLONE_NEWUSER) < 0 ? strerror(errno) : "made");
    printf("threads: %d\n", threads());
}

static void *waits_as_well(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static int wait_by(const char *kind, volatile unsigned char *at)
{
    struct timespec time = {SECONDS, 0}, begun, now;
    struct epoll_event event;
    if (!strcmp(kind, "poll"))
        return poll(NULL, 0, SECONDS * 1000);
    /* No instruction names the call, as in libc from version 2.41 on. */
    if (!strcmp(kind, "numbered"))
        return (int)syscall(SYS_poll, NULL, 0, SECONDS * 1000);
    if (!strcmp(kind, "epoll"))
        return epoll_wait(epoll_create1(0), &event, 1, SECONDS * 1000);
    if (!strcmp(kind, "select"))
        return select(0, NULL, NULL, NULL, &(struct timeval){SECONDS, 0});
    if (!strcmp(kind, "nanosleep"))
        return nanosleep(&time, NULL);
    if (!strcmp(kind, "sleep"))
        return (int)sleep(SECONDS);
    if (!strcmp(kind, "read"))
        return (int)read(0, &event, 1);
    if (!strcmp(kind, "child")) {
        pid_t child = fork();
        if (child == 0) {
            sleep(SECONDS);
            _exit(0);
        }
        return waitpid(child, NULL, 0) == child ? 0 : -1;
    }
    CHECK(!strcmp(kind, "stores"));
    clock_gettime(CLOCK_MONOTONIC, &begun);
    do {
        for (size_t page = 0; page < PAGES; page++)
            at[page * PAGE]++;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - begun.tv_sec < SECONDS + 1);
    return 0;
}

static void waits(const char *path, const char *kind)
{
    volatile unsigned char *at = map(path);
    CHECK(threads() == 1);
    pthread_t other;
    if (!strncmp(kind, "two-", 4))
        CHECK(pthread_create(&other, NULL, waits_as_well, NULL) == 0);
    puts("ready");
    fflush(stdout);
    errno = 0;
    int result = wait_by(kind + (strncmp(kind, "two-", 4) ? 0 : 4), at);
    printf("%d %s\n", result, strerror(errno));
    printf("threads: %d\n", threads());
}

static atomic_int woken;

static void wake(int signal)
{
    (void)signal;
}

static void *be_woken(void *by_sigsuspend)
{
    sigset_t open;
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &open) == 0);
    sigdelset(&open, SIGUSR1);
    for (;;) {
        if (by_sigsuspend)
            sigsuspend(&open);
        else
            pause();
        atomic_fetch_add(&woken, 1);
    }
    return NULL;
}

/* Natively, too, pause() misses a signal that comes before it. */
static void await_sleep(pid_t thread)
{
    char path[40], state = 0;
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", thread);
    while (state != 'S') {
        FILE *stat = fopen(path, "r");
        CHECK(stat && fscanf(stat, "%*d %*s %c", &state) == 1 && fclose(stat) == 0);
    }
}

static int is_woken(int before)
{
    for (int ms = 0; ms < 100 && atomic_load(&woken) == before; ms++)
        usleep(1000);
    return atomic_load(&woken) != before;
}

static void wakes(const char *path, const char *kind)
{
    enum { REQUEST = 33, ASKS_FOR_AGENT = 0x736e616d, TIMES = 100 };
    struct sigaction action = {.sa_handler = wake};
    int went_on = 0, by_sigsuspend = !strcmp(kind, "sigsuspend");
    siginfo_t information = {.si_signo = REQUEST, .si_code = SI_QUEUE, .si_errno = ASKS_FOR_AGENT};
    sigset_t blocked;
    pthread_t waiter;
    pid_t thread = 0;
    map(path);
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0 && sigemptyset(&blocked) == 0 && sigaddset(&blocked, SIGUSR1) == 0);
    CHECK(!by_sigsuspend || pthread_sigmask(SIG_BLOCK, &blocked, NULL) == 0);
    CHECK(pthread_create(&waiter, NULL, be_woken, by_sigsuspend ? &woken : NULL) == 0);
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *entry; (entry = readdir(tasks));)
        thread = atoi(entry->d_name) > getpid() ? atoi(entry->d_name) : thread;
    closedir(tasks);
    for (int time = 0; time < TIMES; time++) {
        int before = atomic_load(&woken);
        await_sleep(thread);
        CHECK(syscall(SYS_rt_tgsigqueueinfo, getpid(), thread, REQUEST, &information) == 0);
        usleep(500);
        CHECK(pthread_kill(waiter, SIGUSR1) == 0);
        if (is_woken(before))
            continue;
        went_on++;
        CHECK(pthread_kill(waiter, SIGUSR1) == 0 && is_woken(before));
    }
    printf("%d\n", went_on);
}

static void executes(const char *path, char *times)
{
    map(path)[PAGE] = 1;
    char left[20];
    snprintf(left, sizeof left, "%d", atoi(times) - 1);
    if (atoi(times) > 0)
        execl("/proc/self/exe", "alone", "executes", path, left, NULL);
    CHECK(atoi(times) == 0);
}

static void snapshots(const char *path)
{
    struct pollfd input = {.fd = 0, .events = POLLIN};
    int fd = open(path, O_RDONLY), taken = 0;
    while (poll(&input, 1, 0) == 0) {
        unsigned char *at = snapshot(fd, 0, PAGES * PAGE, PROT_READ);
        CHECK(munmap(at, PAGES * PAGE) == 0);
        if (++taken == 1) {
            puts("ready");
            fflush(stdout);
        }
    }
    printf("taken: %d\n", taken);
}

int main(int argc, char **argv)
{
    CHECK(argc >= 3);
    if (!strcmp(argv[1], "counts"))
        counts(argv[2]);
    else if (!strcmp(argv[1], "waits"))
        waits(argv[2], argv[3]);
    else if (!strcmp(argv[1], "wakes"))
        wakes(argv[2], argv[3]);
    else if (!strcmp(argv[1], "executes"))
        executes(argv[2], argv[3]);
    else
        snapshots(argv[2]);
    return 0;
}

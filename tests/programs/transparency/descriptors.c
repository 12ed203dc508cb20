/* Scenarios of a program of one thread that counts on what a descriptor table is: the lowest free number is its own, and what it
 * closes is closed. Natively each of them ends as under the shim. */
#include "check.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

enum { PAGES = 16 };

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* A process that takes snapshots of the file and writes it, again and again. */
static pid_t start_keeper(void)
{
    pid_t keeper = fork();
    CHECK(keeper >= 0);
    if (keeper != 0)
        return keeper;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int fd = open("file", O_RDWR);
    CHECK(fd >= 0);
    for (int turn = 1;; turn++) {
        unsigned char *at = snapshot(fd, 0, PAGES * PAGE, PROT_READ);
        overwrite(fd, (size_t)turn % PAGES * PAGE, PAGE, turn);
        CHECK(munmap(at, PAGES * PAGE) == 0);
    }
}

static void take_lowest(int lowest)
{
    int ends[2];
    CHECK(open("/dev/null", O_RDONLY) == lowest);
    CHECK(dup(0) == lowest + 1);
    CHECK(pipe(ends) == 0 && ends[0] == lowest + 2 && ends[1] == lowest + 3);
    CHECK(close(lowest + 1) == 0 && socket(AF_UNIX, SOCK_STREAM, 0) == lowest + 1);
    /* As every program that redirects does. */
    CHECK(close(0) == 0 && open("/dev/null", O_RDONLY) == 0);
    for (int number = lowest; number < lowest + 4; number++)
        CHECK(close(number) == 0);
}

/* For so long, while the agent has things to do. */
static void count_on_the_lowest(double seconds)
{
    int lowest = dup(0);
    CHECK(lowest >= 0 && close(lowest) == 0);
    int fd = open("file", O_RDWR);
    CHECK(fd == lowest);
    unsigned char *shared = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(shared != MAP_FAILED);
    snapshot(fd, 0, PAGES * PAGE, PROT_READ | PROT_WRITE);
    CHECK(close(fd) == 0);
    pid_t keeper = start_keeper();
    double until = now() + seconds;
    for (int turn = 0; now() < until; turn++) {
        shared[(size_t)turn % PAGES * PAGE] = (unsigned char)turn;
        for (int i = 0; i < 50; i++)
            take_lowest(lowest);
    }
    CHECK(kill(keeper, SIGKILL) == 0 && waitpid(keeper, NULL, 0) == keeper);
}

static void the_lowest_number_is_its_own(int protection, enum who who)
{
    (void)protection, (void)who;
    close(make_file("file", PAGES * PAGE));
    /* Much of what the agent does it does once in a process. */
    for (int i = 0; i < 8; i++)
        IN_CHILD(count_on_the_lowest(0.2));
    IN_CHILD(count_on_the_lowest(3.5));
}

/* What another process says of a record lock, a lock of a whole file, and a pipe. */
enum { LOCKED = 1, TAKEN = 2, AT_END = 4 };

static int said_by_another(int end)
{
    int said = 0, status;
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        /* Without what it inherited of the locks; the pipe's end that is written to is closed on exec alone. */
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5};
        int fd = open("records", O_RDWR), whole = open("whole", O_RDWR);
        CHECK(fd >= 0 && whole >= 0 && fcntl(fd, F_GETLK, &lock) == 0);
        said |= lock.l_type == F_WRLCK && lock.l_pid == getppid() ? LOCKED : 0;
        said |= flock(whole, LOCK_EX | LOCK_NB) != 0 ? TAKEN : 0;
        _exit(said);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    struct pollfd waiting = {.fd = end, .events = POLLIN};
    said = WEXITSTATUS(status) | (poll(&waiting, 1, 0) == 1 && waiting.revents & POLLHUP ? AT_END : 0);
    return said;
}

static void show(const char *when, int end)
{
    int said = said_by_another(end);
    printf("%s: %s, %s, %s\n", when, said & LOCKED ? "record locked" : "no record locked", said & TAKEN ? "file locked" : "file free",
           said & AT_END ? "at its end" : "open");
}

static void let_agent_act(void)
{
    struct timespec while_it_looks = {.tv_sec = 1, .tv_nsec = 300000000};
    CHECK(nanosleep(&while_it_looks, NULL) == 0);
}

static void what_is_closed_is_closed_and_what_is_locked_is_locked(int protection, enum who who)
{
    (void)protection, (void)who;
    int ends[2], records = make_file("records", PAGE), whole = make_file("whole", PAGE), fd = make_file("file", PAGES * PAGE);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5};
    CHECK(fcntl(records, F_SETLK, &lock) == 0 && flock(whole, LOCK_EX) == 0 && pipe(ends) == 0);
    show("before", ends[0]);
    unsigned char *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(shared != MAP_FAILED);
    unsigned char *at = snapshot(fd, 0, PAGES * PAGE, PROT_READ | PROT_WRITE);
    let_agent_act();
    show("with an agent", ends[0]);
    /* It leaves before, and comes again. */
    CHECK(setegid(getegid()) == 0);
    show("with another", ends[0]);
    CHECK(close(ends[1]) == 0);
    show("after the pipe", ends[0]);
    CHECK(close(whole) == 0);
    show("after the file", ends[0]);
    CHECK(setegid(getegid()) == 0 && munmap(at, PAGES * PAGE) == 0);
    show("without a snapshot", ends[0]);
    CHECK(close(records) == 0);
    show("after the record", ends[0]);
}

/* On overlayfs, the library may open a file anew. */
static void what_is_locked_by_a_writer_stays_locked(int protection, enum who who)
{
    (void)protection, (void)who;
    int ends[2], records = make_file("records", PAGE), whole = make_file("whole", PAGE);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5};
    CHECK(fcntl(records, F_SETLK, &lock) == 0 && flock(whole, LOCK_EX) == 0 && pipe(ends) == 0);
    snapshot(records, 0, PAGE, PROT_READ), snapshot(whole, 0, PAGE, PROT_READ);
    show("with snapshots", ends[0]);
}

/* As soon as there is an agent: what it has of the table, it had before the call returned that started it. */
static void close_at_once(void)
{
    /* The kernel copies no more than the first 64, and closes the copies in their order. */
    while (dup(0) < 50)
        ;
    int ends[2], whole = make_file("whole", PAGE), fd = make_file("file", PAGE);
    CHECK(flock(whole, LOCK_EX) == 0 && pipe(ends) == 0);
    CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED);
    CHECK(close(ends[1]) == 0 && close(whole) == 0);
    struct pollfd waiting = {.fd = ends[0], .events = POLLIN};
    CHECK(poll(&waiting, 1, 0) == 1 && waiting.revents & POLLHUP);
    CHECK((whole = open("whole", O_RDWR)) >= 0 && flock(whole, LOCK_EX | LOCK_NB) == 0);
}

static void what_is_closed_at_once_is_closed(int protection, enum who who)
{
    (void)protection, (void)who;
    for (int i = 0; i < 300; i++)
        IN_CHILD(close_at_once());
}

static void take_and_wait(const char *file)
{
    int fd = open(file, O_RDWR);
    CHECK(fd >= 0);
    snapshot(fd, 0, PAGE, PROT_READ);
    puts("ready");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    exit(0);
}

static void *take_and_wait_in_thread(void *main_thread)
{
    CHECK(pthread_join(*(pthread_t *)main_thread, NULL) == 0);
    take_and_wait("file");
    return NULL;
}

/* The process ends for the call that the agent copies descriptors by, and for the one that gives it a table. */
static void forbid(unsigned flags)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_getfd, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_close_range, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) == 0);
}

/* descriptors hold WHAT: takes a snapshot of "file", prints "ready" and ends with standard input. */
static int hold(const char *what)
{
    static pthread_t main_thread;
    pthread_t other;
    if (!strcmp(what, "the first thread ended")) {
        main_thread = pthread_self();
        CHECK(pthread_create(&other, NULL, take_and_wait_in_thread, &main_thread) == 0);
        pthread_exit(NULL);
    }
    if (!strcmp(what, "filtered before"))
        forbid(0);
    if (!strcmp(what, "filtered afterwards")) {
        int fd = open("other", O_RDWR | O_CREAT, 0600);
        CHECK(fd >= 0 && ftruncate(fd, PAGE) == 0);
        snapshot(fd, 0, PAGE, PROT_READ);
        let_agent_act();
        forbid(SECCOMP_FILTER_FLAG_TSYNC);
    }
    take_and_wait("file");
    return 1;
}

static const struct scenario all[] = {
    ONCE(the_lowest_number_is_its_own),
    ONCE(what_is_closed_is_closed_and_what_is_locked_is_locked),
    ONCE(what_is_locked_by_a_writer_stays_locked),
    ONCE(what_is_closed_at_once_is_closed),
};

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "hold"))
        return hold(argv[2]);
    return run_scenarios(argc, argv, all, sizeof all / sizeof all[0]);
}

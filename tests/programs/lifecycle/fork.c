/* Every way to a child that has a copy of this memory: what it inherits is exact, and what it stores is seen. */
#include "check.h"
#include <linux/sched.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sched.h>
#include <sys/syscall.h>

#define PAGES ((size_t)16)
#define SIZE (PAGES * PAGE)

/* The ways: each runs `body` in the child, which ends there. */
static pid_t by_fork(int (*body)(void *), void *argument)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(body(argument));
    return pid;
}

static pid_t by_only_fork(int (*body)(void *), void *argument)
{
    pid_t pid = _Fork();
    if (pid == 0)
        _exit(body(argument));
    return pid;
}

static _Alignas(16) char stack[64 << 10];

static pid_t by_clone(int (*body)(void *), void *argument)
{
    return clone(body, stack + sizeof stack, SIGCHLD, argument);
}

static pid_t by_clone_with_ids(int (*body)(void *), void *argument)
{
    pid_t ids[2] = {0, 0};
    pid_t pid = clone(body, stack + sizeof stack, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, argument, &ids[0], NULL,
                      &ids[1]);
    CHECK(ids[0] == pid && ids[1] == 0);
    return pid;
}

static pid_t by_number(int (*body)(void *), void *argument)
{
    pid_t pid = (pid_t)syscall(SYS_fork);
    if (pid == 0)
        _exit(body(argument));
    return pid;
}

static pid_t by_clone_number(int (*body)(void *), void *argument)
{
    pid_t pid = (pid_t)syscall(SYS_clone, (long)SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0)
        _exit(body(argument));
    return pid;
}

static pid_t by_clone3_number(int (*body)(void *), void *argument)
{
    struct clone_args arguments = {.exit_signal = SIGCHLD};
    pid_t pid = (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
    if (pid == 0)
        _exit(body(argument));
    return pid;
}

typedef pid_t way(int (*body)(void *), void *argument);
static way *const ways[] = {by_fork, by_only_fork, by_clone, by_clone_with_ids, by_number, by_clone_number, by_clone3_number};
enum { WAYS_COUNT = sizeof ways / sizeof *ways };

struct meeting {
    unsigned char *at;
    int fd, to_child[2], to_parent[2];
};

static void meet(struct meeting *meeting)
{
    CHECK(pipe(meeting->to_child) == 0 && pipe(meeting->to_parent) == 0);
}

static void part(struct meeting *meeting)
{
    for (int i = 0; i < 2; i++)
        close(meeting->to_child[i]), close(meeting->to_parent[i]);
}

static void tell(const int *pipe)
{
    CHECK(write(pipe[1], "", 1) == 1);
}

static void await(const int *pipe)
{
    char byte;
    CHECK(read(pipe[0], &byte, 1) == 1);
}

static void reap(pid_t pid)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static int keeps_it(void *argument)
{
    struct meeting *meeting = argument;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    await(meeting->to_child);
    CHECK(shows(meeting->at, 0, SIZE, 0) && stat_of(meeting->at).state == SNAPSHIM_EXACT);
    CHECK(try_overwrite(meeting->fd, 8 * PAGE, 4 * PAGE, 4) == 0);
    CHECK(shows(meeting->at, 0, SIZE, 0));
    tell(meeting->to_parent);
    await(meeting->to_child);
    CHECK(shows(meeting->at, 0, SIZE, 0) && stat_of(meeting->at).preserved == PAGES);
    CHECK(stat_of(meeting->at).state == SNAPSHIM_EXACT);
    return 0;
}

static void children_by_any_way_keep_what_they_inherit(int protection, enum who who)
{
    for (int i = 0; i < WAYS_COUNT; i++) {
        struct meeting meeting = {.fd = make_file("file", SIZE)};
        struct writer writer = writer_before(who, "file");
        meeting.at = snapshot(meeting.fd, 0, SIZE, protection);
        writer_after(&writer);
        meet(&meeting);
        writer_writes(&writer, 0, 2 * PAGE, 1);
        pid_t pid = ways[i](keeps_it, &meeting);
        CHECK(pid > 0);
        writer_writes(&writer, 0, 4 * PAGE, 2);
        tell(meeting.to_child);
        await(meeting.to_parent);
        CHECK(shows(meeting.at, 0, SIZE, 0));
        writer_writes(&writer, 0, SIZE, 3);
        CHECK(munmap(meeting.at, SIZE) == 0);
        tell(meeting.to_child);
        reap(pid);
        writer_end(&writer);
        part(&meeting);
        close(meeting.fd);
    }
}

static struct meeting *handed;
static volatile pid_t forked;

static void fork_in_handler(int number)
{
    (void)number;
    forked = fork();
    if (forked == 0)
        _exit(keeps_it(handed));
}

static void a_child_of_a_handler_keeps_what_it_inherits(int protection, enum who who)
{
    struct meeting meeting = {.fd = make_file("file", SIZE)};
    struct writer writer = writer_before(who, "file");
    meeting.at = snapshot(meeting.fd, 0, SIZE, protection);
    writer_after(&writer);
    meet(&meeting);
    handed = &meeting;
    struct sigaction action = {.sa_handler = fork_in_handler};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    writer_writes(&writer, 0, 2 * PAGE, 1);
    CHECK(raise(SIGUSR1) == 0 && forked > 0);
    writer_writes(&writer, 0, 4 * PAGE, 2);
    tell(meeting.to_child);
    await(meeting.to_parent);
    writer_writes(&writer, 0, SIZE, 3);
    tell(meeting.to_child);
    reap(forked);
    CHECK(shows(meeting.at, 0, SIZE, 0) && stat_of(meeting.at).state == SNAPSHIM_EXACT);
    writer_end(&writer);
}

static void fork_and_look_in_handler(int number)
{
    (void)number;
    forked = fork();
    if (forked == 0)
        _exit(fault_of_reading(handed->at) != SIGBUS);
}

/* Till the pipe is full, so that its writer waits; then interrupts that, and empties the pipe. */
static void interrupt_a_full_pipe(const int *ends, pid_t writer)
{
    char bytes[4096];
    int size = fcntl(ends[0], F_GETPIPE_SZ), filled = 0;
    close(ends[1]);
    while (filled < size)
        CHECK(ioctl(ends[0], FIONREAD, &filled) == 0);
    CHECK(kill(writer, SIGUSR1) == 0);
    while (read(ends[0], bytes, sizeof bytes) > 0)
        ;
    _exit(0);
}

/* Inside a call that it interrupted, a handler cannot choose an instant for what its child inherits. */
static void what_a_handler_in_a_write_hands_down_faults(int protection, enum who who)
{
    static char bytes[1 << 20];
    int ends[2];
    struct meeting meeting = {.fd = make_file("file", SIZE)};
    struct writer writer = writer_before(who, "file");
    meeting.at = snapshot(meeting.fd, 0, SIZE, protection);
    writer_after(&writer);
    handed = &meeting;
    struct sigaction action = {.sa_handler = fork_and_look_in_handler, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0 && pipe(ends) == 0);
    pid_t self = getpid(), reader = fork();
    CHECK(reader >= 0);
    if (reader == 0)
        interrupt_a_full_pipe(ends, self);
    close(ends[0]);
    for (size_t done = 0; done < sizeof bytes;) {
        ssize_t now = write(ends[1], bytes + done, sizeof bytes - done);
        CHECK(now > 0);
        done += (size_t)now;
    }
    close(ends[1]);
    CHECK(forked > 0);
    reap(forked), reap(reader);
    writer_writes(&writer, 0, SIZE, 1);
    CHECK(shows(meeting.at, 0, SIZE, 0) && stat_of(meeting.at).state == SNAPSHIM_EXACT);
    writer_end(&writer);
}

static int stores(void *argument)
{
    struct meeting *meeting = argument;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    memset(meeting->at, stamp(0, 3), PAGE);
    tell(meeting->to_parent);
    await(meeting->to_child);
    memset(meeting->at + 2 * PAGE, stamp(2, 4), PAGE);
    tell(meeting->to_parent);
    await(meeting->to_child);
    return 0;
}

/* The child stores through what it inherited: before the parent takes a snapshot, and while that is held. */
static void children_by_any_way_are_seen_to_store(int protection, enum who who)
{
    (void)who;
    for (int i = 0; i < WAYS_COUNT; i++) {
        struct meeting meeting = {.fd = make_file("file", SIZE)};
        meeting.at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, meeting.fd, 0);
        CHECK(meeting.at != MAP_FAILED);
        meet(&meeting);
        unsigned char *before = snapshot(meeting.fd, 0, SIZE, protection);
        pid_t pid = ways[i](stores, &meeting);
        CHECK(pid > 0);
        await(meeting.to_parent);
        CHECK(shows(before, 0, SIZE, 0) && meeting.at[1] == stamp(0, 3));
        unsigned char *after = snapshot(meeting.fd, 0, SIZE, protection);
        tell(meeting.to_child);
        await(meeting.to_parent);
        CHECK(shows(before, 0, SIZE, 0) && meeting.at[2 * PAGE] == stamp(2, 4));
        CHECK(after[1] == stamp(0, 3) && shows(after + PAGE, PAGE, SIZE - PAGE, 0));
        CHECK(stat_of(before).state == SNAPSHIM_EXACT && stat_of(after).state == SNAPSHIM_EXACT);
        tell(meeting.to_child);
        reap(pid);
        CHECK(munmap(before, SIZE) == 0 && munmap(after, SIZE) == 0 && munmap(meeting.at, SIZE) == 0);
        part(&meeting);
        close(meeting.fd);
    }
}

static volatile int churning;

static void *churn(void *path)
{
    int fd = open(path, O_RDWR);
    for (int version = 1; churning; version++) {
        overwrite(fd, 0, SIZE, version % 200);
        unsigned char *at = snapshot(fd, 0, SIZE, PROT_READ);
        CHECK(munmap(at, SIZE) == 0);
    }
    close(fd);
    return NULL;
}

static int compares(void *argument)
{
    unsigned char **both = argument;
    for (int turn = 0; turn < 3; turn++)
        CHECK(memcmp(both[0], both[1], SIZE) == 0);
    CHECK(stat_of(both[0]).state == SNAPSHIM_EXACT);
    return 0;
}

/* Threads write, and take and end snapshots, while another forks in every way. */
static void a_process_of_many_threads_forks(int protection, enum who who)
{
    (void)who;
    int fd = make_file("file", SIZE);
    pthread_t threads[3];
    churning = 1;
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, churn, "file") == 0);
    static unsigned char copy[SIZE];
    for (int round = 0; round < 10 * WAYS_COUNT; round++) {
        unsigned char *both[] = {snapshot(fd, 0, SIZE, protection), copy};
        memcpy(copy, both[0], SIZE);
        pid_t pid = ways[round % WAYS_COUNT](compares, both);
        CHECK(pid > 0);
        CHECK(memcmp(both[0], copy, SIZE) == 0);
        reap(pid);
        CHECK(memcmp(both[0], copy, SIZE) == 0 && munmap(both[0], SIZE) == 0);
    }
    churning = 0;
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
}

/* Two hundred processes, each forked by the one before or two before it; all hold the snapshot while the file changes. */
static void two_hundred_children_keep_what_they_inherit(int protection, enum who who)
{
    (void)who;
    enum { CHILDREN = 200 };
    int fd = make_file("file", SIZE), ready[2], go[2];
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    CHECK(pipe(ready) == 0 && pipe(go) == 0);
    pid_t pids[CHILDREN];
    for (int child = 0; child < CHILDREN; child++) {
        pids[child] = fork();
        CHECK(pids[child] >= 0);
        if (pids[child] == 0) {
            char byte;
            close(go[1]);
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            CHECK(write(ready[1], "", 1) == 1 && read(go[0], &byte, 1) == 0);
            CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT && stat_of(at).preserved == PAGES);
            _exit(0);
        }
        if (child % 50 == 49)
            overwrite(fd, (size_t)child / 50 * 4 * PAGE, 2 * PAGE, 1);
    }
    for (int child = 0; child < CHILDREN; child++)
        await(ready);
    overwrite(fd, 0, SIZE, 2);
    close(go[1]);
    for (int child = 0; child < CHILDREN; child++)
        reap(pids[child]);
    CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
}

static int finds_it_broken(void *argument)
{
    CHECK(fault_of_reading(argument) == SIGBUS);
    return 0;
}

/* What cannot be exact faults in the child, and is not touched in the parent. */
static void what_cannot_be_inherited_faults(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    pid_t pid = clone(finds_it_broken, stack + sizeof stack, CLONE_VFORK | SIGCHLD, at);
    CHECK(pid > 0);
    reap(pid);
    writer_writes(&writer, 0, 4 * PAGE, 1);
    CHECK(shows(at, 0, SIZE, 0));
    pid = clone(finds_it_broken, stack + sizeof stack, CLONE_NEWPID | SIGCHLD, at);
    /* A child in another pid namespace takes no part, and may change files unseen. */
    int state = pid > 0 ? SNAPSHIM_DOUBTFUL : SNAPSHIM_EXACT;
    if (pid > 0)
        reap(pid);
    else
        CHECK(errno == EPERM);
    writer_writes(&writer, 0, SIZE, 2);
    CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == state);
    writer_end(&writer);
}

/* What shares this memory, or begins anew, leaves the snapshots of this process alone. */
static void vfork_spawn_system_and_popen_leave_snapshots_alone(int protection, enum who who)
{
    int fd = make_file("file", SIZE), status;
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    writer_writes(&writer, 0, PAGE, 1);
    pid_t pid = vfork();
    if (pid == 0) {
        execl("/bin/true", "true", NULL);
        _exit(1);
    }
    reap(pid);
    pid = vfork();
    if (pid == 0)
        _exit(pwrite(fd, "x", 1, 5 * PAGE) != 1);
    reap(pid);
    CHECK(system("printf y | dd of=file bs=1 seek=40960 conv=notrunc 2>/dev/null") == 0);
    FILE *stream = popen("cat >> file", "w");
    CHECK(stream && fputs("more", stream) >= 0 && (status = pclose(stream)) == 0);
    CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
    writer_writes(&writer, 0, SIZE, 2);
    CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT && stat_of(at).preserved == PAGES);
    writer_end(&writer);
}

/* A snapshot is a mapping of a file to madvise(2), as natively; also where its pages have left the file. */
static void wipeonfork_is_refused(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    CHECK_ERRNO(madvise(at, SIZE, MADV_WIPEONFORK), -1, EINVAL);
    CHECK(ftruncate(fd, 4 * PAGE) == 0);
    CHECK_ERRNO(madvise(at + 8 * PAGE, PAGE, MADV_WIPEONFORK), -1, EINVAL);
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(shows(at, 0, SIZE, 0));
        _exit(0);
    }
    reap(pid);
    CHECK(shows(at, 0, SIZE, 0));
    writer_end(&writer);
}

static const struct scenario scenarios[] = {
    EACH(children_by_any_way_keep_what_they_inherit),
    EACH(a_child_of_a_handler_keeps_what_it_inherits),
    EACH(what_a_handler_in_a_write_hands_down_faults),
    ONCE(children_by_any_way_are_seen_to_store),
    ONCE(a_process_of_many_threads_forks),
    ONCE(two_hundred_children_keep_what_they_inherit),
    EACH(what_cannot_be_inherited_faults),
    EACH(vfork_spawn_system_and_popen_leave_snapshots_alone),
    EACH(wipeonfork_is_refused),
};
MAIN(scenarios)

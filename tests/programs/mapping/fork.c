/* fork of a mapper: child and parent both keep their snapshots, whichever process writes. */
#include "check.h"
#include <pty.h>

#define PAGES ((size_t)16)
#define SIZE (PAGES * PAGE)

/* A process and a pipe each way, to take turns with. */
struct peer {
    pid_t pid;
    int in, out;
};

/* In the child `pid` is 0. */
static struct peer fork_peer(void)
{
    int to[2], from[2];
    CHECK(pipe(to) == 0 && pipe(from) == 0);
    struct peer peer = {.pid = fork()};
    CHECK(peer.pid >= 0);
    if (peer.pid == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    peer.in = peer.pid == 0 ? to[0] : from[0];
    peer.out = peer.pid == 0 ? from[1] : to[1];
    close(peer.pid == 0 ? to[1] : from[1]);
    close(peer.pid == 0 ? from[0] : to[0]);
    return peer;
}

static void hand_over(const struct peer *peer)
{
    CHECK(write(peer->out, "", 1) == 1);
}

static void await(const struct peer *peer)
{
    char byte;
    CHECK(read(peer->in, &byte, 1) == 1);
}

static void reap(const struct peer *peer)
{
    int status;
    CHECK(waitpid(peer->pid, &status, 0) == peer->pid && status == 0);
}

/* `who` is the third process; parent and child write as well. Page 0 and 9 hold own stores of the writable snapshot. */
static void child_and_parent_stay_exact(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    unsigned char first = stamp(0, 0), ninth = stamp(9, 0);
    if (protection & PROT_WRITE)
        at[1] = first = 0xfe, at[9 * PAGE + 1] = ninth = 0xfd;
    writer_writes(&writer, 0, 4 * PAGE, 1);
    CHECK(stat_of(at).preserved == 4);

    struct peer peer = fork_peer();
    if (peer.pid == 0) {
        CHECK(stat_of(at).preserved >= 4);
        await(&peer);
        CHECK(at[1] == first && at[9 * PAGE + 1] == ninth);
        CHECK(shows(at + 2, 2, 9 * PAGE - 1, 0) && shows(at + 9 * PAGE + 2, 9 * PAGE + 2, 7 * PAGE - 2, 0));
        CHECK(try_overwrite(fd, 6 * PAGE, 3 * PAGE, 5) == 0);
        if (protection & PROT_WRITE)
            at[1] = first = 0x77;
        hand_over(&peer);
        await(&peer);
        CHECK(at[1] == first && at[9 * PAGE + 1] == ninth);
        CHECK(shows(at + 2, 2, 9 * PAGE - 1, 0) && shows(at + 9 * PAGE + 2, 9 * PAGE + 2, 7 * PAGE - 2, 0));
        CHECK(stat_of(at).preserved == PAGES && stat_of(at).state == SNAPSHIM_EXACT);
        _exit(0);
    }
    writer_writes(&writer, 3 * PAGE, 2 * PAGE, 2);
    CHECK(try_overwrite(fd, 5 * PAGE, PAGE, 3) == 0);
    hand_over(&peer);
    await(&peer);
    CHECK(at[1] == first && at[9 * PAGE + 1] == ninth);
    CHECK(shows(at + 2, 2, 9 * PAGE - 1, 0) && shows(at + 9 * PAGE + 2, 9 * PAGE + 2, 7 * PAGE - 2, 0));
    writer_writes(&writer, 0, SIZE, 6);
    hand_over(&peer);
    reap(&peer);
    writer_writes(&writer, 0, SIZE, 7);
    CHECK(at[1] == first && at[9 * PAGE + 1] == ninth);
    CHECK(shows(at + 2, 2, 9 * PAGE - 1, 0) && shows(at + 9 * PAGE + 2, 9 * PAGE + 2, 7 * PAGE - 2, 0));
    CHECK(stat_of(at).preserved == PAGES && stat_of(at).state == SNAPSHIM_EXACT);
    writer_end(&writer);
}

/* What one of them does to its mapping is nothing to the other. */
static void each_may_unmap_and_move_its_own(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    unsigned char *other = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    struct peer peer = fork_peer();
    if (peer.pid == 0) {
        CHECK(munmap(at, 8 * PAGE) == 0);
        unsigned char *to = free_range(SIZE);
        CHECK(mremap(other, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
        hand_over(&peer);
        await(&peer);
        unsigned char *newer = snapshot(fd, 0, SIZE, protection);
        hand_over(&peer);
        await(&peer);
        CHECK(shows(at + 8 * PAGE, 8 * PAGE, 8 * PAGE, 0) && shows(to, 0, SIZE, 0) && shows(newer, 0, SIZE, 1));
        _exit(0);
    }
    await(&peer);
    writer_writes(&writer, 0, SIZE, 1);
    CHECK(munmap(other, SIZE) == 0);
    hand_over(&peer);
    await(&peer);
    CHECK(munmap(at + 8 * PAGE, 8 * PAGE) == 0);
    writer_writes(&writer, 0, SIZE, 2);
    hand_over(&peer);
    reap(&peer);
    CHECK(shows(at, 0, 8 * PAGE, 0));
    writer_end(&writer);
}

/* Grandchildren inherit as well, and a parent that is gone is not missed. */
static void a_grandchild_outlives_its_parents(int protection, enum who who)
{
    if (who == ITSELF)
        return;
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(FORKED_BEFORE, "file");
    int ready[2], go[2], result[2];
    CHECK(pipe(ready) == 0 && pipe(go) == 0 && pipe(result) == 0);
    pid_t mapper = fork();
    CHECK(mapper >= 0);
    if (mapper == 0) {
        unsigned char *at = snapshot(fd, 0, SIZE, protection);
        CHECK(try_overwrite(fd, 0, 2 * PAGE, 1) == 0);
        for (int generation = 0; generation < 2; generation++) {
            pid_t child = fork();
            CHECK(child >= 0);
            if (child > 0)
                _exit(0);
            CHECK(try_overwrite(fd, 2 * PAGE, 2 * PAGE, generation + 2) == 0);
        }
        char byte = 0;
        close(go[1]);
        CHECK(write(ready[1], &byte, 1) == 1 && read(go[0], &byte, 1) == 1);
        CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
        byte = 'k';
        CHECK(write(result[1], &byte, 1) == 1);
        _exit(0);
    }
    int status;
    char byte;
    close(ready[1]), close(result[1]);
    CHECK(waitpid(mapper, &status, 0) == mapper && status == 0);
    CHECK(read(ready[0], &byte, 1) == 1);
    writer_writes(&writer, 0, SIZE, 9);
    CHECK(write(go[1], &byte, 1) == 1);
    CHECK(read(result[0], &byte, 1) == 1 && byte == 'k');
    writer_end(&writer);
}

static void dontfork_parts_are_not_inherited(int protection, enum who who)
{
    int fd = make_file("file", SIZE);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    writer_writes(&writer, 0, 3 * PAGE, 1);
    CHECK(madvise(at + 2 * PAGE, 5 * PAGE, MADV_DONTFORK) == 0);
    writer_writes(&writer, 3 * PAGE, PAGE, 1);
    struct peer peer = fork_peer();
    if (peer.pid == 0) {
        for (size_t page = 2; page < 7; page++)
            CHECK(fault_of_reading(at + page * PAGE) == SIGSEGV);
        unsigned char *bait = mmap(at + 2 * PAGE, 5 * PAGE, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        CHECK(bait == at + 2 * PAGE);
        memset(bait, 0xb7, 5 * PAGE);
        hand_over(&peer);
        await(&peer);
        CHECK(shows(at, 0, 2 * PAGE, 0) && shows(at + 7 * PAGE, 7 * PAGE, 9 * PAGE, 0));
        for (size_t i = 0; i < 5 * PAGE; i++)
            CHECK(bait[i] == 0xb7);
        CHECK(stat_of(at).pages == PAGES - 5);
        CHECK_ERRNO(snapshim_stat(bait, &(struct snapshim_stat){0}), -1, EINVAL);
        _exit(0);
    }
    await(&peer);
    writer_writes(&writer, 0, SIZE, 2);
    CHECK(shows(at, 0, SIZE, 0));
    hand_over(&peer);
    reap(&peer);

    CHECK(madvise(at, SIZE, MADV_DOFORK) == 0);
    peer = fork_peer();
    if (peer.pid == 0) {
        await(&peer);
        CHECK(shows(at, 0, SIZE, 0));
        _exit(0);
    }
    writer_writes(&writer, 0, SIZE, 3);
    hand_over(&peer);
    reap(&peer);
    writer_end(&writer);
}

/* Forks under fire: what the child sees at its birth is what the parent saw, and stays. */
static void fork_while_a_process_writes(int protection, enum who who)
{
    if (who != ITSELF)
        return;
    int fd = make_file("file", 3 * SIZE);
    struct storm storm = storm_begin(fd, 3 * SIZE, NULL);
    unsigned char *copy = malloc(3 * SIZE);
    for (int round = 0; round < 25; round++) {
        unsigned char *at = snapshot(fd, 0, 3 * SIZE, protection);
        memcpy(copy, at, 3 * SIZE);
        pid_t children[3];
        for (int i = 0; i < 3; i++) {
            children[i] = fork();
            CHECK(children[i] >= 0);
            if (children[i] == 0) {
                close(storm.stop);
                for (int turn = 0; turn < 20; turn++)
                    CHECK(memcmp(at, copy, 3 * SIZE) == 0);
                CHECK(stat_of(at).state == SNAPSHIM_EXACT);
                _exit(0);
            }
            CHECK(memcmp(at, copy, 3 * SIZE) == 0);
        }
        for (int i = 0; i < 3; i++) {
            int status;
            CHECK(waitpid(children[i], &status, 0) == children[i] && status == 0);
        }
        CHECK(memcmp(at, copy, 3 * SIZE) == 0);
        CHECK(munmap(at, 3 * SIZE) == 0);
    }
    storm_end(&storm);
}

static pid_t become_daemon(void)
{
    pid_t pid = fork();
    if (pid == 0)
        CHECK(daemon(1, 1) == 0);
    return pid;
}

static pid_t fork_on_terminal(void)
{
    int master;
    return forkpty(&master, NULL, NULL, NULL);
}

/* Whom libc forks by itself. The child says through a pipe what it found. */
static void inherited_by(pid_t (*forked)(void), int protection, enum who who)
{
    int fd = make_file("file", SIZE), to[2], from[2];
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, SIZE, protection);
    writer_after(&writer);
    CHECK(pipe(to) == 0 && pipe(from) == 0);
    pid_t pid = forked();
    CHECK(pid >= 0);
    if (pid == 0) {
        struct peer parent = {.in = to[0], .out = from[1]};
        await(&parent);
        CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
        hand_over(&parent);
        _exit(0);
    }
    close(from[1]);
    struct peer child = {.in = from[0], .out = to[1]};
    writer_writes(&writer, 0, 4 * PAGE, 1);
    hand_over(&child);
    await(&child);
    CHECK(shows(at, 0, SIZE, 0));
    writer_end(&writer);
}

static void a_daemon_keeps_what_it_inherited(int protection, enum who who)
{
    inherited_by(become_daemon, protection, who);
}

static void a_child_on_a_terminal_keeps_what_it_inherited(int protection, enum who who)
{
    inherited_by(fork_on_terminal, protection, who);
}

static const struct scenario scenarios[] = {
    EACH(a_daemon_keeps_what_it_inherited),
    EACH(a_child_on_a_terminal_keeps_what_it_inherited),
    EACH(child_and_parent_stay_exact),
    EACH(each_may_unmap_and_move_its_own),
    EACH(a_grandchild_outlives_its_parents),
    EACH(dontfork_parts_are_not_inherited),
    EACH(fork_while_a_process_writes),
};
MAIN(scenarios)

/* A handler that interrupted a call forks: both processes go on with that call, and both are waited for. */
#include "trap.h"
#include <poll.h>

/* Writes version 1, or 2 in the child, with the handler in between; then, when told, version 3 without. */
static void write_in_both(void)
{
    /* With a signal blocked, no process takes a call for over because its thread waits elsewhere. */
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &blocked, NULL) == 0);
    trap();
    overwrite(file, TRAPPED, PAGE, 1);
    tell(from_both);
    await(is_child ? to_child : to_parent);
    overwrite(file, 0, PAGE, 3);
    tell(from_both);
    for (;;)
        pause();
}

static pid_t start_writing(int number, void (*before_call)(int, unsigned char *))
{
    open_pipes();
    forks_at = number, before = before_call;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        write_in_both();
    }
    return pid;
}

static void end_writing(pid_t pid)
{
    int status;
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid);
}

/* Both write once more, at once, while a snapshot is held. */
static void both_write_on(unsigned char *at, int version)
{
    tell(to_parent), tell(to_child);
    await(from_both), await(from_both);
    CHECK(shows(at + TRAPPED, TRAPPED, PAGE, version) && shows(at, 0, PAGE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
    unsigned char *after = snapshot(file, 0, SIZE, PROT_READ);
    CHECK(shows(after, 0, PAGE, 3));
}

static void child_waits(int number, unsigned char *bytes)
{
    if (number != SYS_pwrite64 || !is_child)
        return;
    memset(bytes, stamp(TRAPPED / PAGE, 2), PAGE);
    tell(from_both);
    await(to_child);
}

static void a_call_goes_on_in_both(int protection)
{
    file = make_file("file", SIZE);
    pid_t writer = start_writing(SYS_pwrite64, child_waits);
    /* The parent's call is over, the child's is not. */
    await(from_both), await(from_both);
    unsigned char *at = snapshot_beside_call(protection);
    await(from_both);
    if (at != MAP_FAILED)
        CHECK(shows(at + TRAPPED, TRAPPED, PAGE, 1));
    at = snapshot(file, 0, SIZE, protection);
    both_write_on(at, 2);
    end_writing(writer);
}

static void a_call_that_a_handler_forked_in_is_waited_for(int protection, enum who who)
{
    (void)who;
    a_call_goes_on_in_both(protection);
    /* A handler that blocks no signal, as a thread that left a call by a jump does not. */
    flags = SA_NODEFER;
    a_call_goes_on_in_both(protection);
}

static void a_child_that_dies_in_an_inherited_call_is_not_waited_for(int protection, enum who who)
{
    (void)who;
    file = make_file("file", SIZE);
    pid_t writer = start_writing(SYS_pwrite64, child_waits);
    await(from_both), await(from_both);
    /* The child with it. */
    end_writing(writer);
    unsigned char *at = snapshot(file, 0, SIZE, protection);
    overwrite(file, 0, SIZE, 3);
    CHECK(shows(at + TRAPPED, TRAPPED, PAGE, 1) && shows(at, 0, PAGE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
}

static int is_told;

/* The child waits where it was forked: at the look at the file, announced and not passed. */
static void child_waits_announced(int number, unsigned char *bytes)
{
    if (!is_child)
        return;
    if (number == SYS_pwrite64)
        memset(bytes, stamp(TRAPPED / PAGE, 2), PAGE);
    else if (!is_told++)
        await(to_child);
}

static void an_announcement_is_each_process_its_own(int protection, enum who who)
{
    (void)who;
    int other = make_file("other", PAGE);
    unsigned char *held = snapshot(other, 0, PAGE, PROT_READ);
    file = make_file("file", SIZE);
    pid_t writer = start_writing(SYS_statx, child_waits_announced);
    /* The parent is through before the child goes on. */
    await(from_both);
    unsigned char *before = snapshot(file, 0, SIZE, protection);
    tell(to_child);
    await(from_both);
    CHECK(shows(before + TRAPPED, TRAPPED, PAGE, 1));
    unsigned char *at = snapshot(file, 0, SIZE, protection);
    both_write_on(at, 2);
    CHECK(shows(before + TRAPPED, TRAPPED, PAGE, 1) && shows(before, 0, PAGE, 0) && shows(held, 0, PAGE, 0));
    end_writing(writer);
}

/* How the handler, which runs further up than what it interrupted, comes to wait with no signal blocked. */
static int waits_by_mask;

static void waits_open(int number, unsigned char *bytes)
{
    sigset_t none;
    struct pollfd input = {.fd = to_child[0], .events = POLLIN};
    (void)bytes;
    if (number != SYS_pwrite64)
        return;
    sigemptyset(&none);
    if (!waits_by_mask)
        CHECK(sigprocmask(SIG_SETMASK, &none, NULL) == 0);
    tell(from_both);
    CHECK(ppoll(&input, 1, NULL, waits_by_mask ? &none : NULL) == 1);
    await(to_child);
}

static void *write_below(void *memory)
{
    stack_t above = {.ss_sp = (unsigned char *)memory + STACK, .ss_size = STACK};
    CHECK(sigaltstack(&above, NULL) == 0);
    trap();
    overwrite(file, TRAPPED, PAGE, 1);
    return NULL;
}

static void a_call_below_a_handler_that_opens_signals_is_waited_for(int protection, enum who who)
{
    (void)who;
    flags = SA_ONSTACK;
    for (waits_by_mask = 0; waits_by_mask < 2; waits_by_mask++) {
        file = make_file("file", SIZE);
        open_pipes();
        before = waits_open;
        pid_t writer = fork();
        if (writer == 0)
            run_below(write_below);
        CHECK(writer > 0);
        await(from_both);
        usleep(10000);
        unsigned char *at = snapshot_beside_call(protection);
        int status;
        CHECK(waitpid(writer, &status, 0) == writer && status == 0);
        check_call_came_between(at, protection);
    }
}

static const struct scenario scenarios[] = {
    ONCE(a_call_that_a_handler_forked_in_is_waited_for),
    ONCE(a_child_that_dies_in_an_inherited_call_is_not_waited_for),
    ONCE(an_announcement_is_each_process_its_own),
    ONCE(a_call_below_a_handler_that_opens_signals_is_waited_for),
};
MAIN(scenarios)

/* A mapper splits a snapshot while another process is in the middle of a walk over the records: it had passed the place where the new
 * record comes to be, and has not reached the old one, which is gone when it does. A tracer steps the other one through its call and
 * holds it after one number of instructions after the other. */
#include "check.h"

#include <sys/ptrace.h>

/* Records that a walk passes between the new piece's and the old one's, each with several instructions; how often the call is held,
 * and after how many instructions more each time. */
enum { BETWEEN = 300, TIMES = 10, STRIDE = 400, SIZE = 2 * 4096 };

static int file, other;

static void __attribute__((noreturn)) in_rounds(void (*prepare)(void), void (*act)(int round))
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    for (int round = 0;; round++) {
        prepare();
        raise(SIGSTOP);
        act(round);
        raise(SIGSTOP);
    }
}

static pid_t start(void (*prepare)(void), void (*act)(int round))
{
    pid_t pid = fork();
    if (pid == 0)
        in_rounds(prepare, act);
    return pid;
}

/* Whether it is at the next stop of its own. Any other signal is its to handle. */
static int is_stopped(pid_t pid, int *signal)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
    *signal = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
    return *signal == SIGSTOP;
}

static void await_stop(pid_t pid)
{
    int signal;
    while (!is_stopped(pid, &signal))
        CHECK(ptrace(PTRACE_CONT, pid, 0, signal) == 0);
}

static void go_on_to_stop(pid_t pid)
{
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    await_stop(pid);
}

/* So many instructions. 0 if it comes to its stop before. */
static int step(pid_t pid, long count)
{
    for (int signal = 0; count > 0; count--) {
        CHECK(ptrace(PTRACE_SINGLESTEP, pid, 0, signal) == 0);
        if (is_stopped(pid, &signal))
            return 0;
    }
    return 1;
}

static void is_kept(unsigned char *at, int version)
{
    struct snapshim_stat stat;
    CHECK(snapshim_stat(at, &stat) == 0 && stat.state == SNAPSHIM_EXACT);
    CHECK(shows(at, PAGE, PAGE, version));
    CHECK(munmap(at, PAGE) == 0);
}

static void prepare_nothing(void)
{
}

static unsigned char *shared;

/* The process has to arm the mapping while its only thread is held. A thread that is held starts no agent, so it has one before: a
 * process that has had a snapshot has one. */
static void map_shared(void)
{
    if (shared == NULL) {
        CHECK(munmap(snapshot(file, 0, PAGE, PROT_READ), PAGE) == 0);
        shared = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    }
    CHECK(shared != MAP_FAILED);
}

static void write_second_page(int round)
{
    overwrite(file, PAGE, PAGE, round + 1);
}

static void store_into_second_page(int round)
{
    shared[PAGE] = stamp(1, round + 1);
    memset(shared + PAGE, stamp(1, round + 1), PAGE);
}

/* The first round, in which much is done for the first time, is beside no split. */
static void finds_the_piece(void (*prepare)(void), void (*act)(int round))
{
    pid_t writer = start(prepare, act);
    await_stop(writer);
    for (int time = 0; time <= TIMES; time++) {
        unsigned char *first = snapshot(other, 0, PAGE, PROT_READ);
        for (int i = 0; i < BETWEEN && time == 0; i++)
            snapshot(other, 0, PAGE, PROT_READ);
        unsigned char *at = snapshot(file, 0, SIZE, PROT_READ | PROT_WRITE);
        /* The next record that is made comes in front of all others. */
        CHECK(munmap(first, PAGE) == 0);
        int is_inside = step(writer, time * STRIDE);
        CHECK(munmap(at, PAGE) == 0);
        if (is_inside)
            go_on_to_stop(writer);
        is_kept(at + PAGE, time);
        go_on_to_stop(writer);
    }
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    alarm(250);
    file = make_file("file", SIZE);
    other = make_file("other", PAGE);
    if (strcmp(argv[1], "a_write_beside_a_split_preserves_the_segment") == 0)
        finds_the_piece(prepare_nothing, write_second_page);
    else if (strcmp(argv[1], "a_store_beside_a_split_preserves_the_segment") == 0)
        finds_the_piece(map_shared, store_into_second_page);
    else
        return 2;
    return 0;
}

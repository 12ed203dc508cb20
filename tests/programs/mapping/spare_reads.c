/* Reads of a little into a writable snapshot: by more threads at once than there are spare buffers, in a handler that interrupts one, in
 * both processes after a handler has forked, and after many were left by siglongjmp(3). Each finds its own bytes, and changes no other. */
#include "check.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>

enum { PAGES = 64, THREADS = 20, LEFT = 12, LENGTH = 1500 };

static unsigned char *at, wanted[PAGES * PAGE];
static int pipes[THREADS][2], outer[2], inner[2];
static sigjmp_buf back;
static volatile int has_handled;

static void send_to(int fd, unsigned char mark)
{
    unsigned char bytes[LENGTH];
    memset(bytes, mark, LENGTH);
    CHECK(write(fd, bytes, LENGTH) == LENGTH);
}

static void receive(int fd, size_t page, unsigned char mark)
{
    CHECK(read(fd, at + page * PAGE + 7, LENGTH) == LENGTH);
    memset(wanted + page * PAGE + 7, mark, LENGTH);
}

static void check_all(void)
{
    CHECK(memcmp(at, wanted, sizeof wanted) == 0 && stat_of(at).state == SNAPSHIM_EXACT);
}

static void *read_one(void *argument)
{
    size_t me = (size_t)argument;
    receive(pipes[me][0], me, (unsigned char)(me + 1));
    return NULL;
}

static void by_many_threads(void)
{
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        CHECK(pipe(pipes[i]) == 0 && pthread_create(&threads[i], NULL, read_one, (void *)i) == 0);
    usleep(50000);
    for (size_t i = THREADS; i-- > 0;)
        send_to(pipes[i][1], (unsigned char)(i + 1));
    for (size_t i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    check_all();
}

static void on_timer(void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    struct itimerval soon = {.it_value.tv_usec = 20000};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &soon, NULL) == 0);
}

static void read_within(int signal)
{
    (void)signal;
    send_to(inner[1], 101);
    receive(inner[0], 40, 101);
    send_to(outer[1], 102);
}

static void fork_within(int signal)
{
    (void)signal;
    send_to(inner[1], 103);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        receive(inner[0], 40, 103);
        has_handled = 1;
        send_to(outer[1], 104);
        return;
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    send_to(inner[1], 105);
    receive(inner[0], 40, 105);
    send_to(outer[1], 106);
}

static void leave(int signal)
{
    (void)signal;
    siglongjmp(back, 1);
}

int main(void)
{
    int fd = make_file("spare", PAGES * PAGE);
    at = snapshot(fd, 0, PAGES * PAGE, PROT_READ | PROT_WRITE);
    memcpy(wanted, at, sizeof wanted);
    CHECK(pipe(outer) == 0 && pipe(inner) == 0);
    by_many_threads();
    on_timer(read_within);
    receive(outer[0], 41, 102);
    check_all();
    on_timer(fork_within);
    CHECK(read(outer[0], at + 41 * PAGE + 7, LENGTH) == LENGTH);
    memset(wanted + 41 * PAGE + 7, has_handled ? 104 : 106, LENGTH);
    if (has_handled) {
        CHECK(memcmp(at, wanted, sizeof wanted) == 0);
        _exit(0);
    }
    check_all();
    for (volatile int count = 0; count < LEFT; count++) {
        if (sigsetjmp(back, 1) == 0) {
            on_timer(leave);
            CHECK(read(outer[0], at + 42 * PAGE, LENGTH) == -2);
        }
        send_to(inner[1], (unsigned char)(110 + count));
        receive(inner[0], 43, (unsigned char)(110 + count));
        check_all();
    }
    by_many_threads();
    return 0;
}

/* Children that have not joined the table: in each, many threads make their first call at once. The test damages the table before
 * they do, when this has printed "ready", and then closes the standard input. */
#include "check.h"

#include <pthread.h>

enum { CHILDREN = 24, THREADS = 16, LONGEST_S = 20 };

static pthread_barrier_t barrier;
static int fd;

static void *write_first(void *unused)
{
    (void)unused;
    pthread_barrier_wait(&barrier);
    overwrite(fd, 0, PAGE, 1);
    return NULL;
}

static void join_at_once(void)
{
    pthread_t threads[THREADS];
    alarm(LONGEST_S);
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, write_first, NULL) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

int main(void)
{
    pid_t children[CHILDREN];
    int failed = 0, status;
    char byte;
    fd = make_file("file", PAGE);
    for (int i = 0; i < CHILDREN; i++) {
        children[i] = fork();
        CHECK(children[i] >= 0);
        if (children[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            CHECK(read(0, &byte, 1) == 0);
            join_at_once();
            _exit(0);
        }
    }
    printf("ready\n");
    fflush(stdout);
    for (int i = 0; i < CHILDREN; i++) {
        CHECK(waitpid(children[i], &status, 0) == children[i]);
        failed |= status;
    }
    return failed != 0;
}

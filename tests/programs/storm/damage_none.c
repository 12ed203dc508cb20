/* One thread takes snapshots and gives them up in parts; others look at them meanwhile. Nothing is damaged by that. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/uio.h>
#include <time.h>

/* The more snapshots there are, the longer a look at one takes, and the likelier it ends in its midst. */
enum { PAGES = 8, OTHERS = 600, LOOKERS = 3, SECONDS = 4 };

static unsigned char *_Atomic where;
static atomic_int is_over;

static void *look(void *unused)
{
    (void)unused;
    int ends[2];
    CHECK(pipe2(ends, O_NONBLOCK | O_CLOEXEC) == 0);
    while (!is_over) {
        unsigned char *at = where, byte;
        struct iovec one = {at + 7 * PAGE, 1};
        if (at != NULL && vmsplice(ends[1], &one, 1, SPLICE_F_NONBLOCK) > 0)
            CHECK(read(ends[0], &byte, 1) == 1);
    }
    return NULL;
}

int main(void)
{
    int fd = make_file("file", PAGES * PAGE);
    pthread_t lookers[LOOKERS];
    for (int i = 0; i < OTHERS; i++)
        snapshot(fd, 0, PAGE, PROT_READ);
    for (int i = 0; i < LOOKERS; i++)
        CHECK(pthread_create(&lookers[i], NULL, look, NULL) == 0);
    for (time_t end = time(NULL) + SECONDS; time(NULL) < end;) {
        unsigned char *at = snapshot(fd, 0, PAGES * PAGE, PROT_READ);
        where = at;
        CHECK(munmap(at + 3 * PAGE, PAGE) == 0);
        CHECK(munmap(at + 5 * PAGE, PAGE) == 0);
        CHECK(shows(at + 6 * PAGE, 6 * PAGE, PAGE, 0));
        CHECK(munmap(at, PAGES * PAGE) == 0);
    }
    is_over = 1;
    for (int i = 0; i < LOOKERS; i++)
        CHECK(pthread_join(lookers[i], NULL) == 0);
    return 0;
}

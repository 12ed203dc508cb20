/* truncate_stores FILE ROUNDS: threads store into a writable snapshot while another process cuts the file to nothing and writes it anew.
 * No store is lost, no other byte changes, and the program's own SIGSEGV handler still gets its faults. */
#include "check.h"

#include <pthread.h>

enum { PAGES = 2048, THREADS = 3 };

static unsigned char *at;
static volatile int stop;
static unsigned long stored[THREADS][PAGES];

static void *store(void *argument)
{
    size_t me = (size_t)argument;
    unsigned seed = (unsigned)me;
    while (!stop) {
        size_t page = (size_t)rand_r(&seed) % PAGES;
        volatile unsigned long *word = (volatile unsigned long *)(at + page * PAGE) + me;
        unsigned long before = stored[me][page];
        if (before)
            CHECK(*word == before);
        *word = ++stored[me][page];
    }
    return NULL;
}

static volatile int own_faults;
static sigjmp_buf escape;

static void on_own_fault(int number)
{
    (void)number;
    own_faults++;
    siglongjmp(escape, 1);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    struct sigaction action = {.sa_handler = on_own_fault};
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    int rounds = atoi(argv[2]);
    for (int round = 0; round < rounds; round++) {
        int fd = make_file(argv[1], PAGES * PAGE);
        int ends[2];
        CHECK(pipe(ends) == 0);
        pid_t cutter = fork();
        CHECK(cutter >= 0);
        if (cutter == 0) {
            char byte;
            CHECK(read(ends[0], &byte, 1) == 1);
            CHECK(ftruncate(fd, 0) == 0);
            overwrite(fd, 0, PAGES * PAGE, 1);
            _exit(0);
        }
        at = snapshot(fd, 0, PAGES * PAGE, PROT_READ | PROT_WRITE);
        memset(stored, 0, sizeof stored);
        stop = 0;
        pthread_t threads[THREADS];
        for (size_t i = 0; i < THREADS; i++)
            CHECK(pthread_create(&threads[i], NULL, store, (void *)i) == 0);
        CHECK(write(ends[1], "x", 1) == 1);
        int status;
        CHECK(waitpid(cutter, &status, 0) == cutter && WIFEXITED(status) && WEXITSTATUS(status) == 0);
        stop = 1;
        for (size_t i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        struct snapshim_stat stat;
        CHECK(snapshim_stat(at, &stat) == 0 && stat.state == SNAPSHIM_EXACT && stat.preserved == PAGES);
        for (size_t page = 0; page < PAGES; page++) {
            unsigned long *words = (unsigned long *)(at + page * PAGE);
            for (size_t i = 0; i < THREADS; i++) {
                unsigned char untouched[8];
                memset(untouched, stamp(page, 0), sizeof untouched);
                CHECK(stored[i][page] ? words[i] == stored[i][page] : memcmp(&words[i], untouched, 8) == 0);
            }
            CHECK(shows(at + page * PAGE + THREADS * 8, page * PAGE + THREADS * 8, PAGE - THREADS * 8, 0));
        }
        CHECK(munmap(at, PAGES * PAGE) == 0);
        close(fd);
        close(ends[0]);
        close(ends[1]);
        if (sigsetjmp(escape, 1) == 0)
            *(volatile char *)8 = 1;
        CHECK(own_faults == round + 1);
    }
    return 0;
}

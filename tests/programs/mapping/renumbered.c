/* renumbered: while a snapshot waits for a writer, another thread puts another file under the number. There is no snapshot then:
 * the other file's writers do not know of it. */
#include "check.h"

#include <pthread.h>
#include <time.h>

#define SIZE ((size_t)32 << 20)

static int number, other;
static pid_t writer;

static void __attribute__((noreturn)) write_again_and_again(void)
{
    int file = open("file", O_WRONLY);
    char *bytes = malloc(SIZE);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    CHECK(file >= 0 && bytes && memset(bytes, 'w', SIZE));
    for (;;)
        CHECK(pwrite(file, bytes, SIZE, 0) == (ssize_t)SIZE);
}

/* The snapshot is waiting by then. */
static void *renumber(void *nothing)
{
    usleep(100000);
    CHECK(dup2(other, number) == number);
    CHECK(kill(writer, SIGCONT) == 0);
    return nothing;
}

static double seconds(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Whether the snapshot had to wait. */
static int try_it(void)
{
    int status;
    pthread_t thread;
    number = open("file", O_RDONLY);
    CHECK(number >= 0 && kill(writer, SIGSTOP) == 0 && waitpid(writer, &status, WUNTRACED) == writer);
    CHECK(pthread_create(&thread, NULL, renumber, NULL) == 0);
    double begun = seconds();
    errno = 0;
    unsigned char *at = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, number, 0);
    int failure = errno, has_waited = seconds() - begun >= 0.1;
    CHECK(pthread_join(thread, NULL) == 0 && close(number) == 0);
    CHECK(!has_waited || (at == MAP_FAILED && failure == EBADF));
    CHECK(at == MAP_FAILED || munmap(at, PAGE) == 0);
    return has_waited;
}

int main(void)
{
    make_file("file", SIZE);
    other = make_file("other", PAGE);
    writer = fork();
    CHECK(writer >= 0);
    if (writer == 0)
        write_again_and_again();
    usleep(50000);
    for (int tries = 0; tries < 20; tries++)
        if (try_it())
            return 0;
    puts("SKIPPED no writer was stopped in a write");
    return 0;
}

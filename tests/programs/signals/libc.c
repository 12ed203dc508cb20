/* libc stores into an armed page while it blocks all signals: the number of a child in posix_spawn(3), the result of an aio_read(3)
 * in a thread of its own, one that was made before the first arming and one that was made after. */
#include "check.h"

#include <aio.h>
#include <spawn.h>

extern char **environ;

static int file, asked[2], done[2];

/* Another process takes one snapshot after the other: each arms the shared mapping. */
static void prepare_other(void)
{
    CHECK(pipe(asked) == 0 && pipe(done) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid > 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    char byte;
    while (read(asked[0], &byte, 1) == 1) {
        snapshot(file, 0, PAGE, PROT_READ);
        CHECK(write(done[1], "", 1) == 1);
    }
    _exit(0);
}

static void arm(void)
{
    char byte;
    CHECK(write(asked[1], "", 1) == 1 && read(done[0], &byte, 1) == 1);
}

static void spawn_into(pid_t *place)
{
    char *arguments[] = {"true", NULL};
    int status;
    CHECK(posix_spawnp(place, "true", NULL, NULL, arguments, environ) == 0);
    CHECK(waitpid(*place, &status, 0) == *place && status == 0);
}

static void read_with(struct aiocb *block)
{
    int ends[2];
    char byte = 0;
    CHECK(pipe(ends) == 0);
    *block = (struct aiocb){.aio_fildes = ends[0], .aio_buf = &byte, .aio_nbytes = 1};
    CHECK(aio_read(block) == 0);
    arm();
    CHECK(write(ends[1], "z", 1) == 1);
    while (aio_error(block) == EINPROGRESS)
        usleep(1000);
    CHECK(aio_return(block) == 1 && byte == 'z');
}

static void run(int is_thread_first)
{
    file = make_file("file", PAGE);
    prepare_other();
    void *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(shared != MAP_FAILED);
    if (!is_thread_first)
        arm();
    read_with(shared);
    arm();
    spawn_into(shared);
}

int main(void)
{
    IN_CHILD(run(1));
    IN_CHILD(run(0));
    return 0;
}

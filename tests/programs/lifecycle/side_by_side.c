/* Creations beside each other, of different files and of one.
 *
 * stuck COUNT: COUNT processes try again and again to take a snapshot of a file whose writer is stuck in the kernel. Beside them each
 * snapshot of another file has to be had.
 * many FILES PROCESSES ROUNDS: each process takes ROUNDS snapshots of one of FILES files, and writes it. Each has to be had, and exact.
 */
#include "check.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#define SIZE (4 * PAGE)

/* Memory whose first touch blocks for ever: a write from it hangs inside the kernel. NULL if there is none. */
static void *stuck_memory(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = {.api = UFFD_API};
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) != 0)
        return NULL;
    void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register range = {.range = {(uintptr_t)at, PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    return ioctl(fd, UFFDIO_REGISTER, &range) == 0 ? at : NULL;
}

static void retry_for_ever(const char *path, _Atomic int *refusals)
{
    int fd = open(path, O_RDWR);
    for (;;) {
        void *at = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, fd, 0);
        CHECK(at == MAP_FAILED);
        ++*refusals;
    }
}

static int beside_stuck(int count)
{
    _Atomic int *refusals = shared_page();
    int stuck = make_file("stuck", SIZE), other = make_file("other", SIZE);
    pid_t pids[64] = {0};
    CHECK(count < 64);
    void *memory = stuck_memory();
    if (!memory) {
        puts("SKIPPED userfaultfd(2) cannot be had");
        return 0;
    }
    pids[0] = fork();
    if (pids[0] == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        void *own = stuck_memory();
        _exit(pwrite(stuck, own, 10, 0) == 10);
    }
    for (int i = 1; i <= count; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            /* The writer may not be stuck yet. */
            while (mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, stuck, 0) != MAP_FAILED)
                usleep(1000);
            retry_for_ever("stuck", refusals);
        }
    }
    while (*refusals == 0)
        usleep(1000);
    for (int i = 0; i < 20; i++) {
        CHECK(munmap(snapshot(other, 0, SIZE, PROT_READ), SIZE) == 0);
        usleep(20000);
    }
    for (int i = 0; i <= count; i++)
        kill(pids[i], SIGKILL);
    return 0;
}

static int beside_many(int files, int processes, int rounds)
{
    for (int i = 0; i < processes; i++) {
        if (fork() != 0)
            continue;
        char path[32];
        snprintf(path, sizeof path, "file-%d", i % files);
        int fd = open(path, O_RDWR | O_CREAT, 0600);
        CHECK(fd >= 0 && ftruncate(fd, (off_t)SIZE) == 0);
        for (int round = 0; round < rounds; round++) {
            unsigned char *at = snapshot(fd, 0, SIZE, PROT_READ);
            unsigned char before = at[PAGE];
            CHECK(pwrite(fd, &(unsigned char){(unsigned char)(before + 1)}, 1, (off_t)PAGE) == 1);
            CHECK(at[PAGE] == before && stat_of(at).state == SNAPSHIM_EXACT);
            CHECK(munmap(at, SIZE) == 0);
        }
        _exit(0);
    }
    int status, failed = 0;
    while (wait(&status) > 0)
        failed += status != 0;
    return failed;
}

int main(int argc, char **argv)
{
    CHECK(argc >= 3);
    if (strcmp(argv[1], "stuck") == 0)
        return beside_stuck(atoi(argv[2]));
    CHECK(argc == 5);
    return beside_many(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
}

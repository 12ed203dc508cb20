/* like_failures MODE FILE: calls that could change a file, and do not, or are made where little of what they need is there. */
#include "like_blocked.h"

#include <linux/aio_abi.h>

static const char *path;
static int file;

/* Too much for the file, or for its file system. */
static void allocate_too_much(void)
{
    int failure = posix_fallocate(file, 0, 1LL << 60);
    CHECK(failure == EFBIG || failure == ENOSPC);
    printf("posix_fallocate = %s\n", strerrorname_np(failure));
}

static void submit_nothing(void)
{
    aio_context_t context = 0;
    struct iocb block = {.aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = (unsigned)file, .aio_buf = (uintptr_t)path};
    struct iocb *batch[] = {&block};
    struct io_event event;
    CHECK(syscall(SYS_io_setup, 4, &context) == 0);
    CHECK(syscall(SYS_io_submit, context, 1L, batch) == 1);
    CHECK(syscall(SYS_io_getevents, context, 1L, 1L, &event, NULL) == 1);
    printf("written: %lld\n", (long long)event.res);
    CHECK(syscall(SYS_io_destroy, context) == 0);
}

static const struct {
    const char *name;
    void (*run)(void);
} modes[] = {
    {"allocate-too-much", allocate_too_much},
    {"submit-nothing", submit_nothing},
};

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    path = argv[2];
    file = open(path, O_RDWR);
    CHECK(file >= 0);
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (strcmp(modes[i].name, argv[1]) == 0) {
            modes[i].run();
            print_file(path);
            return 0;
        }
    return 2;
}

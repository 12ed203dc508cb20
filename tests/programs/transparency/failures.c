/* failures MODE FILE: calls that could change a file, and do not, or are made where little of what they need is there. */
#include "blocked.h"

#include <linux/aio_abi.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

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

#define SAY(call)                                             \
    do {                                                      \
        errno = 0;                                            \
        long result_ = (long)(call);                          \
        printf("%s = %ld, errno %d\n", #call, result_, errno); \
    } while (0)

/* None of them waits, although nothing is there to be had. */
static void move_from_nothing(void)
{
    int ends[2], sockets[2], odd = 0x4000;
    CHECK(pipe2(ends, O_CLOEXEC) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
    int terminal = posix_openpt(O_RDWR | O_NOCTTY), reader = open(path, O_RDONLY), appender = open(path, O_WRONLY | O_APPEND);
    CHECK(terminal >= 0 && reader >= 0 && appender >= 0);
    off_t from = 0, negative = -1;
    SAY(sendfile(file, ends[0], NULL, 10));
    SAY(sendfile(file, ends[0], &from, 10));
    SAY(sendfile(file, sockets[0], NULL, 10));
    SAY(sendfile(file, terminal, NULL, 10));
    SAY(splice(sockets[0], NULL, file, NULL, 10, 0));
    SAY(splice(terminal, NULL, file, NULL, 10, 0));
    SAY(splice(ends[0], &from, file, NULL, 10, 0));
    SAY(splice(ends[0], NULL, file, NULL, 0, 0));
    SAY(splice(ends[0], NULL, file, NULL, 10, (unsigned)odd));
    SAY(splice(ends[0], NULL, file, &negative, 10, 0));
    SAY(splice(ends[0], NULL, file, (off_t *)8, 10, 0));
    SAY(splice(ends[0], NULL, reader, NULL, 10, 0));
    SAY(splice(ends[0], NULL, appender, NULL, 10, 0));
    SAY(splice(ends[1], NULL, file, NULL, 10, 0));
    SAY(splice(ends[0], NULL, file, NULL, 10, SPLICE_F_NONBLOCK));
    CHECK(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
    SAY(splice(ends[0], NULL, file, NULL, 10, 0));
    CHECK(fcntl(ends[0], F_SETFL, 0) == 0);
    close(ends[1]);
    SAY(splice(ends[0], NULL, file, NULL, 10, 0));
}

/* Which takes what is not there later. */
static void find_table(void)
{
    CHECK(pwrite(file, "written", 7, 0) == 7);
}

/* truncate(2) needs no descriptor. */
static void truncate_without_descriptors(void)
{
    find_table();
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = 3;
    while (fcntl((int)limit.rlim_cur, F_GETFD) >= 0)
        limit.rlim_cur++;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK_ERRNO(open(path, O_RDONLY), -1, EMFILE);
    SAY(truncate(path, 5000));
    SAY(truncate("nothing", 5000));
    SAY(truncate(".", 5000));
    SAY(truncate(path, -1));
    SAY(truncate(path, 0));
    SAY(truncate(path, 100));
    limit.rlim_cur = before;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

static void enter_bare_root(void)
{
    find_table();
    CHECK(chroot(".") == 0);
    CHECK_ERRNO(access("/proc/self", F_OK), -1, ENOENT);
}

static void truncate_without_proc(void)
{
    enter_bare_root();
    SAY(truncate(path, 5000));
    SAY(truncate("nothing", 5000));
    SAY(truncate(path, 0));
    SAY(truncate(path, 100));
}

static void open_without_proc(void)
{
    enter_bare_root();
    int reader = open(path, O_RDONLY | O_TRUNC);
    CHECK(reader >= 0 && fcntl(reader, F_GETFL) == fcntl(open(path, O_RDONLY), F_GETFL));
    CHECK(lseek(file, 0, SEEK_END) == 0 && pwrite(file, "anew", 4, 3) == 4);
    CHECK(open(path, O_RDONLY | O_TRUNC | O_CREAT, 0600) >= 0 && lseek(file, 0, SEEK_END) == 0);
    CHECK(pwrite(file, "again", 5, 3) == 5);
    CHECK(open(path, O_WRONLY | O_TRUNC) >= 0 && lseek(file, 0, SEEK_END) == 0);
    SAY(open("nothing", O_RDONLY | O_TRUNC));
    CHECK(open("made", O_RDONLY | O_TRUNC | O_CREAT, 0600) >= 0 && unlink("made") == 0);
}

static const struct {
    const char *name;
    void (*run)(void);
} modes[] = {
    {"allocate-too-much", allocate_too_much},
    {"submit-nothing", submit_nothing},
    {"move-from-nothing", move_from_nothing},
    {"truncate-without-descriptors", truncate_without_descriptors},
    {"truncate-without-proc", truncate_without_proc},
    {"open-without-proc", open_without_proc},
};

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    alarm(200);
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

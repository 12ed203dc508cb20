/* shared_position FILE HOW: processes that share one file position write records at it, all at once. Every second of them goes on as a
 * program without the shim. Nothing may get lost, and the records of no writer may change their order: that is what a shared position gives
 * natively. HOW is plain (write), vector (writev), or append (O_APPEND descriptors of their own).
 *
 * shared_position write FD HOW WRITER: such a process. */
#include "check.h"

#include <sys/uio.h>

enum { WRITERS_AT_ONCE = 4, RECORDS = 1500 };

struct record {
    uint32_t writer, number;
    char filler[17];
} __attribute__((packed));

static int write_records(int fd, const char *how, uint32_t writer)
{
    for (uint32_t number = 0; number < RECORDS; number++) {
        struct record record = {.writer = writer, .number = number};
        memset(record.filler, (int)('a' + number % 26), sizeof record.filler);
        struct iovec halves[2] = {{&record, 5}, {(char *)&record + 5, sizeof record - 5}};
        ssize_t written = *how == 'v' ? writev(fd, halves, 2) : write(fd, &record, sizeof record);
        CHECK(written == sizeof record);
    }
    return 0;
}

static pid_t start(const char *program, int fd, const char *how, uint32_t writer, const int gun[2])
{
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid > 0)
        return pid;
    close(gun[1]);
    char byte, number[16], descriptor[16];
    if (writer % 2 == 0) {
        CHECK(read(gun[0], &byte, 1) == 0);
        _exit(write_records(fd, how, writer));
    }
    unsetenv("LD_PRELOAD");
    snprintf(number, sizeof number, "%u", writer);
    snprintf(descriptor, sizeof descriptor, "%d", fd);
    CHECK(dup2(gun[0], 0) == 0);
    execl(program, program, "write", descriptor, how, number, NULL);
    _exit(127);
}

int main(int argc, char **argv)
{
    if (argc == 5) {
        char byte;
        CHECK(!snapshim_active());
        CHECK(read(0, &byte, 1) == 0);
        return write_records(atoi(argv[2]), argv[3], (uint32_t)atoi(argv[4]));
    }
    CHECK(argc == 3);
    const char *how = argv[2];
    int append = *how == 'a', gun[2];
    int fd = open(argv[1], O_RDWR | (append ? O_APPEND : 0));
    CHECK(fd >= 0 && pipe2(gun, O_CLOEXEC) == 0);
    struct stat before;
    CHECK(fstat(fd, &before) == 0);
    off_t first = append ? before.st_size : 0;

    pid_t pids[WRITERS_AT_ONCE];
    for (uint32_t writer = 0; writer < WRITERS_AT_ONCE; writer++) {
        int own = append ? open(argv[1], O_WRONLY | O_APPEND) : fd;
        pids[writer] = start(argv[0], own, how, writer, gun);
    }
    close(gun[1]);
    for (int i = 0; i < WRITERS_AT_ONCE; i++) {
        int status;
        CHECK(waitpid(pids[i], &status, 0) == pids[i]);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }

    enum { TOTAL = WRITERS_AT_ONCE * RECORDS };
    static struct record records[TOTAL];
    CHECK(pread(fd, records, sizeof records, first) == sizeof records);
    uint32_t next[WRITERS_AT_ONCE] = {0};
    for (size_t i = 0; i < TOTAL; i++) {
        CHECK(records[i].writer < WRITERS_AT_ONCE);
        CHECK(records[i].number == next[records[i].writer]++);
        for (size_t at = 0; at < sizeof records[i].filler; at++)
            CHECK(records[i].filler[at] == (char)('a' + records[i].number % 26));
    }
    if (!append)
        CHECK(lseek(fd, 0, SEEK_CUR) == sizeof records);
    puts("nothing lost");
    return 0;
}

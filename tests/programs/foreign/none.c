/* none FILE: this process and others of its kind change FILE in every cooperating way, while a snapshot of it is looked at after
 * each change: it is never doubtful. Then a foreign change comes, and it is. */
#include "check.h"

#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <utime.h>

enum { SIZE = 64 * 4096, TURNS = 1500, TOGETHER = 300 };

static const char *path;
static int fd, other;

static void by_write(int turn)
{
    lseek(fd, turn % SIZE, SEEK_SET);
    CHECK(write(fd, &turn, sizeof turn) == sizeof turn);
}

static void by_pwrite(int turn)
{
    CHECK(pwrite(fd, &turn, sizeof turn, turn * 61 % SIZE) == sizeof turn);
}

static void by_pwritev(int turn)
{
    struct iovec parts[2] = {{&turn, 4}, {&turn, 3}};
    CHECK(pwritev(fd, parts, 2, turn * 61 % SIZE) == 7);
}

static void by_append(int turn)
{
    int end = open(path, O_WRONLY | O_APPEND);
    CHECK(end >= 0 && write(end, &turn, sizeof turn) == sizeof turn);
    close(end);
}

static void by_stdio(int turn)
{
    FILE *file = fopen(path, "r+");
    CHECK(file && fprintf(file, "turn %d", turn) > 0 && fclose(file) == 0);
}

static void by_ftruncate(int turn)
{
    CHECK(ftruncate(fd, SIZE - turn % 100) == 0);
    CHECK(truncate(path, SIZE) == 0);
}

static void by_open(int turn)
{
    close(open(path, O_WRONLY | O_TRUNC));
    CHECK(pwrite(fd, &turn, sizeof turn, SIZE - sizeof turn) == sizeof turn);
}

/* One call a turn, here and below, so that none counts for another. */
static void by_fallocate(int turn)
{
    switch (turn % 3) {
    case 0:
        CHECK(posix_fallocate(fd, 0, SIZE + turn * 10) == 0);
        break;
    case 1:
        CHECK(fallocate(fd, 0, 0, SIZE + turn * 10) == 0);
        break;
    default:
        CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, turn % SIZE, 5000) == 0);
    }
}

static void by_copying(int turn)
{
    off_t from = 0, to = turn % SIZE;
    CHECK(copy_file_range(other, &from, fd, &to, 3000, 0) == 3000);
    lseek(other, 0, SEEK_SET);
    lseek(fd, turn % SIZE, SEEK_SET);
    CHECK(sendfile(fd, other, NULL, 3000) == 3000);
}

/* The times of a file that no other process changes are what was set, and what cannot be set is refused as natively. */
static void check_times(int turn, const struct timespec *fine, const struct timeval *coarse, const struct utimbuf *whole)
{
    char own[4096];
    struct stat found;
    snprintf(own, sizeof own, "%s.%d", path, (int)getpid());
    close(open(own, O_WRONLY | O_CREAT, 0600));
    CHECK(utimensat(AT_FDCWD, own, fine, 0) == 0 && stat(own, &found) == 0 && found.st_mtime == turn + 1);
    CHECK(lutimes(own, coarse) == 0 && stat(own, &found) == 0 && found.st_mtime == turn + 3);
    CHECK(utime(own, whole) == 0 && stat(own, &found) == 0 && found.st_mtime == turn + 5);
    CHECK_ERRNO(utimensat(AT_FDCWD, "nothing/there", fine, 0), -1, ENOENT);
    CHECK_ERRNO(utimensat(AT_FDCWD, (const char *)8, fine, 0), -1, EFAULT);
    CHECK_ERRNO(futimens(-1, fine), -1, EBADF);
}

static int set_times(int turn)
{
    struct timespec fine[2] = {{.tv_sec = turn}, {.tv_sec = turn + 1}};
    struct timeval coarse[2] = {{.tv_sec = turn + 2}, {.tv_sec = turn + 3}};
    struct utimbuf whole = {turn + 4, turn + 5};
    check_times(turn, fine, coarse, &whole);
    switch (turn % 10) {
    case 0:
        return futimens(fd, fine);
    case 1:
        return utimensat(AT_FDCWD, path, fine, 0);
    case 2:
        return utimensat(AT_FDCWD, path, NULL, AT_SYMLINK_NOFOLLOW);
    case 3:
        return (int)syscall(SYS_utimensat, fd, NULL, fine, 0);
    case 4:
        return utimes(path, coarse);
    case 5:
        return utimes(path, NULL);
    case 6:
        return lutimes(path, coarse);
    case 7:
        return futimes(fd, coarse);
    case 8:
        return futimesat(AT_FDCWD, path, coarse);
    default:
        return utime(path, &whole);
    }
}

static void by_times(int turn)
{
    CHECK(set_times(turn) == 0);
}

static void by_shell(int turn)
{
    if (turn % 20 != 0)
        return;
    setenv("VICTIM", path, 1);
    CHECK(system("echo line >>$VICTIM; cp -p $VICTIM $VICTIM.copy; touch -r / $VICTIM; cp -p $VICTIM.copy $VICTIM; touch $VICTIM") == 0);
}

static void (*const ways[])(int) = {by_write, by_pwrite, by_pwritev, by_append, by_stdio, by_ftruncate,
                                    by_open, by_fallocate, by_copying, by_times, by_shell};

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    path = argv[1];
    fd = make_file(path, SIZE);
    char name[4096];
    snprintf(name, sizeof name, "%s.other", path);
    other = make_file(name, SIZE);
    unsigned char *copy = malloc(SIZE);
    CHECK(copy && pread(fd, copy, SIZE, 0) == SIZE);
    unsigned char *at = snapshot(fd, 0, SIZE, PROT_READ);
    /* The parts of one that is cut know what the whole knew, as does a child. */
    unsigned char *cut = snapshot(fd, 0, SIZE, PROT_READ);
    CHECK(mprotect(cut + PAGE, PAGE, PROT_NONE) == 0 && stat_of(cut + 2 * PAGE).state == SNAPSHIM_EXACT);
    IN_CHILD(CHECK(stat_of(at).state == SNAPSHIM_EXACT && stat_of(cut + PAGE).state == SNAPSHIM_EXACT));
    pid_t child = fork();
    CHECK(child >= 0);
    /* Both change the file, each at positions of its own, and both look; the child at what it inherited. */
    if (child == 0) {
        fd = open(path, O_RDWR);
        other = open(name, O_RDWR);
        CHECK(fd >= 0 && other >= 0);
    }
    for (int turn = 0; turn < (child == 0 ? TOGETHER : TURNS); turn++) {
        size_t way = (size_t)(turn / 10) % (sizeof ways / sizeof *ways);
        /* Two that cut and check sizes at once would disagree. */
        /* The one from the start leaves the file when it is cut. */
        unsigned char *fresh = snapshot(fd, 0, 8 * PAGE, PROT_READ);
        ways[child == 0 && way >= 5 ? way % 5 : way](turn);
        if (stat_of(at).state != SNAPSHIM_EXACT || stat_of(fresh).state != SNAPSHIM_EXACT) {
            fprintf(stderr, "%s: not exact after turn %d, way %zu\n", child ? "parent" : "child", turn, way);
            return 1;
        }
        CHECK(munmap(fresh, 8 * PAGE) == 0);
        /* What the child counts could hide what is not counted. */
        int status;
        if (turn == TOGETHER)
            CHECK(waitpid(child, &status, 0) == child && status == 0);
        if (turn % 100 == 99) {
            unsigned char *again = snapshot(fd, 0, 8 * PAGE, PROT_READ | PROT_WRITE);
            CHECK(mprotect(again + PAGE, PAGE, PROT_READ) == 0 && stat_of(again).state == SNAPSHIM_EXACT);
            CHECK(munmap(again, 8 * PAGE) == 0);
        }
    }
    CHECK(memcmp(copy, at, SIZE) == 0);
    if (child == 0)
        _exit(0);
    unsigned char *fresh = snapshot(fd, 0, 8 * PAGE, PROT_READ);
    by_pwrite(1);
    CHECK(stat_of(fresh).state == SNAPSHIM_EXACT);
    setenv("VICTIM", path, 1);
    CHECK(system("exec env -u LD_PRELOAD sh -c 'echo foreign >>$VICTIM'") == 0);
    alarm(200);
    while (stat_of(fresh).state != SNAPSHIM_DOUBTFUL)
        usleep(1000);
    puts("exact until the foreign one");
    return 0;
}

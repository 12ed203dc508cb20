/* unseen WHAT: writers that cannot take part, or whose calls do not say where they go. A snapshot beside them is exact, or says that it is
 * not; once they are gone, a new one is exact again. */
#include "check.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/syscall.h>

enum { PAGES = 8 };

static void answer(int fd)
{
    CHECK(write(fd, "y", 1) == 1);
}

static void await(int fd)
{
    char byte;
    CHECK(read(fd, &byte, 1) == 1);
}

/* Executed under a limit of the address space that has room for the program, but not for the table. */
static int limited_writer(char **argv)
{
    int ready = atoi(argv[2]), go = atoi(argv[3]), fd = open("file", O_RDWR);
    CHECK(fd >= 0);
    overwrite(fd, 0, PAGE, 1);
    answer(ready);
    await(go);
    overwrite(fd, PAGE, PAGE, 1);
    answer(ready);
    await(go);
    return 0;
}

static void beside_limited(char **argv)
{
    int ready[2], go[2];
    unlink("file");
    int fd = make_file("file", PAGES * PAGE);
    CHECK(pipe(ready) == 0 && pipe(go) == 0);
    unsigned char *before = snapshot(fd, 0, PAGES * PAGE, PROT_READ);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char from[16], to[16];
        /* It ends with its parent. */
        close(go[1]);
        struct rlimit limit = {40 << 20, 40 << 20};
        snprintf(from, sizeof from, "%d", ready[1]);
        snprintf(to, sizeof to, "%d", go[0]);
        CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
        execl(argv[0], argv[0], "writer", from, to, NULL);
        _exit(4);
    }
    await(ready[0]);
    unsigned char *beside = snapshot(fd, 0, PAGES * PAGE, PROT_READ);
    CHECK(stat_of(before).state == SNAPSHIM_DOUBTFUL && stat_of(beside).state == SNAPSHIM_DOUBTFUL);
    /* A cooperating write hides the foreign one from who looks at the file's times. */
    overwrite(fd, 3 * PAGE, PAGE, 1);
    CHECK(write(go[1], "g", 1) == 1);
    await(ready[0]);
    overwrite(fd, 4 * PAGE, PAGE, 1);
    CHECK(write(go[1], "g", 1) == 1);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    unsigned char *after = snapshot(fd, 0, PAGES * PAGE, PROT_READ);
    CHECK(stat_of(after).state == SNAPSHIM_EXACT && stat_of(before).state == SNAPSHIM_DOUBTFUL);
}

static int refuse(const int *numbers, size_t count)
{
    struct sock_filter code[20];
    size_t length = 0;
    code[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < count; i++)
        code[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)numbers[i], (unsigned char)(count - i), 0);
    code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    struct sock_fprog program = {.len = (unsigned short)length, .filter = code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) : -1;
}

enum change { AT_AN_OFFSET, AT_THE_POSITION, CUT, CUT_BY_PATH, TO_A_PIPE, STORED, CHANGES };

static void change(enum change what, int fd, const unsigned char *page)
{
    int pipes[2];
    unsigned char *shared;
    switch (what) {
    case AT_AN_OFFSET:
        CHECK(pwrite(fd, page, PAGE, (off_t)PAGE) == (ssize_t)PAGE);
        break;
    case AT_THE_POSITION:
        CHECK(write(fd, page, PAGE) == (ssize_t)PAGE);
        break;
    case CUT:
        CHECK(ftruncate(fd, (off_t)PAGE) == 0);
        break;
    case CUT_BY_PATH:
        CHECK(truncate("file", (off_t)PAGE) == 0);
        break;
    case TO_A_PIPE:
        CHECK(pipe(pipes) == 0 && write(pipes[1], page, 10) == 10);
        break;
    case STORED:
        shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(shared != MAP_FAILED);
        memcpy(shared, page, PAGE);
        break;
    default:
        exit(2);
    }
}

/* The kernel refuses to say which file a descriptor leads to: what is to be seen is kept, or the snapshot says that it may not be. */
static void with_unnamed_files(int is_told)
{
    static const int ALL[] = {SYS_statx, SYS_fstat, SYS_newfstatat}, ONE[] = {SYS_statx};
    for (enum change what = 0; what < CHANGES; what++) {
        unlink("file");
        int fd = make_file("file", PAGES * PAGE), other = make_file("other", PAGE), status;
        unsigned char *seen = snapshot(fd, 0, PAGES * PAGE, PROT_READ);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            unsigned char page[4096];
            CHECK(munmap(seen, PAGES * PAGE) == 0);
            memset(page, stamp(0, 1), sizeof page);
            if (refuse(is_told ? ONE : ALL, is_told ? 1 : 3) != 0)
                _exit(3);
            change(what, fd, page);
            _exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
        if (WEXITSTATUS(status) == 3) {
            puts("SKIPPED");
            return;
        }
        CHECK(WEXITSTATUS(status) == 0);
        /* Hides what the other did from who looks at the file's times. */
        overwrite(other, 0, PAGE, 1);
        if (what < CUT || what > CUT_BY_PATH)
            overwrite(fd, (PAGES - 1) * PAGE, PAGE, 1);
        int state = stat_of(seen).state;
        int is_doubtful = !is_told && (what == AT_THE_POSITION || what == STORED);
        if (state != (is_doubtful ? SNAPSHIM_DOUBTFUL : SNAPSHIM_EXACT))
            fprintf(stderr, "change %d: state %d\n", (int)what, state);
        CHECK(state == (is_doubtful ? SNAPSHIM_DOUBTFUL : SNAPSHIM_EXACT));
        if (!is_doubtful)
            CHECK(shows(seen, 0, PAGES * PAGE, 0));
        CHECK(munmap(seen, PAGES * PAGE) == 0);
    }
}

int main(int argc, char **argv)
{
    CHECK(argc >= 2);
    if (strcmp(argv[1], "writer") == 0)
        return limited_writer(argv);
    if (strcmp(argv[1], "limited") == 0)
        beside_limited(argv);
    else if (strcmp(argv[1], "unnamed") == 0)
        with_unnamed_files(0);
    else if (strcmp(argv[1], "named-otherwise") == 0)
        with_unnamed_files(1);
    else
        return 2;
    return 0;
}

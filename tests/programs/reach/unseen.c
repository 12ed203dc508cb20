/* unseen WHAT: writers that cannot take part, or whose calls do not say where they go. A snapshot beside them is exact, or says that it is
 * not; once they are gone, a new one is exact again. */
#include "check.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

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

static int changes(int ready, int go)
{
    int fd = open("file", O_RDWR);
    CHECK(fd >= 0);
    overwrite(fd, 0, PAGE, 1);
    answer(ready);
    await(go);
    overwrite(fd, PAGE, PAGE, 1);
    answer(ready);
    await(go);
    return 0;
}

/* Executed under a limit of the address space that has room for the program, but not for the table. */
static int limited_writer(char **argv)
{
    return changes(atoi(argv[2]), atoi(argv[3]));
}

static void execute(char **argv, const char *what, int ready, int go)
{
    char from[16], to[16];
    snprintf(from, sizeof from, "%d", ready);
    snprintf(to, sizeof to, "%d", go);
    execl(argv[0], argv[0], what, from, to, NULL);
    _exit(4);
}

/* A process that changes the file, when it has been told to for the second time. */
struct outsider {
    pid_t pid;
    int ready, go;
};

static struct outsider start(char **argv, const char *what, void (*prepare)(void))
{
    int ready[2], go[2];
    CHECK(pipe(ready) == 0 && pipe(go) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        /* It ends with its parent. */
        close(go[1]);
        prepare();
        if (!what)
            _exit(changes(ready[1], go[0]));
        execute(argv, what, ready[1], go[0]);
    }
    close(ready[1]), close(go[0]);
    char byte;
    CHECK(read(ready[0], &byte, 1) == 1);
    if (byte == 's') {
        puts("SKIPPED");
        exit(0);
    }
    return (struct outsider){child, ready[0], go[1]};
}

static void go_on(struct outsider writer)
{
    CHECK(write(writer.go, "g", 1) == 1);
    await(writer.ready);
}

static void finish(struct outsider writer)
{
    int status;
    CHECK(write(writer.go, "g", 1) == 1);
    CHECK(waitpid(writer.pid, &status, 0) == writer.pid && status == 0);
}

enum { FROM_BEFORE = 1, FOR_GOOD = 2, WHEN_FOUND = 4 };

/* What is taken beside the writer is doubtful, from the start or when it is found, as long as it lives, or `FOR_GOOD`. */
static void beside(char **argv, const char *what, void (*prepare)(void), int how)
{
    unlink("file");
    int fd = make_file("file", PAGES * PAGE);
    unsigned char *before = how & FROM_BEFORE ? snapshot(fd, 0, PAGES * PAGE, PROT_READ) : NULL;
    struct outsider writer = start(argv, what, prepare);
    unsigned char *beside = snapshot(fd, 0, PAGES * PAGE, PROT_READ);
    while (how & WHEN_FOUND && stat_of(beside).state != SNAPSHIM_DOUBTFUL)
        usleep(10000);
    CHECK(stat_of(beside).state == SNAPSHIM_DOUBTFUL);
    CHECK(strstr(why_of(beside), " takes no part, and its changes are not seen; "));
    CHECK(!before || stat_of(before).state == SNAPSHIM_DOUBTFUL);
    /* A cooperating write hides the foreign one from a process that looks at the file's times. */
    overwrite(fd, 3 * PAGE, PAGE, 1);
    go_on(writer);
    overwrite(fd, 4 * PAGE, PAGE, 1);
    finish(writer);
    unsigned char *after = snapshot(fd, 0, PAGES * PAGE, PROT_READ);
    CHECK(stat_of(after).state == (how & FOR_GOOD ? SNAPSHIM_DOUBTFUL : SNAPSHIM_EXACT));
    CHECK(!before || stat_of(before).state == SNAPSHIM_DOUBTFUL);
}

/* It takes part after all: what is taken once it has made a change is exact, and shows nothing of the next. */
static void beside_joined(char **argv, const char *what, void (*prepare)(void))
{
    unlink("file");
    int fd = make_file("file", PAGES * PAGE);
    struct outsider writer = start(argv, what, prepare);
    unsigned char *beside = snapshot(fd, PAGE, (PAGES - 1) * PAGE, PROT_READ);
    go_on(writer);
    CHECK(shows(beside, PAGE, (PAGES - 1) * PAGE, 0) && stat_of(beside).state == SNAPSHIM_EXACT);
    finish(writer);
}

static void limit_address_space(void)
{
    struct rlimit limit = {40 << 20, 40 << 20};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

/* It has its program, and room for nothing more: not for a page. By its own instruction, as the other way joins before. */
static int roomless_writer(char **argv)
{
    struct rlimit limit = {1 << 20, 1 << 20};
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"((long)SYS_setrlimit), "D"((long)RLIMIT_AS), "S"(&limit)
                     : "rcx", "r11", "memory");
    CHECK(result == 0);
    return limited_writer(argv);
}

/* It has a table of another version, and takes no part in this one. */
static int other_writer(char **argv)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/table-4", getenv("SNAPSHIM_DIR"));
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)PAGE) == 0);
    CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED);
    close(fd);
    return limited_writer(argv);
}

static void take_no_part(void)
{
    CHECK(setenv("SNAPSHIM_DISABLE", "1", 1) == 0);
}

static void nothing(void)
{
}

/* A user without the right does not try it. */
static void or_skip(int is_done)
{
    if (is_done)
        return;
    for (int fd = 3; fd < 64; fd++)
        if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY && write(fd, "s", 1) == 1)
            _exit(0);
    _exit(5);
}

static int alone(void)
{
    return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

/* Where the next image makes a table of its own. */
static void mount_over_table(void)
{
    or_skip(alone() && mount("none", "/dev/shm", "tmpfs", 0, NULL) == 0);
}

/* Where it can make none. */
static void leave_table_behind(void)
{
    or_skip(alone() && (mkdir("root", 0755) == 0 || errno == EEXIST) && mount("/", "root", NULL, MS_BIND | MS_REC, NULL) == 0
            && mount("none", "root/dev/shm", "tmpfs", MS_RDONLY, NULL) == 0 && chroot("root") == 0);
}

static void become_another_user(void)
{
    or_skip(chmod("file", 0666) == 0 && setuid(65534) == 0);
}

static void fail_to_execute(void)
{
    mount_over_table();
    execl("/no/such/program", "program", NULL);
    CHECK(errno == ENOENT);
}

/* For the children; the process itself stays where it is. */
static void make_time_namespace(void)
{
    or_skip(unshare(CLONE_NEWTIME) == 0);
}

static ino_t inode_of(const char *path)
{
    struct stat found;
    return stat(path, &found) == 0 ? found.st_ino : 0;
}

/* A process that has come to another namespace makes one more: /proc tells how far ahead the clocks of that one are, and nothing of
 * its own. */
static void forget_own_clocks(ino_t before)
{
    make_time_namespace();
    or_skip(inode_of("/proc/self/ns/time") != before);
    CHECK(inode_of("/proc/self/ns/time") != inode_of("/proc/self/ns/time_for_children"));
}

/* A process that has not joined yet: it was executed in the namespace that it made, where the kernel's execve(2) leads there. */
static int timeless_writer(char **argv)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/time", (int)getppid());
    forget_own_clocks(inode_of(path));
    return limited_writer(argv);
}

/* A process that has the table of its parent, but no record there: it was forked by an instruction of the program's own. */
static void fork_without_clocks(void)
{
    ino_t before = inode_of("/proc/self/ns/time");
    long child;
    int status;
    make_time_namespace();
    __asm__ volatile("syscall" : "=a"(child) : "a"((long)SYS_fork) : "rcx", "r11", "memory");
    CHECK(child >= 0);
    if (child == 0) {
        forget_own_clocks(before);
        return;
    }
    CHECK(waitpid((pid_t)child, &status, 0) == child);
    _exit(status != 0);
}

enum { SPACE = 40, HERE };

static void mount_over_table_but_know_the_way(void)
{
    int space = open("/proc/self/ns/mnt", O_RDONLY), here = open(".", O_PATH | O_DIRECTORY);
    CHECK(space >= 0 && here >= 0 && dup2(space, SPACE) == SPACE && dup2(here, HERE) == HERE);
    mount_over_table();
}

/* The second image is out of reach; the third one is not. */
static int returning_writer(char **argv)
{
    CHECK(setns(SPACE, CLONE_NEWNS) == 0 && fchdir(HERE) == 0);
    execute(argv, "writer", atoi(argv[2]), atoi(argv[3]));
    return 4;
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
        /* Hides what the other did from a process that looks at the file's times. */
        overwrite(other, 0, PAGE, 1);
        if (what < CUT || what > CUT_BY_PATH)
            overwrite(fd, (PAGES - 1) * PAGE, PAGE, 1);
        int state = stat_of(seen).state;
        int is_doubtful = !is_told && (what == AT_THE_POSITION || what == STORED);
        if (state != (is_doubtful ? SNAPSHIM_DOUBTFUL : SNAPSHIM_EXACT))
            fprintf(stderr, "change %d: state %d\n", (int)what, state);
        CHECK(state == (is_doubtful ? SNAPSHIM_DOUBTFUL : SNAPSHIM_EXACT));
        if (is_doubtful)
            CHECK(strstr(why_of(seen), what == STORED ? "takes no part" : "the kernel does not say to which file"));
        if (!is_doubtful)
            CHECK(shows(seen, 0, PAGES * PAGE, 0));
        CHECK(munmap(seen, PAGES * PAGE) == 0);
    }
}

int main(int argc, char **argv)
{
    CHECK(argc >= 2);
    static const struct {
        const char *name;
        int (*run)(char **);
    } WRITERS[] = {{"writer", limited_writer},
                   {"roomless", roomless_writer},
                   {"other", other_writer},
                   {"timeless", timeless_writer},
                   {"returning", returning_writer}};
    for (size_t i = 0; i < sizeof WRITERS / sizeof *WRITERS; i++)
        if (strcmp(argv[1], WRITERS[i].name) == 0)
            return WRITERS[i].run(argv);
    if (strcmp(argv[1], "limited") == 0)
        beside(argv, "writer", limit_address_space, FROM_BEFORE);
    else if (strcmp(argv[1], "without-room") == 0)
        beside(argv, "roomless", nothing, FOR_GOOD);
    else if (strcmp(argv[1], "other-version") == 0)
        beside(argv, "other", take_no_part, FROM_BEFORE | WHEN_FOUND);
    else if (strcmp(argv[1], "executed-in-other-mounts") == 0)
        beside(argv, "writer", mount_over_table, FROM_BEFORE);
    else if (strcmp(argv[1], "executed-in-chroot") == 0)
        beside(argv, "writer", leave_table_behind, FROM_BEFORE);
    else if (strcmp(argv[1], "executed-as-another-user") == 0)
        beside(argv, "writer", become_another_user, FROM_BEFORE);
    else if (strcmp(argv[1], "executed-without-clocks") == 0)
        beside(argv, "timeless", make_time_namespace, 0);
    else if (strcmp(argv[1], "forked-without-clocks") == 0)
        beside(argv, NULL, fork_without_clocks, FROM_BEFORE);
    else if (strcmp(argv[1], "not-executed") == 0)
        beside_joined(argv, NULL, fail_to_execute);
    else if (strcmp(argv[1], "executed-and-back") == 0)
        beside_joined(argv, "returning", mount_over_table_but_know_the_way);
    else if (strcmp(argv[1], "unnamed") == 0)
        with_unnamed_files(0);
    else if (strcmp(argv[1], "named-otherwise") == 0)
        with_unnamed_files(1);
    else
        return 2;
    return 0;
}

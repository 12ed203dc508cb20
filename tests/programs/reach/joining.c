/* joining HOW: a process has made no change yet when it shuts itself in by HOW; then it changes a file that its parent has a snapshot of.
 * The snapshot is taken before that process starts, or after it has shut itself in; its parent changes the file as well, or does not.
 * Each time the snapshot has to show what it showed, and to be exact. */
#include "check.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>

enum { PAGES = 16 };

/* By its own instruction: a write to a pipe would be the first change. */
static long raw(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

static int refuse_calls(const int *numbers, size_t count, int action, int by_number)
{
    struct sock_filter code[40];
    size_t length = 0;
    code[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < count; i++)
        code[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)numbers[i], (unsigned char)(count - i), 0);
    code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, (unsigned)action);
    struct sock_fprog program = {.len = (unsigned short)length, .filter = code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    return by_number ? (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) : prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static const int OPENING[] = {SYS_open, SYS_openat, SYS_openat2, SYS_mkdir, SYS_clone, SYS_clone3, SYS_getrandom};

static int filtered(int by_number)
{
    return refuse_calls(OPENING, sizeof OPENING / sizeof *OPENING, SECCOMP_RET_ERRNO | EPERM, by_number);
}

static int limited(int resource, rlim_t most)
{
    struct rlimit limit = {most, most};
    return setrlimit(resource, &limit);
}

/* By its own instruction, for the next image: that has one number left to load its libraries by, and to open the file. */
static void lower_limits(int fd)
{
    int free = dup(fd);
    struct rlimit numbers = {(rlim_t)free + 1, (rlim_t)free + 1}, length = {(PAGES + 1) * PAGE, (PAGES + 1) * PAGE}, none = {0, 0};
    CHECK(free >= 0 && close(free) == 0);
    CHECK(raw(SYS_setrlimit, RLIMIT_NOFILE, (long)&numbers, 0) == 0 && raw(SYS_setrlimit, RLIMIT_FSIZE, (long)&length, 0) == 0);
    CHECK(raw(SYS_setrlimit, RLIMIT_MEMLOCK, (long)&none, 0) == 0);
}

/* A private tree, in which what is mounted stays. */
static int alone(void)
{
    return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 ? 0 : -1;
}

/* Opens every number there is: the limit is the process's own, or was set from outside. */
static void use_all_descriptors(void)
{
    while (raw(SYS_open, (long)"/dev/null", O_RDONLY, 0) >= 0)
        ;
}

/* A thread joins while another one calls chroot(2). A third thread stops the first one where it has found that the process has no
 * table, before it looks the path up, until the root has changed; at most for `patience` milliseconds. */
static struct {
    int fd;
    atomic_int listener, is_stopped, has_joined, is_root_changed;
    int patience;
} beside = {.listener = -1};

enum { MILLISECONDS = 1000 };

/* Each mkdirat(2) of the thread waits for an answer from now on: its first one is for the table's directory. */
static int ask_before_mkdirat(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mkdirat, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
    return (int)raw(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, (long)&program);
}

static void *join_beside(void *nothing)
{
    beside.listener = ask_before_mkdirat();
    if (beside.listener >= 0)
        overwrite(beside.fd, PAGES * PAGE, 1, 0);
    beside.has_joined = 1;
    return nothing;
}

static void *stop_it(void *nothing)
{
    while (beside.listener < 0 && !beside.has_joined)
        usleep(MILLISECONDS);
    struct pollfd question = {.fd = beside.listener, .events = POLLIN};
    while (!beside.has_joined && poll(&question, 1, 1) == 0)
        ;
    struct seccomp_notif call = {0};
    if (beside.has_joined || raw(SYS_ioctl, beside.listener, (long)SECCOMP_IOCTL_NOTIF_RECV, (long)&call) != 0)
        return nothing;
    beside.is_stopped = 1;
    for (int i = 0; !beside.is_root_changed && i < beside.patience; i++)
        usleep(MILLISECONDS);
    struct seccomp_notif_resp answer = {.id = call.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    CHECK(raw(SYS_ioctl, beside.listener, (long)SECCOMP_IOCTL_NOTIF_SEND, (long)&answer) == 0);
    return nothing;
}

static int has_table(void)
{
    char line[4096];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    while (fgets(line, sizeof line, maps))
        found |= strstr(line, "/table-") != NULL;
    fclose(maps);
    return found;
}

static int change_root_beside(int fd, int patience)
{
    pthread_t joining, stopping;
    int is_joined = has_table();
    beside.fd = fd, beside.patience = patience;
    CHECK(pthread_create(&joining, NULL, join_beside, NULL) == 0 && pthread_create(&stopping, NULL, stop_it, NULL) == 0);
    while (!beside.is_stopped && !beside.has_joined)
        usleep(MILLISECONDS);
    CHECK(beside.listener < 0 || beside.is_stopped == !is_joined);
    int failure = chroot("root");
    beside.is_root_changed = 1;
    CHECK(pthread_join(joining, NULL) == 0 && pthread_join(stopping, NULL) == 0);
    return beside.listener < 0 ? -1 : failure;
}

static int shuts_itself_in(const char *how, int fd)
{
    char directory[4096];
    CHECK(getcwd(directory, sizeof directory));
    if (strcmp(how, "chroot") == 0)
        return chroot(directory);
    if (strcmp(how, "chroot-by-number") == 0)
        return (int)syscall(SYS_chroot, directory);
    if (strcmp(how, "chroot-while-a-thread-joins") == 0)
        return change_root_beside(fd, 100);
    if (strcmp(how, "chroot-while-a-thread-that-stands-still-joins") == 0)
        return change_root_beside(fd, 30000);
    if (strcmp(how, "setuid") == 0)
        return setuid(65534);
    if (strcmp(how, "setresuid") == 0)
        return setresuid(65534, 65534, 65534);
    if (strcmp(how, "setfsuid") == 0)
        return setfsuid(65534) == 0 ? 0 : -1;
    if (strcmp(how, "descriptors") == 0)
        return limited(RLIMIT_NOFILE, (rlim_t)fd + 1);
    if (strcmp(how, "no-descriptor-left") == 0) {
        struct rlimit limit = {64, 64};
        CHECK(raw(SYS_setrlimit, RLIMIT_NOFILE, (long)&limit, 0) == 0);
        use_all_descriptors();
        return 0;
    }
    if (strcmp(how, "started-within-limits") == 0)
        return 0;
    if (strcmp(how, "address-space") == 0)
        return limited(RLIMIT_AS, 1 << 20);
    if (strcmp(how, "address-space-by-prlimit") == 0) {
        struct rlimit limit = {1 << 20, 1 << 20};
        return prlimit(getpid(), RLIMIT_AS, &limit, NULL);
    }
    if (strcmp(how, "mount") == 0)
        return alone() == 0 ? mount("none", "/dev/shm", "tmpfs", 0, NULL) : -1;
    if (strcmp(how, "other-namespace") == 0) {
        CHECK(raw(SYS_unshare, CLONE_NEWNS, 0, 0) == 0);
        CHECK(syscall(SYS_mount, "none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
        return (int)syscall(SYS_mount, "none", "/dev/shm", "tmpfs", 0, NULL);
    }
    if (strcmp(how, "filter") == 0)
        return filtered(0);
    if (strcmp(how, "filter-by-number") == 0)
        return filtered(1);
    fprintf(stderr, "no way %s\n", how);
    exit(2);
}

static int writer(const char *how, const char *path, int ready, int go)
{
    int fd = open(path, O_RDWR);
    CHECK(fd >= 0);
    char byte = shuts_itself_in(how, fd) == 0 ? 'y' : 'n';
    if (raw(SYS_write, ready, (long)&byte, 1) != 1 || byte == 'n' || raw(SYS_read, go, (long)&byte, 1) != 1)
        return 3;
    overwrite(fd, 0, PAGES * PAGE, 1);
    raw(SYS_exit_group, 0, 0, 0);
    return 0;
}

/* 0, or 1 if it cannot be tried here. */
static int tried(char **argv, int is_before, int is_accompanied)
{
    int ready[2], go[2];
    unsigned char *seen = NULL;
    int fd = make_file("file", (PAGES + 1) * PAGE);
    CHECK(fchmod(fd, 0666) == 0 && pipe(ready) == 0 && pipe(go) == 0);
    if (is_before)
        seen = snapshot(fd, 0, (PAGES + 1) * PAGE, PROT_READ);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char from[16], to[16];
        /* It ends with its parent. */
        close(go[1]);
        if (strcmp(argv[1], "started-within-limits") == 0)
            lower_limits(fd);
        snprintf(from, sizeof from, "%d", ready[1]);
        snprintf(to, sizeof to, "%d", go[0]);
        execl(argv[0], argv[0], argv[1], "file", from, to, NULL);
        _exit(4);
    }
    char byte;
    CHECK(read(ready[0], &byte, 1) == 1);
    int status, is_tried = byte == 'y';
    if (is_tried && !is_before)
        seen = snapshot(fd, 0, (PAGES + 1) * PAGE, PROT_READ);
    if (is_accompanied)
        overwrite(fd, PAGES * PAGE, 1, 1);
    if (is_tried)
        CHECK(write(go[1], "g", 1) == 1);
    CHECK(waitpid(child, &status, 0) == child);
    if (is_tried) {
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        if (is_accompanied)
            overwrite(fd, PAGES * PAGE, 1, 2);
        unsigned char now;
        CHECK(pread(fd, &now, 1, 0) == 1 && now == stamp(0, 1));
        CHECK(shows(seen, 0, (PAGES + 1) * PAGE, 0));
        CHECK(stat_of(seen).state == SNAPSHIM_EXACT);
    }
    if (seen)
        CHECK(munmap(seen, (PAGES + 1) * PAGE) == 0);
    close(fd), close(ready[0]), close(ready[1]), close(go[0]), close(go[1]);
    return !is_tried;
}

int main(int argc, char **argv)
{
    CHECK(argc >= 2);
    if (argc == 5)
        return writer(argv[1], argv[2], atoi(argv[3]), atoi(argv[4]));
    for (int i = 0; i < 4; i++)
        if (tried(argv, i & 1, i & 2)) {
            puts("SKIPPED");
            return 0;
        }
    return 0;
}

/* exhaustion POLICY DIRECTORY [WHAT]: snapshots are taken, written under, cut, inherited and dropped while one system call after another
 * fails: each call of each kind in turn; then while a limit of the process (setrlimit(2), vm.max_map_count) is near. No byte of a snapshot may ever be another than it was; what fails has an errno.
 *
 * The failing is done by seccomp(2): the program's calls of one kind come to its parent, which lets all but one go on. */
#include "check.h"

#include <glob.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

enum { PAGES = 600, SNAPSHOTS = 4 }; /* more than a huge page */
static const size_t LENGTH = PAGES * 4096 - 100;

static const struct kind {
    const char *name;
    int number, failure;
} KINDS[] = {
    {"mmap", SYS_mmap, ENOMEM},           {"mremap", SYS_mremap, ENOMEM},
    {"mprotect", SYS_mprotect, ENOMEM},   {"madvise", SYS_madvise, ENOMEM},
    {"memfd_create", SYS_memfd_create, ENOMEM}, {"openat", SYS_openat, EMFILE},
    {"open", SYS_open, EMFILE},           {"fallocate", SYS_fallocate, ENOSPC},
    {"linkat", SYS_linkat, ENOSPC},       {"mkdir", SYS_mkdir, ENOSPC},
    {"clone", SYS_clone, EAGAIN},         {"fcntl", SYS_fcntl, EMFILE},
    {"ioctl", SYS_ioctl, ENOMEM},         {"process_vm_writev", SYS_process_vm_writev, ENOMEM},
    {"process_vm_readv", SYS_process_vm_readv, ENOMEM}, {"statx", SYS_statx, ENOMEM},
    {"fstat", SYS_fstat, ENOMEM},         {"newfstatat", SYS_newfstatat, ENOMEM},
    {"pread64", SYS_pread64, ENOMEM},     {"munmap", SYS_munmap, ENOMEM},
};

static _Atomic int *armed; /* calls count while it is 1 */
static int fails_writes;

static int filter_calls(int number)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = 4, .filter = code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

static void pass_on(int socket, int fd)
{
    char byte = 0, space[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    CHECK(sendmsg(socket, &message, 0) == 1);
}

static int take_over(int socket)
{
    int fd;
    char byte, space[CMSG_SPACE(sizeof fd)];
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    CHECK(recvmsg(socket, &message, MSG_CMSG_CLOEXEC) == 1);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

static struct held {
    unsigned char *at;
    size_t length;
    int protection;
} held[SNAPSHOTS];

static sigjmp_buf escape;
static void on_bus(int number)
{
    (void)number;
    siglongjmp(escape, 1);
}

/* Each byte is what it was, or reading it faults and the snapshot says that it is broken. */
static void check_all(int is_heir)
{
    signal(SIGBUS, on_bus);
    signal(SIGSEGV, on_bus); /* what a child inherited may not even be there */
    for (int i = 0; i < SNAPSHOTS; i++) {
        if (!held[i].at)
            continue;
        for (volatile size_t at = 0; at < held[i].length; at += 997) {
            if (sigsetjmp(escape, 1) == 0) {
                CHECK(held[i].at[at] == stamp(at / PAGE, 0));
                continue;
            }
            struct snapshim_stat stat = {.state = SNAPSHIM_BROKEN};
            CHECK(is_heir || !fails_writes);
            CHECK(snapshim_stat(held[i].at, &stat) == 0 || is_heir);
            CHECK(stat.state == SNAPSHIM_BROKEN);
            break;
        }
    }
    signal(SIGBUS, SIG_DFL);
    signal(SIGSEGV, SIG_DFL);
}

/* A call may fail, with an errno. */
static int failed(long result)
{
    if (result >= 0)
        return 0;
    CHECK(errno > 0 && errno != EFAULT && errno != EINVAL && errno != ENOSYS);
    return 1;
}

static void hold(int i, int fd, int protection, void *wish)
{
    int flags = MAP_PRIVATE | MAP_SNAPSHOT | (wish ? MAP_FIXED : 0);
    unsigned char *at = mmap(wish, LENGTH, protection, flags, fd, 0);
    if (!failed(at == MAP_FAILED ? -1 : 0))
        held[i] = (struct held){at, LENGTH, protection};
}

static void write_some(int fd, size_t first, size_t count)
{
    static unsigned char bytes[80 * 4096];
    memset(bytes, 0xee, count * PAGE);
    failed(pwrite(fd, bytes, count * PAGE, (off_t)(first * PAGE)));
    check_all(0);
}

static void live(int fd, unsigned char *wish)
{
    hold(0, fd, PROT_READ, NULL);
    hold(1, fd, PROT_READ | PROT_WRITE, NULL);
    hold(2, fd, PROT_READ | PROT_WRITE, wish);
    write_some(fd, 3, 1);
    write_some(fd, 100, 70);
    pid_t writer = fork();
    if (!failed(writer) && writer == 0) {
        check_all(1);
        write_some(fd, 300, 9);
        _exit(0);
    }
    int status = 0;
    CHECK(writer < 0 || (waitpid(writer, &status, 0) == writer && status == 0));
    check_all(0);
    if (held[1].at) {
        failed(madvise(held[1].at, 200 * PAGE, MADV_DONTNEED));
        if (!failed(mprotect(held[1].at, 50 * PAGE, PROT_READ)))
            check_all(0);
        if (!failed(munmap(held[1].at + 400 * PAGE, LENGTH - 400 * PAGE)))
            held[1].length = 400 * PAGE;
    }
    write_some(fd, 40, 20);
    failed(ftruncate(fd, 10 * PAGE + 5));
    check_all(0);
    failed(ftruncate(fd, (off_t)LENGTH));
    write_some(fd, 0, 80);
    for (int i = 0; i < SNAPSHOTS; i++)
        if (held[i].at && !failed(munmap(held[i].at, held[i].length)))
            held[i].at = NULL;
    check_all(0);
}

static void run_filtered(int socket, int number)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(150);
    int fd = open("file", O_RDWR | O_CLOEXEC);
    unsigned char *wish = mmap(NULL, LENGTH, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int listener = filter_calls(number);
    CHECK(fd >= 0 && wish != MAP_FAILED && listener >= 0);
    pass_on(socket, listener);
    close(listener);
    *armed = 1;
    live(fd, wish);
    *armed = 0;
    _exit(0);
}

/* Runs it once, call `which` failing; how many calls there were. */
static int run(const struct kind *kind, int which)
{
    int pair[2], count = 0;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    *armed = 0;
    fflush(NULL);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        run_filtered(pair[1], kind->number);
    close(pair[1]);
    struct pollfd waiting = {.fd = take_over(pair[0]), .events = POLLIN};
    while (poll(&waiting, 1, -1) == 1 && waiting.revents & POLLIN) {
        struct seccomp_notif call = {0};
        if (ioctl(waiting.fd, SECCOMP_IOCTL_NOTIF_RECV, &call) != 0)
            continue;
        struct seccomp_notif_resp answer = {.id = call.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        if (*armed && ++count == which)
            answer = (struct seccomp_notif_resp){.id = call.id, .error = -kind->failure};
        ioctl(waiting.fd, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
    close(waiting.fd);
    close(pair[0]);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    if (status != 0) {
        fprintf(stderr, "%s number %d failing: status %#x\n", kind->name, which, (unsigned)status);
        exit(1);
    }
    return count;
}

/* The table's name has the number of its layout. */
static void remove_table(const char *directory)
{
    glob_t tables;
    char pattern[300];
    snprintf(pattern, sizeof pattern, "%s/table-*", directory);
    if (glob(pattern, 0, NULL, &tables) == 0) {
        for (size_t i = 0; i < tables.gl_pathc; i++)
            unlink(tables.gl_pathv[i]);
        globfree(&tables);
    }
    rmdir(directory);
}

/* In a process of its own: this one stays away from the table, so that each run makes or finds it anew. */
static void begin_anew(const char *directory)
{
    remove_table(directory);
    IN_CHILD(close(make_file("file", LENGTH)));
    remove_table(directory);
}

static void limit(int resource, rlim_t most)
{
    CHECK(setrlimit(resource, &(struct rlimit){most, most}) == 0);
}

/* So much address space is left. */
static void limit_address_space(int step)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file && fscanf(file, "%lu", &pages) == 1);
    fclose(file);
    limit(RLIMIT_AS, pages * PAGE + (rlim_t)step * (rlim_t)step * 200000);
}

static void limit_descriptors(int step)
{
    limit(RLIMIT_NOFILE, 3 + (rlim_t)step);
}

/* So many mappings are left. */
static void limit_mappings(int step)
{
    enum { MOST = 1 << 20 };
    unsigned char *area = mmap(NULL, MOST * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(area != MAP_FAILED);
    size_t at = 1;
    while (at < MOST && mprotect(area + at * PAGE, PAGE, PROT_READ) == 0)
        at += 2;
    for (int i = 0; i < step && at > 2; i++)
        CHECK(mprotect(area + (at -= 2) * PAGE, PAGE, PROT_NONE) == 0);
}

static const struct {
    const char *name;
    void (*set)(int step);
    int steps;
} LIMITS[] = {{"RLIMIT_AS", limit_address_space, 25}, {"RLIMIT_NOFILE", limit_descriptors, 12}, {"max_map_count", limit_mappings, 8}};

static void run_limited(size_t which, const char *directory)
{
    for (int step = 0; step < LIMITS[which].steps; step++) {
        begin_anew(directory);
        fflush(NULL);
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            alarm(150);
            int fd = open("file", O_RDWR | O_CLOEXEC);
            unsigned char *wish = mmap(NULL, LENGTH, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            CHECK(fd >= 0 && wish != MAP_FAILED);
            LIMITS[which].set(step);
            live(fd, wish);
            _exit(0);
        }
        int status;
        CHECK(waitpid(pid, &status, 0) == pid);
        if (status != 0) {
            fprintf(stderr, "%s step %d: status %#x\n", LIMITS[which].name, step, (unsigned)status);
            exit(1);
        }
    }
    printf("%s: %d steps\n", LIMITS[which].name, LIMITS[which].steps);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3 || argc == 4);
    fails_writes = strcmp(argv[1], "fail-write") == 0;
    armed = shared_page();
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
        if (argc == 4 && strcmp(argv[3], KINDS[i].name) != 0)
            continue;
        int which = 0, count;
        do {
            begin_anew(argv[2]);
            count = run(&KINDS[i], ++which);
        } while (which <= count);
        printf("%s: each of %d\n", KINDS[i].name, count);
    }
    for (size_t i = 0; i < sizeof LIMITS / sizeof *LIMITS; i++)
        if (argc == 3 || strcmp(argv[3], LIMITS[i].name) == 0)
            run_limited(i, argv[2]);
    return 0;
}

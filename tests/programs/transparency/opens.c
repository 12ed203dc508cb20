/* opens WHAT: opens files so that they are truncated, and prints what came of it: mode, size, descriptor and what a watcher of the
 * directory saw. WHAT is
 *   new       files that do not exist
 *   existing  files that exist
 *   setgid    files that do not exist, in directories of another group (for root)
 *   special   what open(2) refuses, and what is no regular file
 *   apart     an existing file on a ramfs
 *   tracing   files of a tracefs, to which O_TRUNC says more than "empty it" */
#define _GNU_SOURCE
#include <sched.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <linux/openat2.h>

#include "check.h"

static int watcher;

static void watch(const char *directory)
{
    watcher = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    CHECK(watcher >= 0 && inotify_add_watch(watcher, directory, IN_ALL_EVENTS) >= 0);
}

static void show(const char *what, int fd)
{
    int failure = errno;
    if (fd < 0) {
        printf("%s: %s", what, strerror(failure));
    } else {
        struct stat stat;
        CHECK(fstat(fd, &stat) == 0);
        printf("%s: descriptor %d flags %x/%x mode %o size %lld", what, fd, fcntl(fd, F_GETFL), fcntl(fd, F_GETFD), stat.st_mode,
               (long long)stat.st_size);
        close(fd);
    }
    char buffer[4096] __attribute__((aligned(8)));
    ssize_t length = watcher ? read(watcher, buffer, sizeof buffer) : 0;
    for (char *at = buffer; at < buffer + length;) {
        struct inotify_event *event = (void *)at;
        printf(" %x(%s)", event->mask, event->len ? event->name : "");
        at += sizeof *event + event->len;
    }
    puts("");
}

static int openat2_(const char *path, uint64_t flags, uint64_t mode)
{
    struct open_how how = {.flags = flags, .mode = mode};
    return syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
}

enum { SET_IDS = S_ISUID | S_ISGID | 0755, TRUNC = O_CREAT | O_WRONLY | O_TRUNC };

/* Opens each of the names d/a to d/j in another way. */
static void each_way(void)
{
    show("open", open("d/a", TRUNC, SET_IDS));
    show("creat", creat("d/b", SET_IDS));
    FILE *stream = fopen("d/c", "w");
    show("fopen", stream ? dup(fileno(stream)) : -1);
    if (stream)
        fclose(stream);
    show("its end", -1);
    show("openat", openat(AT_FDCWD, "d/d", TRUNC | O_CLOEXEC, SET_IDS));
    show("openat2", openat2_("d/e", TRUNC, SET_IDS));
    show("openat2 in the directory", openat2_("d/f", TRUNC | O_NOFOLLOW, SET_IDS));
    show("syscall", syscall(SYS_open, "d/g", TRUNC | O_APPEND, SET_IDS));
    show("syscall creat", syscall(SYS_creat, "d/h", SET_IDS));
    show("read only", open("d/i", O_CREAT | O_TRUNC | O_RDONLY, SET_IDS));
    show("exclusive", open("d/j", TRUNC | O_EXCL, SET_IDS));
    show("once more", open("d/j", TRUNC | O_EXCL, SET_IDS));
}

static void fill(void)
{
    for (char name[] = "d/a"; name[2] <= 'i'; name[2]++) {
        int fd = open(name, O_CREAT | O_WRONLY, 0644);
        CHECK(fd >= 0 && write(fd, "old", 3) == 3 && fchmod(fd, SET_IDS) == 0 && close(fd) == 0);
    }
}

static void setgid_directories(void)
{
    if (geteuid() != 0) {
        puts("SKIPPED only root makes directories of other groups");
        return;
    }
    enum { NOBODY = 65534, OTHER = 11 };
    for (int inherits = 0; inherits < 2; inherits++) {
        char directory[] = "set0";
        directory[3] += inherits;
        CHECK(mkdir(directory, 0777) == 0 && chown(directory, NOBODY, OTHER) == 0);
        CHECK(chmod(directory, inherits ? S_ISGID | 0777 : 0777) == 0);
    }
    /* By number: only this thread. */
    CHECK(syscall(SYS_setgroups, 0, NULL) == 0 && syscall(SYS_setregid, NOBODY, NOBODY) == 0);
    CHECK(syscall(SYS_setreuid, -1, NOBODY) == 0);
    static const char *const names[] = {"set0/a", "set0/b", "set1/a", "set1/b"};
    for (int i = 0; i < 4; i++) {
        struct stat stat;
        int fd = i % 2 ? creat(names[i], S_ISGID | 0777) : open(names[i], TRUNC, S_ISGID | S_ISUID | 0777);
        CHECK(fd >= 0 && fstat(fd, &stat) == 0);
        printf("%s: mode %o group %u\n", names[i], stat.st_mode, stat.st_gid);
        close(fd);
    }
}

static void special(void)
{
    char name[300];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    CHECK(symlink("made", "d/to-nothing") == 0 && symlink("loop", "d/loop") == 0 && mkfifo("d/fifo", 0600) == 0);
    show("a link to nothing", open("d/to-nothing", TRUNC, SET_IDS));
    show("what it leads to", open("d/made", O_RDONLY));
    show("a link that is not followed", open("d/to-nothing", TRUNC | O_NOFOLLOW, 0644));
    show("a link to itself", open("d/loop", TRUNC, 0644));
    show("a directory", open("d", O_WRONLY | O_TRUNC));
    show("a directory, read only", open("d", O_RDONLY | O_TRUNC));
    show("a slash", open("d/none/", TRUNC, 0644));
    show("nothing", open("d/none", O_WRONLY | O_TRUNC));
    show("in nothing", open("none/none", TRUNC, 0644));
    show("a long name", open(name, TRUNC, 0644));
    show("no name", open("", TRUNC, 0644));
    show("no pointer", syscall(SYS_open, 1, TRUNC, 0644));
    show("a bad directory", openat(999, "x", TRUNC, 0644));
    show("a FIFO", open("d/fifo", TRUNC | O_NONBLOCK, 0644));
    show("a FIFO with a reader", open("d/fifo", O_RDWR | O_TRUNC));
    show("a device", open("/dev/null", TRUNC, 0644));
    show("no structure", syscall(SYS_openat2, AT_FDCWD, "d/none", NULL, sizeof(struct open_how)));
    show("wrong flags", openat2_("d/none", (1ull << 40) | TRUNC, 0644));
}

static void mounted(const char *kind)
{
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 || mkdir("m", 0755) != 0 ||
        mount("none", "m", kind, 0, NULL) != 0) {
        puts("SKIPPED cannot mount it");
        exit(0);
    }
}

static void apart(void)
{
    mounted("ramfs");
    int fd = open("m/file", O_CREAT | O_WRONLY, 0644);
    CHECK(fd >= 0 && write(fd, "old", 3) == 3 && close(fd) == 0);
    watch("m");
    show("open", open("m/file", TRUNC, 0644));
    show("to add", open("m/file", TRUNC | O_APPEND | O_CLOEXEC, 0644));
    show("read only", open("m/file", O_RDONLY | O_TRUNC));
    CHECK(close(0) == 0);
    show("the lowest number", open("m/file", TRUNC, 0644));
}

static void put(const char *path, const char *text, int flags)
{
    int fd = open(path, O_WRONLY | flags);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

static void print(const char *path)
{
    char text[65536];
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    ssize_t length = read(fd, text, sizeof text - 1);
    CHECK(length >= 0 && close(fd) == 0);
    text[length] = 0;
    printf("%s: %s, %s\n", path, strstr(text, "mark") ? "a mark" : "no mark", strstr(text, "sched_switch") ? "one event" : "no event");
}

static void tracing(void)
{
    mounted("tracefs");
    CHECK(mkdir("m/instances/snapshim-opens", 0755) == 0 || errno == EEXIST);
    CHECK(chdir("m/instances/snapshim-opens") == 0);
    put("trace_marker", "mark", 0);
    print("trace");
    put("trace", "\n", O_TRUNC | O_CREAT);
    print("trace");
    put("set_event", "sched:sched_switch", O_TRUNC);
    print("set_event");
    put("set_event", "sched:sched_wakeup", O_TRUNC);
    print("set_event");
    CHECK(chdir("../..") == 0 && rmdir("instances/snapshim-opens") == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    setvbuf(stdout, NULL, _IOLBF, 0);
    umask(0);
    CHECK(mkdir("d", 0755) == 0);
    if (!strcmp(argv[1], "setgid"))
        setgid_directories();
    else if (!strcmp(argv[1], "apart"))
        apart();
    else if (!strcmp(argv[1], "tracing"))
        tracing();
    else if (!strcmp(argv[1], "special"))
        special();
    else {
        if (!strcmp(argv[1], "existing"))
            fill();
        watch("d");
        each_way();
    }
    return 0;
}

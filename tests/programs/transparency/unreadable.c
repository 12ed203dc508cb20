/* unreadable FILE: calls that are given addresses which cannot be read. The kernel answers EFAULT, and no signal comes. */
#include "check.h"

#include <linux/sched.h>
#include <sys/syscall.h>

static void *nothing;
/* The compiler does not know that it is null. */
static char *volatile null;

/* A string, or an array, that runs into memory which cannot be read. */
static char *endless;

#define SAY(call)                                                              \
    do {                                                                       \
        fflush(NULL);                                                          \
        pid_t child_ = fork();                                                 \
        CHECK(child_ >= 0);                                                    \
        if (child_ == 0) {                                                     \
            errno = 0;                                                         \
            long result_ = (long)(call);                                       \
            printf("%s = %ld, %s\n", #call, result_, strerrorname_np(errno));  \
            fflush(NULL);                                                      \
            _exit(0);                                                          \
        }                                                                      \
        int status_;                                                           \
        CHECK(waitpid(child_, &status_, 0) == child_);                         \
        if (status_ != 0)                                                      \
            printf("%s: status %x\n", #call, (unsigned)status_);               \
    } while (0)

static void execute(void)
{
    char *arguments[] = {"x", NULL}, *none[] = {NULL}, *few[] = {"A=1", nothing, NULL};
    char *preloads[] = {"LD_PRELOAD=libsnapshim.so", nothing, NULL};
    char **open_end = (char **)(endless + PAGE) - 4;
    char *to_nothing[] = {endless + PAGE - strlen("LD_PRELOAD=libsn"), NULL};
    memcpy(to_nothing[0], "LD_PRELOAD=libsn", strlen("LD_PRELOAD=libsn"));
    SAY(execve(nothing, arguments, NULL));
    SAY(execve(nothing, arguments, none));
    SAY(execve(nothing, nothing, nothing));
    SAY(execve(null, arguments, none));
    SAY(execve(null + 8, nothing, NULL));
    SAY(execve("nonexistent", arguments, nothing));
    SAY(execve("/bin/true", arguments, nothing));
    SAY(execve("/bin/true", arguments, (char **)(null + 8)));
    SAY(execve("/bin/true", arguments, few));
    SAY(execve("/bin/true", arguments, preloads));
    SAY(execve("/bin/true", arguments, to_nothing));
    open_end[0] = open_end[1] = open_end[2] = open_end[3] = "A=1";
    SAY(execve("/bin/true", arguments, open_end));
    memset(endless, '/', PAGE);
    SAY(execve(endless + PAGE - 100, arguments, none));
    SAY(execve(endless, arguments, none));
    SAY(execv(nothing, arguments));
    SAY(execvpe("true", arguments, nothing));
    SAY(execveat(AT_FDCWD, nothing, arguments, NULL, 0));
    SAY(fexecve(open("/bin/true", O_RDONLY), nothing, none));
    SAY(syscall(SYS_execve, nothing, arguments, NULL));
}

static void clone_by_structure(void)
{
    SAY(syscall(SYS_clone3, nothing, sizeof(struct clone_args)));
    SAY(syscall(SYS_clone3, NULL, sizeof(struct clone_args)));
    SAY(syscall(SYS_clone3, 8L, sizeof(struct clone_args)));
    SAY(syscall(SYS_clone3, endless + PAGE - 40, sizeof(struct clone_args)));
    SAY(syscall(SYS_clone3, nothing, 8L));
    SAY(syscall(SYS_clone3, nothing, 100000L));
    struct clone_args arguments = {.exit_signal = SIGCHLD};
    long child = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child == 0)
        _exit(9);
    int status;
    CHECK(waitpid((pid_t)child, &status, 0) == child);
    printf("a child by structure ends with %d\n", WEXITSTATUS(status));
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    int file = open(argv[1], O_RDWR), away = open("/dev/null", O_WRONLY);
    CHECK(file >= 0);
    /* The library may say that an environment does not name it, before the kernel finds that it cannot be read. */
    CHECK(away >= 0 && dup2(away, STDERR_FILENO) == STDERR_FILENO);
    nothing = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    endless = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(nothing != MAP_FAILED && endless != MAP_FAILED && mprotect(endless + PAGE, PAGE, PROT_NONE) == 0);
    CHECK(pwrite(file, "written", 7, 0) == 7);
    snapshot(file, 0, PAGE, PROT_READ);
    execute();
    clone_by_structure();
    return 0;
}

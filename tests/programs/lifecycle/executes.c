/* executes DOOR FILE: executes FILE with this program's environment, by DOOR. What keeps it from that is said. */
#include "check.h"

#include <spawn.h>
#include <sys/syscall.h>

extern char **environ;

static int by(const char *door, char *file) {
    char *arguments[] = {file, NULL};
    int descriptor = open(file, O_RDONLY | O_CLOEXEC);
    int path_alone = open(file, O_PATH | O_CLOEXEC);
    if (!strcmp(door, "execve"))
        return execve(file, arguments, environ);
    if (!strcmp(door, "execv"))
        return execv(file, arguments);
    if (!strcmp(door, "execvp"))
        return execvp(file, arguments);
    if (!strcmp(door, "own_environment")) {
        char *mine[] = {"BEFORE=1", "LD_PRELOAD=", "AFTER=2", NULL};
        char preload[1000];
        snprintf(preload, sizeof preload, "LD_PRELOAD=%s", getenv("LD_PRELOAD") ? getenv("LD_PRELOAD") : "");
        mine[1] = preload;
        return execve(file, arguments, getenv("LD_PRELOAD") ? mine : environ);
    }
    if (!strcmp(door, "execveat"))
        return execveat(AT_FDCWD, file, arguments, environ, 0);
    if (!strcmp(door, "execveat_descriptor"))
        return execveat(descriptor, "", arguments, environ, AT_EMPTY_PATH);
    if (!strcmp(door, "execveat_path"))
        return execveat(path_alone, "", arguments, environ, AT_EMPTY_PATH);
    if (!strcmp(door, "fexecve"))
        return fexecve(descriptor, arguments, environ);
    if (!strcmp(door, "syscall_execve"))
        return (int)syscall(SYS_execve, file, arguments, environ);
    if (!strcmp(door, "syscall_execveat"))
        return (int)syscall(SYS_execveat, AT_FDCWD, file, arguments, environ, 0);
    pid_t child = -1;
    int status = 0;
    if (!strcmp(door, "vfork")) {
        child = vfork();
        if (child == 0) {
            execve(file, arguments, environ);
            _exit(errno);
        }
    } else {
        CHECK(!strcmp(door, "posix_spawn"));
        errno = posix_spawn(&child, file, NULL, NULL, arguments, environ);
        if (errno)
            return -1;
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    errno = WEXITSTATUS(status);
    return errno == 0 ? 0 : -1;
}

int main(int count, char **arguments) {
    CHECK(count == 3 || count == 4);
    /* A third argument: a number of times. For vfork and posix_spawn, which return. */
    for (int times = count == 4 ? atoi(arguments[3]) : 1; times > 0; times--)
        if (by(arguments[1], arguments[2]) != 0)
            printf("refused: %s\n", strerror(errno));
    return 0;
}

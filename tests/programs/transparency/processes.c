/* processes MODE FILE: writers that start other processes, or close what they were given. */
#include "blocked.h"

#include <spawn.h>

extern char **environ;

static const char *path;

static void say_status(const char *what, int status)
{
    printf("%s: %s %d\n", what, WIFEXITED(status) ? "exit" : "signal",
           WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

static void await(const char *what, pid_t pid)
{
    int status;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    say_status(what, status);
}

static void put(int fd, off_t at, const char *text)
{
    CHECK(pwrite(fd, text, strlen(text), at) == (ssize_t)strlen(text));
}

static void forks(int file)
{
    pid_t pid = fork();
    if (pid == 0) {
        put(file, 100, "child");
        pid_t grandchild = fork();
        if (grandchild == 0) {
            put(file, 200, "grandchild");
            _exit(3);
        }
        await("grandchild", grandchild);
        fflush(stdout);
        _exit(4);
    }
    put(file, 300, "parent");
    await("child", pid);
    pid = vfork();
    if (pid == 0) {
        if (pwrite(file, "vfork", 5, 400) != 5)
            _exit(1);
        _exit(5);
    }
    await("vfork", pid);
    pid = vfork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", "printf exec | dd of=\"$0\" bs=1 seek=500 conv=notrunc status=none", path, NULL);
        _exit(127);
    }
    await("vfork and exec", pid);
    put(file, 600, "after");
    /* Killed in the middle of writing. */
    pid = fork();
    if (pid == 0)
        for (;;)
            put(file, 700, "endless");
    char byte = 0;
    while (byte != 's')
        CHECK(pread(file, &byte, 1, 706) == 1);
    CHECK(kill(pid, SIGKILL) == 0);
    await("killed", pid);
    snapshot_is_prompt(path);
}

static void spawns(int file)
{
    pid_t pid;
    char *arguments[] = {"sh", "-c", "echo spawned; printf spawn >>\"$0\"; exit 6", (char *)(uintptr_t)path, NULL};
    CHECK(posix_spawn(&pid, "/bin/sh", NULL, NULL, arguments, environ) == 0);
    await("spawn", pid);
    posix_spawn_file_actions_t actions;
    CHECK(posix_spawn_file_actions_init(&actions) == 0);
    CHECK(posix_spawn_file_actions_adddup2(&actions, file, 1) == 0);
    CHECK(posix_spawnp(&pid, "sh", &actions, NULL, arguments, environ) == 0);
    await("spawn with a file as output", pid);
    char command[4096];
    snprintf(command, sizeof command, "printf system >>'%s'; exit 7", path);
    say_status("system", system(command));
    FILE *reader = popen("echo popened; exit 8", "r");
    char line[64];
    CHECK(reader && fgets(line, sizeof line, reader));
    printf("%s", line);
    say_status("popen r", pclose(reader));
    snprintf(command, sizeof command, "cat >>'%s'; exit 9", path);
    FILE *writer = popen(command, "w");
    CHECK(writer);
    for (int i = 0; i < 2000; i++)
        fprintf(writer, "through a pipe %d\n", i);
    say_status("popen w", pclose(writer));
}

/* As daemons do it. */
static void close_everything(int file, int by_range)
{
    int kept = fcntl(file, F_DUPFD, 200);
    CHECK(kept >= 200);
    if (by_range) {
        CHECK(close_range(3, (unsigned)kept - 1, 0) == 0);
        CHECK(close_range((unsigned)kept + 1, ~0u, 0) == 0);
    } else {
        for (int fd = 3; fd < 1024; fd++)
            if (fd != kept)
                close(fd);
    }
    put(kept, 100, "only this one is left");
    int again = open(path, O_RDWR);
    printf("next descriptor: %d\n", again);
    put(again, 5000, "opened again");
    snapshot_is_prompt(path);
    put(again, 9000, "and again");
}

static void duplicate_over(int file)
{
    int ends[2];
    full_pipe(ends);
    CHECK(dup2(file, ends[1]) == ends[1]);
    put(ends[1], 100, "was a pipe");
    CHECK(dup3(file, 0, 0) == 0);
    put(0, 5000, "was standard input");
    CHECK(dup2(file, file) == file);
    CHECK_ERRNO(dup2(999, 5), -1, EBADF);
    CHECK_ERRNO(dup3(file, file, 0), -1, EINVAL);
    CHECK(dup2(ends[0], file) == file);
    CHECK_ERRNO(pwrite(file, "x", 1, 0), -1, EBADF);
    int out = dup(1);
    CHECK(dup2(ends[1], 1) == 1);
    CHECK(lseek(1, 9000, SEEK_SET) == 9000);
    printf("printed over the file\n");
    fflush(stdout);
    CHECK(dup2(out, 1) == 1);
}

static void standard_ones_closed(void)
{
    close(0);
    close(1);
    close(2);
    /* Now a file takes their places. */
    int zero = open(path, O_RDWR), one = open(path, O_RDWR), two = open(path, O_RDWR);
    if (zero != 0 || one != 1 || two != 2)
        _exit(90);
    printf("printed into the file");
    fflush(stdout);
    if (pwrite(2, "error", 5, 5000) != 5)
        _exit(91);
    close(0);
    close(1);
    close(2);
    int file = open(path, O_RDWR);
    _exit(file == 0 && pwrite(file, "last", 4, 9000) == 4 ? 42 : 92);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    const char *mode = argv[1];
    path = argv[2];
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(mode, "standard-ones-closed") == 0)
        standard_ones_closed();
    int file = open(path, O_RDWR);
    CHECK(file >= 0);
    if (strcmp(mode, "forks") == 0)
        forks(file);
    else if (strcmp(mode, "spawns") == 0)
        spawns(file);
    else if (strcmp(mode, "closes") == 0)
        close_everything(file, 0);
    else if (strcmp(mode, "closes-ranges") == 0)
        close_everything(file, 1);
    else if (strcmp(mode, "duplicates") == 0)
        duplicate_over(file);
    else
        CHECK(!"a known mode");
    print_file(path);
    return 0;
}

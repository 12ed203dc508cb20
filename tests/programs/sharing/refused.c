/* A store that cannot happen: natively behind the end of the file, under the shim because a mapper that has to help is stopped and the
 * policy is that stores fail. Both end alike. */
#include "check.h"

#include <setjmp.h>

static unsigned char *at;
static sigjmp_buf escape;

static void on_bus(int signal, siginfo_t *information, void *context)
{
    (void)context;
    printf("signal %d, code %d, at byte %zd\n", signal, information->si_code, (unsigned char *)information->si_addr - at);
    fflush(stdout);
    siglongjmp(escape, 1);
}

enum { HANDLED, DEFAULT, BLOCKED, IGNORED, BLOCKED_AND_HANDLED };

static void store(int way)
{
    sigset_t bus;
    sigemptyset(&bus);
    sigaddset(&bus, SIGBUS);
    struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};
    if (way == HANDLED || way == BLOCKED_AND_HANDLED)
        CHECK(sigaction(SIGBUS, &action, NULL) == 0);
    if (way == BLOCKED || way == BLOCKED_AND_HANDLED)
        CHECK(sigprocmask(SIG_BLOCK, &bus, NULL) == 0);
    if (way == IGNORED)
        signal(SIGBUS, SIG_IGN);
    alarm(100);
    if (sigsetjmp(escape, 1) == 0) {
        *(volatile unsigned char *)(at + 77) = 1;
        printf("stored\n");
    }
}

int main(int count, char **arguments)
{
    (void)arguments;
    int fd = make_file("file", PAGE), status;
    pid_t mapper = count > 1 ? fork() : -1;
    if (mapper == 0) {
        snapshot(fd, 0, PAGE, PROT_READ);
        raise(SIGSTOP);
        _exit(0);
    }
    if (mapper > 0)
        CHECK(waitpid(mapper, &status, WUNTRACED) == mapper && WIFSTOPPED(status));
    else
        CHECK(ftruncate(fd, 0) == 0);
    at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED);
    for (int way = HANDLED; way <= BLOCKED_AND_HANDLED; way++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            store(way);
            fflush(stdout);
            _exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child);
        printf("way %d: %s %d\n", way, WIFSIGNALED(status) ? "signal" : "exit", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
    if (mapper > 0) {
        struct stat found;
        unsigned char bytes[PAGE];
        CHECK(fstat(fd, &found) == 0 && found.st_size == (off_t)PAGE && pread(fd, bytes, PAGE, 0) == (ssize_t)PAGE && shows(bytes, 0, PAGE, 0));
        CHECK(kill(mapper, SIGKILL) == 0 && waitpid(mapper, &status, 0) == mapper);
    }
    return 0;
}

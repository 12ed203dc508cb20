/* A handler of SIGCHLD finds the number of each child where posix_spawn(3) was told to store it, however soon the child ends: libc stores
 * it before it lets signals through. */
#include "check.h"

#include <spawn.h>

enum { CHILDREN = 1500 };

static volatile pid_t child;
static volatile int is_reaped, unknown;

static void on_end_of_child(int number)
{
    (void)number;
    for (pid_t ended; (ended = waitpid(-1, NULL, WNOHANG)) > 0; is_reaped = 1)
        unknown += ended != child;
}

int main(void)
{
    struct sigaction action = {.sa_handler = on_end_of_child, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGCHLD, &action, NULL) == 0);
    /* Without preloading, the child ends soonest. */
    char *arguments[] = {"true", NULL}, *environment[] = {NULL};
    for (int i = 0; i < CHILDREN; i++) {
        child = is_reaped = 0;
        CHECK(posix_spawn((pid_t *)&child, "/bin/true", NULL, NULL, arguments, environment) == 0);
        while (!is_reaped)
            usleep(50);
    }
    CHECK(unknown == 0);
    return 0;
}

/* damage_walk truncate|write: truncates or overwrites a file of which a stopped process has a snapshot, and so waits for that
 * process. The test damages the table meanwhile, and kills the process, whose pid is printed. */
#include "check.h"

enum { PAGES = 8, LONGEST_S = 20 };

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    int fd = make_file("file", PAGES * PAGE), status;
    pid_t mapper = fork();
    CHECK(mapper >= 0);
    if (mapper == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        snapshot(fd, 0, PAGES * PAGE, PROT_READ);
        raise(SIGSTOP);
        _exit(1);
    }
    CHECK(waitpid(mapper, &status, WUNTRACED) == mapper && WIFSTOPPED(status));
    printf("%d\n", mapper);
    fflush(stdout);
    alarm(LONGEST_S);
    if (strcmp(argv[1], "truncate") == 0)
        CHECK(ftruncate(fd, 0) == 0);
    else
        overwrite(fd, 0, PAGE, 1);
    return 0;
}

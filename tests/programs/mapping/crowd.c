/* crowd: eight processes with so many shared mappings that a look through them all takes a while. They stay until the input
 * ends. */
#include "check.h"

enum { PROCESSES = 8, MAPPINGS = 30000 };

int main(void)
{
    char byte;
    int fd = memfd_create("crowd", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)PAGE) == 0);
    /* The same page again and again: no two of them become one mapping. */
    for (int i = 0; i < MAPPINGS; i++)
        CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED);
    for (int i = 1; i < PROCESSES; i++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            pause();
        }
    }
    puts("here");
    fflush(stdout);
    return read(0, &byte, 1) == 0 ? 0 : 1;
}

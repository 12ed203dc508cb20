/* sealed PROGRAM ARGUMENT...: executes PROGRAM where no memory becomes executable later (PR_SET_MDWE), so that libc's code cannot be
 * patched. Exit status 3 if the kernel cannot do that. */
#include "check.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

int main(int argc, char **argv)
{
    CHECK(argc > 1);
    if (prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) != 0)
        return 3;
    execvp(argv[1], argv + 1);
    perror(argv[1]);
    return 1;
}

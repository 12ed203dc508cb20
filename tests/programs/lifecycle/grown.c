/* grown COUNT: COUNT processes, one after the other, each of which asks for a snapshot, says whether it is had, and stays. */
#include "check.h"

int main(int argc, char **argv)
{
    int said[2], stay[2];
    char byte;
    CHECK(argc == 2 && pipe(said) == 0 && pipe(stay) == 0);
    int file = make_file("file", 2 * PAGE);
    for (int i = 0; i < atoi(argv[1]); i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child > 0) {
            CHECK(read(said[0], &byte, 1) == 1);
            continue;
        }
        close(stay[1]);
        void *at = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, file, 0);
        puts(at != MAP_FAILED ? "taken" : errno == ENOSPC ? "ENOSPC" : strerror(errno));
        fflush(stdout);
        CHECK(at == MAP_FAILED || munmap(at, 2 * PAGE) == 0);
        /* A write goes on all the same. */
        CHECK(pwrite(file, "x", 1, 0) == 1 && write(said[1], "", 1) == 1);
        CHECK(read(stay[0], &byte, 1) == 0);
        _exit(0);
    }
    close(stay[1]);
    while (wait(NULL) > 0)
        ;
    return 0;
}

/* append_cleared FILE: appends to FILE while another process, which has the same open file, clears and sets O_APPEND. Where the bytes
 * go to the middle then, a snapshot either does not show them or says that it is not exact. */
#include "check.h"

enum { BYTES = 4 * 4096, MIDDLE = 4096, ROUNDS = 4000 };

int main(int argc, char **argv)
{
    static unsigned char before[BYTES];
    CHECK(argc == 2);
    int fd = make_file(argv[1], BYTES), broken = 0;
    pid_t other = fork();
    CHECK(other >= 0);
    if (other == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (int flag = 0;; flag ^= O_APPEND)
            CHECK(fcntl(fd, F_SETFL, flag) == 0);
    }
    for (int round = 0; round < ROUNDS; round++) {
        unsigned char byte = (unsigned char)(1 + round % 255);
        CHECK(pread(fd, before, BYTES, 0) == BYTES);
        unsigned char *at = snapshot(fd, 0, BYTES, PROT_READ);
        CHECK(lseek(fd, MIDDLE, SEEK_SET) == MIDDLE && write(fd, &byte, 1) == 1);
        if (stat_of(at).state == SNAPSHIM_EXACT)
            CHECK(memcmp(at, before, BYTES) == 0);
        else
            broken++;
        CHECK(munmap(at, BYTES) == 0);
    }
    CHECK(kill(other, SIGKILL) == 0 && waitpid(other, NULL, 0) == other);
    printf("%d of %d not exact\n", broken, ROUNDS);
    return 0;
}

/* hold FILE PROT SIZE [at-once|doubtful]: takes a snapshot of FILE's first SIZE bytes, prints "ready", and when standard input ends compares it
 * with a copy made before; with at-once, with a copy of the snapshot that was made right behind it. PROT is r or rw. Prints the
 * statistics of the snapshot, and why it is not exact; with doubtful, once they say that it is not exact any more, or half a minute later. */
#include "check.h"

int main(int argc, char **argv)
{
    CHECK(argc == 4 || argc == 5);
    size_t size = strtoul(argv[3], NULL, 0);
    int fd = open(argv[1], O_RDONLY);
    CHECK(fd >= 0);
    unsigned char *copy = malloc(size);
    int at_once = argc == 5 && strcmp(argv[4], "at-once") == 0, to_be_doubtful = argc == 5 && !at_once;
    CHECK(copy && (at_once || pread(fd, copy, size, 0) == (ssize_t)size));
    unsigned char *at = snapshot(fd, 0, size, strcmp(argv[2], "rw") == 0 ? PROT_READ | PROT_WRITE : PROT_READ);
    if (at_once)
        memcpy(copy, at, size);
    puts("ready");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    struct snapshim_stat stat;
    CHECK(snapshim_stat(at, &stat) == 0);
    for (int tries = 0; to_be_doubtful && stat.state == SNAPSHIM_EXACT && tries < 3000; tries++) {
        usleep(10000);
        CHECK(snapshim_stat(at, &stat) == 0);
    }
    printf("state=%d preserved=%llu\n", stat.state, (unsigned long long)stat.preserved);
    if (stat.cause != 0)
        printf("cause=%d\n", stat.cause);
    if (stat.state == SNAPSHIM_DOUBTFUL || stat.state == SNAPSHIM_BROKEN)
        printf("why=%s\n", why_of(at));
    fflush(stdout);
    if (memcmp(copy, at, size) != 0) {
        for (size_t i = 0; i < size; i++)
            if (copy[i] != at[i]) {
                printf("DIFFERS at byte %zu\n", i);
                return 1;
            }
    }
    puts("same");
    return 0;
}

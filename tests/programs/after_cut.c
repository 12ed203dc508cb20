/* after_cut FILE PAGE: what any process may want after another one died: a snapshot, and to write one page of the file, which nobody
 * else writes meanwhile. */
#include "check.h"

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    size_t offset = strtoul(argv[2], NULL, 0) * PAGE;
    int fd = open(argv[1], O_RDWR);
    CHECK(fd >= 0);
    for (unsigned char byte = 101; byte < 103; byte++) {
        unsigned char before[4096], after[4096];
        CHECK(pread(fd, before, PAGE, (off_t)offset) == (ssize_t)PAGE);
        unsigned char *at = snapshot(fd, offset, PAGE, PROT_READ | PROT_WRITE);
        CHECK(memcmp(at, before, PAGE) == 0);
        memset(after, byte, PAGE);
        CHECK(pwrite(fd, after, PAGE, (off_t)offset) == (ssize_t)PAGE);
        CHECK(memcmp(at, before, PAGE) == 0);
        CHECK(stat_of(at).state == 0);
        CHECK(munmap(at, PAGE) == 0);
        CHECK(pread(fd, before, PAGE, (off_t)offset) == (ssize_t)PAGE && memcmp(before, after, PAGE) == 0);
    }
    return 0;
}

/* after_kill FILE PAGE: what any process may want after another one died: a snapshot, and to write one page of the file. A process that
 * waited for the dead one may come through only now, and write the page once. */
#include "check.h"

static unsigned char before[4096], after[4096];

static void look(int fd, size_t offset, unsigned char *bytes)
{
    CHECK(pread(fd, bytes, PAGE, (off_t)offset) == (ssize_t)PAGE);
}

/* A snapshot of the page, which no process wrote while it was taken. */
static unsigned char *quiet_snapshot(int fd, size_t offset)
{
    for (;;) {
        look(fd, offset, before);
        unsigned char *at = snapshot(fd, offset, PAGE, PROT_READ | PROT_WRITE);
        look(fd, offset, after);
        if (memcmp(before, after, PAGE) == 0)
            return at;
        CHECK(munmap(at, PAGE) == 0);
    }
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    size_t offset = strtoul(argv[2], NULL, 0) * PAGE;
    int fd = open(argv[1], O_RDWR);
    CHECK(fd >= 0);
    for (unsigned char byte = 101; byte < 103; byte++) {
        unsigned char *at = quiet_snapshot(fd, offset);
        CHECK(memcmp(at, before, PAGE) == 0);
        memset(after, byte, PAGE);
        CHECK(pwrite(fd, after, PAGE, (off_t)offset) == (ssize_t)PAGE);
        CHECK(memcmp(at, before, PAGE) == 0);
        CHECK(stat_of(at).state == 0);
        CHECK(munmap(at, PAGE) == 0);
    }
    return 0;
}

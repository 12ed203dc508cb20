/* huge FILE: one call writes more than a gibibyte into a sparse file, of which this process holds snapshots in a few places. */
#include "check.h"

#define CALL (((size_t)1 << 30) + 12345)
#define START 4321
#define SIZE ((size_t)3 << 30)
#define PIECE (64 * PAGE)

static const size_t places[] = {0, (size_t)512 << 20, ((START + CALL) / PAGE - 32) * PAGE, (size_t)2 << 30};
enum { PLACES = sizeof places / sizeof places[0] };

/* Whether byte `at` is one that the call wrote. */
static int is_written(size_t at)
{
    return at >= START && at < START + CALL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && ftruncate(fd, SIZE) == 0);
    unsigned char *held[PLACES], *huge, now[4096];
    for (int i = 0; i < PLACES; i++) {
        overwrite(fd, places[i], PIECE, 0);
        held[i] = snapshot(fd, places[i], PIECE, i % 2 ? PROT_READ | PROT_WRITE : PROT_READ);
    }
    unsigned char *whole = snapshot(fd, 0, SIZE, PROT_READ);
    CHECK(munmap(whole + PIECE, SIZE - PIECE) == 0);

    /* Zeros that cost no memory. */
    huge = mmap(NULL, CALL, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(huge != MAP_FAILED);
    CHECK(pwrite(fd, huge, CALL, START) == (ssize_t)CALL);

    for (int i = 0; i < PLACES; i++) {
        CHECK(shows(held[i], places[i], PIECE, 0));
        for (size_t page = places[i]; page < places[i] + PIECE; page += PAGE) {
            CHECK(pread(fd, now, PAGE, (off_t)page) == (ssize_t)PAGE);
            for (size_t at = 0; at < PAGE; at++)
                CHECK(now[at] == (is_written(page + at) ? 0 : stamp(page / PAGE, 0)));
        }
    }
    CHECK(shows(whole, 0, PIECE, 0));
    CHECK(unlink(argv[1]) == 0);
    return 0;
}

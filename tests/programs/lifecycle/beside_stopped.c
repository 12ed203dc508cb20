/* beside_stopped FILE VERSION [cut]: what any process may want while another process is stopped in the middle of something. Takes a
 * snapshot and writes two pages, which no other process does meanwhile, or with cut makes the file shorter; either may be refused. Then
 * waits for the end of standard input, and says whether the snapshot still is what it was. */
#include "check.h"

#define PAGES ((size_t)8)
#define BYTES (PAGES * PAGE)

static const size_t ours[] = {0, 5};
static int fd;

/* What the snapshot shows: of each page the bytes, or that it faults. */
struct sight {
    int faults[8];
    unsigned char bytes[8 * 4096];
};

static void look(const unsigned char *at, struct sight *sight)
{
    for (size_t page = 0; page < PAGES; page++) {
        sight->faults[page] = fault_of_reading(at + page * PAGE);
        if (!sight->faults[page])
            memcpy(sight->bytes + page * PAGE, at + page * PAGE, PAGE);
    }
}

static void say_if_refused(int failed)
{
    if (!failed)
        return;
    CHECK(errno == ETIMEDOUT || errno == ENOSPC);
    puts("refused");
}

static void write_ours(int version)
{
    for (size_t i = 0; i < 2; i++) {
        errno = try_overwrite(fd, ours[i] * PAGE, PAGE, version);
        say_if_refused(errno != 0);
    }
}

int main(int argc, char **argv)
{
    static struct sight first, last;
    static unsigned char file[4096];
    CHECK(argc == 3 || argc == 4);
    alarm(200);
    fd = open(argv[1], O_RDWR);
    CHECK(fd >= 0);
    unsigned char *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_SNAPSHOT, fd, 0);
    say_if_refused(at == MAP_FAILED);
    if (at != MAP_FAILED) {
        look(at, &first);
        for (size_t i = 0; i < 2; i++)
            if (!first.faults[ours[i]]) {
                CHECK(pread(fd, file, PAGE, (off_t)(ours[i] * PAGE)) == (ssize_t)PAGE);
                CHECK(memcmp(first.bytes + ours[i] * PAGE, file, PAGE) == 0);
            }
    }
    if (argc == 4)
        say_if_refused(ftruncate(fd, 4 * PAGE) != 0);
    else
        write_ours(atoi(argv[2]));
    puts("ready");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    if (at == MAP_FAILED)
        return 0;
    look(at, &last);
    CHECK(memcmp(&first, &last, sizeof first) == 0);
    CHECK(stat_of(at).state == SNAPSHIM_EXACT);
    return 0;
}

/* A sequential writer fills the front of a sparse file of which there is a snapshot: no page behind it becomes a page of the file. */
#include "check.h"

enum { WRITTEN = 100, PAGES = 1600 };

static void pages_behind_a_sequential_writer_stay_holes(int protection, enum who who)
{
    int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && ftruncate(fd, PAGES * PAGE) == 0);
    struct writer writer = writer_before(who, "file");
    unsigned char *at = snapshot(fd, 0, PAGES * PAGE, protection);
    writer_after(&writer);
    for (size_t page = 0; page < WRITTEN; page++)
        writer_writes(&writer, page * PAGE, PAGE, 1);
    CHECK(lseek(fd, 0, SEEK_HOLE) == WRITTEN * (off_t)PAGE);
    for (size_t i = 0; i < PAGES * PAGE; i++)
        CHECK(at[i] == 0);
    CHECK(stat_of(at).state == SNAPSHIM_EXACT && stat_of(at).preserved == WRITTEN);
    writer_end(&writer);
}

static const struct scenario scenarios[] = {
    EACH(pages_behind_a_sequential_writer_stay_holes),
};

MAIN(scenarios)

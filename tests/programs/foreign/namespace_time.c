/* namespace_time HOW: holds a snapshot of a file and comes to another time namespace, whose clocks are far ahead: by fork, or
 * itself by setns. There it changes the file, looks at its snapshot and takes another. Exits with 77 where that cannot be done. */
#include "check.h"

#include <sched.h>
#include <time.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

enum { SIZE = 8 * 4096 };

static void change_and_look(int fd, const unsigned char *at, int before)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0 && now.tv_sec > 500000);
    unsigned char *own = snapshot(fd, 0, SIZE, PROT_READ);
    CHECK(try_overwrite(fd, 0, SIZE, before + 1) == 0);
    CHECK(shows(own, 0, SIZE, before) && stat_of(own).state == SNAPSHIM_EXACT);
    CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    int fd = make_file("victim", SIZE);
    unsigned char *at = snapshot(fd, 0, SIZE, PROT_READ);
    if (unshare(CLONE_NEWTIME) != 0)
        return 77;
    int offsets = open("/proc/self/timens_offsets", O_WRONLY);
    const char text[] = "monotonic 1000000 0\nboottime 2000000 5000000\n";
    CHECK(offsets >= 0 && write(offsets, text, sizeof text - 1) == sizeof text - 1);
    close(offsets);
    if (strcmp(argv[1], "fork") == 0) {
        IN_CHILD(change_and_look(fd, at, 0));
        CHECK(try_overwrite(fd, 0, SIZE, 2) == 0);
    } else {
        int space = open("/proc/self/ns/time_for_children", O_RDONLY);
        CHECK(space >= 0);
        if (setns(space, CLONE_NEWTIME) != 0)
            return 77;
        change_and_look(fd, at, 0);
        IN_CHILD(change_and_look(fd, at, 1));
    }
    CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
    return 0;
}

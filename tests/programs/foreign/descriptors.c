/* descriptors FILE: takes and drops snapshots; no descriptor that leads to FILE is left, and each one in between closes on exec. */
#include "check.h"

#include <dirent.h>

static int leading_to(const struct stat *file)
{
    int count = 0;
    DIR *open_ones = opendir("/proc/self/fd");
    CHECK(open_ones);
    for (struct dirent *entry; (entry = readdir(open_ones));) {
        struct stat found;
        int number = atoi(entry->d_name);
        if (number != dirfd(open_ones) && fstat(number, &found) == 0 && found.st_ino == file->st_ino && found.st_dev == file->st_dev) {
            CHECK(fcntl(number, F_GETFD) & FD_CLOEXEC);
            count++;
        }
    }
    closedir(open_ones);
    return count;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    struct stat file;
    for (int turn = 0; turn < 200; turn++) {
        int fd = open(argv[1], O_RDWR | O_CLOEXEC);
        CHECK(fd >= 0 && fstat(fd, &file) == 0);
        unsigned char *one = snapshot(fd, 0, 4 * PAGE, PROT_READ), *two = snapshot(fd, 0, 4 * PAGE, PROT_READ);
        close(fd);
        CHECK(leading_to(&file) == 1);
        CHECK(munmap(one, 4 * PAGE) == 0 && leading_to(&file) == 1);
        CHECK(munmap(two, 4 * PAGE) == 0 && leading_to(&file) == 0);
    }
    /* More origins than are watched are snapshots all the same. */
    for (int turn = 0; turn < 100; turn++) {
        char name[64];
        snprintf(name, sizeof name, "origin%d", turn);
        int fd = make_file(name, PAGE);
        unsigned char *at = snapshot(fd, 0, PAGE, PROT_READ);
        overwrite(fd, 0, PAGE, 1);
        CHECK(shows(at, 0, PAGE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
        close(fd);
    }
    return 0;
}

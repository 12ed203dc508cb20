/* change FILE VERB: what programs without the shim do to a file; linked statically, so that no preloading reaches it. */
#include "check.h"

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    const char *path = argv[1], *verb = argv[2];
    char other[4096];
    snprintf(other, sizeof other, "%s.other", path);
    if (strcmp(verb, "write") == 0) {
        int fd = open(path, O_WRONLY);
        CHECK(fd >= 0 && pwrite(fd, "foreign", 7, 4096 + 100) == 7);
    } else if (strcmp(verb, "cut") == 0) {
        CHECK(truncate(path, 4096 * 3 + 5) == 0);
    } else if (strcmp(verb, "attributes") == 0) {
        CHECK(chmod(path, 0640) == 0 && chmod(path, 0600) == 0 && chown(path, getuid(), getgid()) == 0);
        CHECK(link(path, other) == 0 && unlink(other) == 0);
        CHECK(rename(path, other) == 0 && rename(other, path) == 0);
        int fd = open(path, O_RDWR);
        char byte;
        CHECK(fd >= 0 && pread(fd, &byte, 1, 0) == 1 && fsync(fd) == 0);
    } else {
        fprintf(stderr, "no verb %s\n", verb);
        return 2;
    }
    return 0;
}

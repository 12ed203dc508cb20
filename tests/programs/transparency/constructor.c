/* A library whose constructor overwrites the file VICTIM, in the way HOW: before or after the shim's own constructor ran. */
#include "check.h"

#include <sys/uio.h>

__attribute__((constructor)) static void write_at_once(void)
{
    const char *victim = getenv("VICTIM"), *how = getenv("HOW");
    if (!victim || !how)
        return;
    /* Programs that this one starts shall not do it again. */
    unsetenv("VICTIM");
    if (strcmp(how, "stdio") == 0) {
        FILE *file = fopen(victim, "r+");
        CHECK(file);
        for (int line = 0; line < 500; line++)
            fprintf(file, "constructor, line %d\n", line);
        CHECK(fclose(file) == 0);
        return;
    }
    int fd = open(victim, O_WRONLY);
    CHECK(fd >= 0);
    struct iovec one = {"constructor", 11};
    CHECK(write(fd, "constructor", 11) == 11);
    CHECK(pwrite(fd, "constructor", 11, 4090) == 11);
    CHECK(writev(fd, &one, 1) == 11);
    CHECK(pwritev(fd, &one, 1, 20000) == 11);
    CHECK(close(fd) == 0);
}

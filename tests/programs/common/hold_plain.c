/* hold_plain FILE SIZE: like hold, with a plain private mapping: it has to see what others change. */
#include "check.h"

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    size_t size = strtoul(argv[2], NULL, 0);
    int fd = open(argv[1], O_RDONLY);
    CHECK(fd >= 0);
    unsigned char *copy = malloc(size);
    CHECK(copy && pread(fd, copy, size, 0) == (ssize_t)size);
    unsigned char *at = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(at != MAP_FAILED);
    puts("ready");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    puts(memcmp(copy, at, size) == 0 ? "same" : "DIFFERS");
    return 0;
}

/* linger FILE: changes the file, says so, and goes on until its standard input ends; linked statically, so that no preloading reaches
 * it. */
#include "check.h"

int main(int argc, char **argv)
{
    char byte;
    CHECK(argc == 2);
    int fd = open(argv[1], O_WRONLY);
    CHECK(fd >= 0 && pwrite(fd, "foreign", 7, 4096 + 100) == 7);
    puts("ready");
    fflush(stdout);
    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}

/* hold_shared FILE: maps a page of FILE shared and writable, stores into it, prints "ready" and waits for its end. */
#include "check.h"

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    int fd = open(argv[1], O_RDWR);
    CHECK(fd >= 0);
    char *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED);
    at[0] = 's';
    puts("ready");
    fflush(stdout);
    for (;;)
        pause();
}

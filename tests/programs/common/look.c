/* look FILE SIZE: takes a snapshot of FILE, whose bytes are all alike, prints "ready", and when standard input ends looks whether they
 * still are. Unlike hold, it has no memory of its own for them. */
#include "check.h"

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    size_t size = strtoul(argv[2], NULL, 0);
    int fd = open(argv[1], O_RDONLY);
    CHECK(fd >= 0);
    unsigned char *at = snapshot(fd, 0, size, PROT_READ), first = at[0];
    puts("ready");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    printf("state=%d \n", stat_of(at).state);
    if (fault_of_reading(at) != 0) {
        puts("faults");
        return 0;
    }
    for (size_t i = 0; i < size; i += PAGE)
        CHECK(at[i] == first);
    puts("same");
    return 0;
}

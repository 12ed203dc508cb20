/* What a mapper executes: maps a file where the mapper had its snapshot, and looks whether any process touched it there.
 * Also built without the shim in reach: static, unreadable, setuid. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGES = 64, SIZE = PAGES * 4096, BAIT = 0xb7 };

/* life_target ADDRESS READY-FD GO-FD */
int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    unsigned char *wanted = (unsigned char *)strtoull(argv[1], NULL, 16), byte = 0;
    int ready = atoi(argv[2]), go = atoi(argv[3]), file = open("bait", O_RDONLY);
    unsigned char *at = mmap(wanted, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED_NOREPLACE, file, 0);
    if (at != wanted)
        return 3;
    for (size_t i = 0; i < SIZE; i++)
        if (at[i] != BAIT)
            return 4;
    if (write(ready, &byte, 1) != 1 || read(go, &byte, 1) != 1)
        return 5;
    for (size_t i = 0; i < SIZE; i++)
        if (at[i] != BAIT)
            return 6;
    /* Whom others may not look into may not look at this either. */
    int pagemap = open("/proc/self/pagemap", O_RDONLY);
    for (size_t page = 0; pagemap >= 0 && page < PAGES; page++) {
        uint64_t entry;
        if (pread(pagemap, &entry, 8, (off_t)(((uintptr_t)at / 4096 + page) * 8)) != 8)
            return 7;
        if (!(entry >> 61 & 1))
            return 8;
    }
    return 0;
}

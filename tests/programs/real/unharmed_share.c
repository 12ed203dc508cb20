/* A preloaded library that gives every process a shared, writable mapping of $UNHARMED_SHARED and stores into it: another process has a
 * snapshot of that file, so the process has an agent and armed pages, its SIGSEGV is the shim's, and the store traps. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 4 };

__attribute__((constructor)) static void share(void)
{
    const char *name = getenv("UNHARMED_SHARED");
    int fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    volatile unsigned char *at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED)
        at[PAGE]++;
}

/* Takes a snapshot of a file and shows that it stays as it was.
 *
 *     cc -I shim/include examples/snapshot.c -o snapshot
 *     LD_PRELOAD=target/release/libsnapshim.so ./snapshot FILE
 *     (in another shell) LD_PRELOAD=target/release/libsnapshim.so dd if=/dev/urandom of=FILE bs=4k count=1 conv=notrunc */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "snapshim.h"

static unsigned long checksum(const unsigned char *at, size_t length)
{
    unsigned long sum = 0;
    while (length--)
        sum = sum * 31 + *at++;
    return sum;
}

int main(int argc, char **argv)
{
    struct stat file;
    int fd = argc == 2 ? open(argv[1], O_RDONLY) : -1;
    if (fd < 0 || fstat(fd, &file) != 0)
        return perror("usage: snapshot FILE"), 1;
    if (!snapshim_active()) /* the kernel would ignore the flag */
        return fputs("not running under libsnapshim.so\n", stderr), 1;

    size_t length = (size_t)file.st_size;
    unsigned char *at = mmap(NULL, length, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, fd, 0);
    if (at == MAP_FAILED)
        return perror("mmap"), 1;
    printf("checksum %016lx; change the file, then press Enter\n", checksum(at, length));
    getchar();

    struct snapshim_stat stat;
    if (snapshim_stat(at, &stat) != 0 || stat.state != SNAPSHIM_EXACT)
        return fputs("the snapshot could not be kept\n", stderr), 1;
    printf("checksum %016lx; %lu of %lu pages were preserved\n", checksum(at, length), stat.preserved, stat.pages);
    return 0;
}

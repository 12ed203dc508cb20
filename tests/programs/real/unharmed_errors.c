/* Does what checkers of memory look for: its argument says what. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LENGTH = 100 };

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "nothing";
    volatile size_t too_long = LENGTH + 1;
    char *heap = malloc(LENGTH);
    memset(heap, 'x', LENGTH);
    int fd = open("written", O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (write(fd, heap, LENGTH) != LENGTH)
        return 1;
    if (strcmp(what, "write") == 0)
        return write(fd, heap, too_long) < 0;
    if (strcmp(what, "read") == 0)
        return pread(fd, heap, too_long, 0) < 0;
    if (strcmp(what, "stdio") == 0) {
        FILE *file = fopen("written", "w");
        return fwrite(heap, 1, too_long, file) != too_long || fclose(file);
    }
    if (strcmp(what, "fault") == 0)
        *(volatile char *)16 = 1;
    if (strcmp(what, "leak") != 0)
        free(heap);
    if (strcmp(what, "freed") == 0)
        return ((volatile char *)heap)[1] == 'x';
    heap = NULL;
    puts("done");
    return 0;
}

/* fork_beside FILE: takes a snapshot, prints "ready"; when a byte comes on standard input it forks and prints "forked"; when that ends,
 * both say whether they show what the file held at first. */
#include "check.h"

#define PAGES ((size_t)8)
#define BYTES (PAGES * PAGE)

static void say(const char *who, const unsigned char *at, const unsigned char *first, int may_fault)
{
    for (size_t page = 0; page < PAGES; page++) {
        int fault = fault_of_reading(at + page * PAGE);
        if (fault ? !may_fault : memcmp(at + page * PAGE, first + page * PAGE, PAGE) != 0)
            printf("%s: page %zu is WRONG\n", who, page);
    }
}

int main(int argc, char **argv)
{
    static unsigned char first[BYTES];
    CHECK(argc == 2);
    alarm(200);
    int fd = open(argv[1], O_RDONLY);
    CHECK(fd >= 0 && pread(fd, first, BYTES, 0) == (ssize_t)BYTES);
    unsigned char *at = snapshot(fd, 0, BYTES, PROT_READ | PROT_WRITE);
    puts("ready");
    fflush(stdout);
    char byte;
    if (read(0, &byte, 1) != 1)
        return 0;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child > 0) {
        puts("forked");
        fflush(stdout);
    }
    while (read(0, &byte, 1) > 0)
        ;
    say(child ? "parent" : "child", at, first, child == 0);
    fflush(stdout);
    if (child == 0)
        _exit(0);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    return 0;
}

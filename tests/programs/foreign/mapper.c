/* mapper FILE HOW: maps FILE shared and writable, prints "ready", and stores a byte into its second page for each line
 * that it reads, answering "stored", until standard input ends. HOW is mmap: by libc's function; leaderless: so, and its first
 * thread has ended; raw: by a system call instruction of its own, in a process that has used it and other files by libc before.
 * Linked statically or not. */
#include "check.h"

#include <pthread.h>

static void *map(int fd, int is_raw)
{
    if (!is_raw)
        return mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    register long descriptor asm("r8") = fd, offset asm("r9") = 0, flags asm("r10") = MAP_SHARED;
    void *at;
    asm volatile("syscall" : "=a"(at)
                 : "a"(9L), "D"(0L), "S"(4 * PAGE), "d"((long)(PROT_READ | PROT_WRITE)), "r"(flags), "r"(descriptor), "r"(offset)
                 : "rcx", "r11", "memory");
    return at;
}

static void *store(void *memory)
{
    volatile char *at = memory;
    puts("ready");
    fflush(stdout);
    char byte;
    for (int turn = 0; read(0, &byte, 1) > 0; turn++) {
        at[PAGE + turn % PAGE] = 'f';
        puts("stored");
        fflush(stdout);
    }
    exit(0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    int is_raw = strcmp(argv[2], "raw") == 0;
    if (is_raw) {
        int other = open("other", O_RDWR | O_CREAT, 0600);
        CHECK(other >= 0 && write(other, "other", 5) == 5);
        /* Among many others it had the file mapped by libc. Nothing of that is left. */
        for (int page = 0; page < 64; page++)
            CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, other, page % 2 * (off_t)PAGE) != MAP_FAILED);
    }
    int fd = open(argv[1], O_RDWR);
    CHECK(fd >= 0);
    if (is_raw)
        CHECK(munmap(map(fd, 0), 4 * PAGE) == 0);
    void *at = map(fd, is_raw);
    CHECK((long)at > 0);
    if (strcmp(argv[2], "leaderless") == 0) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, store, at) == 0);
        pthread_exit(NULL);
    }
    store(at);
}

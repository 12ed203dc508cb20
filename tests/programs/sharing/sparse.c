/* sparse FILE: stores at random places of a mapping of 64 GiB while another process holds a snapshot of all of it. The kernel
 * never runs out of mappings for it, the program has enough left for its own, the snapshot shows none of the stores, and the process
 * that holds it pays for little more than what was stored into. */
#include "check.h"

enum { STORES = 40000, OF_ITS_OWN = 10000 };

static const size_t size = (size_t)64 << 30;

static size_t place(uint64_t number)
{
    uint64_t mixed = number * 0x9e3779b97f4a7c15;
    mixed ^= mixed >> 29;
    mixed *= 0xbf58476d1ce4e5b9;
    return (mixed >> 32) % (size / 8) * 8;
}

static size_t lines_of(const char *path)
{
    FILE *lines = fopen(path, "r");
    CHECK(lines);
    size_t count = 0;
    for (int byte; (byte = fgetc(lines)) != EOF;)
        count += byte == '\n';
    fclose(lines);
    return count;
}

static unsigned long number_in(const char *path, const char *format)
{
    FILE *lines = fopen(path, "r");
    char line[256];
    unsigned long number = 0;
    CHECK(lines);
    while (fgets(line, sizeof line, lines) && sscanf(line, format, &number) != 1)
        ;
    fclose(lines);
    return number;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    volatile unsigned char *words = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(words != MAP_FAILED);

    int told[2], done[2];
    char byte = 0;
    CHECK(pipe(told) == 0 && pipe(done) == 0);
    pid_t mapper = fork();
    CHECK(mapper >= 0);
    if (mapper == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        CHECK(munmap((void *)words, size) == 0);
        /* Opened anew: the kernel reads ahead by what it saw of one open file, and hits of the stores would hide the misses here. */
        int own = open(argv[1], O_RDONLY), flags = MAP_PRIVATE | MAP_SNAPSHOT | MAP_NORESERVE;
        unsigned char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, own, 0);
        CHECK(at != MAP_FAILED);
        CHECK(write(told[1], &byte, 1) == 1 && read(done[0], &byte, 1) == 1);
        printf("memory of the mapper: %lu MiB\n", number_in("/proc/self/status", "RssAnon: %lu") / 1024);
        for (uint64_t number = 1; number <= STORES; number++)
            CHECK(*(uint64_t *)(at + place(number)) == 0);
        CHECK(stat_of(at).state == SNAPSHIM_EXACT);
        printf("preserved: %lu pages\n", (unsigned long)stat_of(at).preserved);
        CHECK(stat_of(at).preserved <= STORES + 1);
        exit(0);
    }
    close(told[1]);
    CHECK(read(told[0], &byte, 1) == 1);

    unsigned long limit = number_in("/proc/sys/vm/max_map_count", "%lu");
    size_t most = 0;
    for (uint64_t number = 1; number <= STORES; number++) {
        *(volatile uint64_t *)(words + place(number)) = number;
        if (number % 4000 == 0) {
            size_t lines = lines_of("/proc/self/maps");
            most = lines > most ? lines : most;
        }
    }
    printf("at most %zu mappings of %lu\n", most, limit);
    CHECK(most < limit / 8 * 2 + 200);

    unsigned char *reserved = mmap(NULL, 2 * OF_ITS_OWN * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(reserved != MAP_FAILED);
    for (size_t i = 0; i < OF_ITS_OWN; i++)
        CHECK(mprotect(reserved + 2 * i * PAGE, PAGE, PROT_READ | PROT_WRITE) == 0);
    for (uint64_t number = 1; number <= STORES; number++) {
        uint64_t found;
        CHECK(pread(fd, &found, 8, (off_t)place(number)) == 8 && found == number);
    }
    CHECK(write(done[1], &byte, 1) == 1);
    int status;
    CHECK(waitpid(mapper, &status, 0) == mapper && status == 0);
    return 0;
}

/* stamps write BLOCKS FILE...: fills the files with BLOCKS blocks of 4 KiB each, prints "ready", and writes blocks at random, as fast
 *     as it can, until standard input ends; then it prints how many blocks it wrote a second. Each block is full of the number of its
 *     write.
 * stamps check BLOCKS FILE...: the files are as they were after one of those writes, all of them after the same: the order of the
 *     writes is known, so each block can be told. Prints the number of that write. */
#include "check.h"

#include <fcntl.h>
#include <time.h>

#define FILES 64
#define WORDS (PAGE / sizeof(uint64_t))

static uint64_t blocks, block[WORDS];
static int count, files[FILES];

/* Where write `number` goes: splitmix64. */
static uint64_t place(uint64_t number)
{
    uint64_t z = number * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % (blocks * (uint64_t)count);
}

static void put(uint64_t where, uint64_t number)
{
    for (size_t i = 0; i < WORDS; i++)
        block[i] = number;
    CHECK(pwrite(files[where % (uint64_t)count], block, PAGE, (off_t)(where / (uint64_t)count * PAGE)) == PAGE);
}

static double seconds(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void write_blocks(void)
{
    for (uint64_t where = 0; where < blocks * (uint64_t)count; where++)
        put(where, 1);
    puts("ready");
    fflush(stdout);
    CHECK(fcntl(0, F_SETFL, fcntl(0, F_GETFL) | O_NONBLOCK) == 0);
    double start = seconds();
    uint64_t number = 2;
    char byte;
    /* Nothing to read yet is an error, the end is none. */
    while (number % 256 != 0 || read(0, &byte, 1) != 0) {
        put(place(number), number);
        number++;
    }
    printf("%.0f\n", (double)(number - 2) / (seconds() - start));
}

static void check_blocks(void)
{
    uint64_t all = blocks * (uint64_t)count, last = 1;
    uint64_t *found = malloc(all * sizeof *found), *wanted = malloc(all * sizeof *wanted);
    CHECK(found && wanted);
    for (uint64_t where = 0; where < all; where++) {
        off_t offset = (off_t)(where / (uint64_t)count * PAGE);
        CHECK(pread(files[where % (uint64_t)count], block, PAGE, offset) == PAGE);
        for (size_t i = 1; i < WORDS; i++)
            CHECK(block[i] == block[0]);
        found[where] = block[0];
        wanted[where] = 1;
        last = block[0] > last ? block[0] : last;
    }
    for (uint64_t number = 2; number <= last; number++)
        wanted[place(number)] = number;
    for (uint64_t where = 0; where < all; where++)
        CHECK(found[where] == wanted[where]);
    for (int i = 0; i < count; i++)
        CHECK(lseek(files[i], 0, SEEK_END) == (off_t)(blocks * PAGE));
    printf("%llu\n", (unsigned long long)last);
}

int main(int argc, char **argv)
{
    CHECK(argc >= 4 && argc - 3 <= FILES);
    int is_writer = strcmp(argv[1], "write") == 0;
    CHECK(is_writer || strcmp(argv[1], "check") == 0);
    blocks = strtoul(argv[2], NULL, 0);
    for (count = 0; count < argc - 3; count++) {
        files[count] = open(argv[3 + count], is_writer ? O_RDWR | O_CREAT | O_TRUNC : O_RDONLY, 0600);
        CHECK(files[count] >= 0);
    }
    if (is_writer)
        write_blocks();
    else
        check_blocks();
    return 0;
}

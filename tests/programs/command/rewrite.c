/* rewrite write BLOCKS FILE: writes FILE anew, again and again, until standard input ends: truncates it to nothing, and
 *     fills it from the front with blocks of 4 KiB that hold the number of the round, every fourth one a hole. Prints "ready" after the
 *     first round.
 * rewrite check FILE: all blocks are of one round and without a gap, as at one instant. Prints round and blocks. */
#include "check.h"

#define WORDS (PAGE / sizeof(uint64_t))

static uint64_t block[WORDS];

static void write_round(int file, uint64_t round, uint64_t blocks)
{
    CHECK(ftruncate(file, 0) == 0);
    for (size_t i = 0; i < WORDS; i++)
        block[i] = round;
    for (uint64_t at = 0; at < blocks; at++) {
        if (at % 4 == 3)
            CHECK(ftruncate(file, (off_t)((at + 1) * PAGE)) == 0);
        else
            CHECK(pwrite(file, block, PAGE, (off_t)(at * PAGE)) == PAGE);
    }
}

static void write_rounds(int file, uint64_t blocks)
{
    write_round(file, 1, blocks);
    puts("ready");
    fflush(stdout);
    CHECK(fcntl(0, F_SETFL, fcntl(0, F_GETFL) | O_NONBLOCK) == 0);
    char byte;
    for (uint64_t round = 2; read(0, &byte, 1) != 0; round++)
        write_round(file, round, blocks);
    puts("0");
}

static void check_round(int file)
{
    off_t size = lseek(file, 0, SEEK_END);
    CHECK(size >= 0 && size % (off_t)PAGE == 0);
    uint64_t round = 0;
    for (uint64_t at = 0; at < (uint64_t)size / PAGE; at++) {
        CHECK(pread(file, block, PAGE, (off_t)(at * PAGE)) == PAGE);
        round = at == 0 ? block[0] : round;
        for (size_t i = 0; i < WORDS; i++)
            CHECK(block[i] == (at % 4 == 3 ? 0 : round));
    }
    printf("%llu %llu\n", (unsigned long long)round, (unsigned long long)size / PAGE);
}

int main(int argc, char **argv)
{
    CHECK(argc >= 3);
    int is_writer = strcmp(argv[1], "write") == 0;
    CHECK(is_writer || strcmp(argv[1], "check") == 0);
    int file = open(argv[argc - 1], is_writer ? O_RDWR | O_CREAT : O_RDONLY, 0600);
    CHECK(file >= 0);
    if (is_writer)
        write_rounds(file, strtoul(argv[2], NULL, 0));
    else
        check_round(file);
    return 0;
}

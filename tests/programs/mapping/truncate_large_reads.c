/* Threads read much at once from a file into a writable snapshot, at offsets, at the file position and with O_DIRECT, while its file is
 * cut to nothing: no call fails, no byte of what came is lost, and no other byte changes. */
#include "check.h"

#include <pthread.h>

enum { CHUNK_PAGES = 64, CHUNKS = 16, READERS = 3, ROUNDS = 4, MOST = 100000 };
#define CHUNK (CHUNK_PAGES * PAGE)
#define PART (CHUNKS * CHUNK)

static const char *const names[READERS] = {"at", "on", "direct"};
static unsigned char *at;
static volatile int is_over, has_begun[READERS];
/* The last that each reader put into a chunk of its part; 0: nothing. */
static unsigned char put[READERS][CHUNKS];
static int source[READERS];

static void fill(size_t me, unsigned char mark)
{
    static unsigned char bytes[READERS][CHUNK] __attribute__((aligned(4096)));
    memset(bytes[me], mark, CHUNK);
    CHECK(pwrite(source[me], bytes[me], CHUNK, 0) == (ssize_t)CHUNK);
}

static void receive(size_t me, unsigned char *to)
{
    if (me != 1) {
        CHECK(pread(source[me], to, CHUNK, 0) == (ssize_t)CHUNK);
        return;
    }
    CHECK(lseek(source[me], 0, SEEK_SET) == 0);
    for (size_t done = 0; done < CHUNK;) {
        ssize_t got = read(source[me], to + done, CHUNK - done);
        CHECK(got > 0);
        done += (size_t)got;
        CHECK(lseek(source[me], 0, SEEK_CUR) == (off_t)done);
    }
}

static void *read_on(void *argument)
{
    size_t me = (size_t)argument;
    unsigned seed = (unsigned)me + 7;
    for (long count = 0; !is_over && count < MOST; count++) {
        size_t chunk = (size_t)rand_r(&seed) % CHUNKS;
        unsigned char mark = (unsigned char)(1 + rand_r(&seed) % 255);
        fill(me, mark);
        receive(me, at + me * PART + chunk * CHUNK);
        put[me][chunk] = mark;
        has_begun[me] = 1;
    }
    return NULL;
}

int main(void)
{
    for (size_t i = 0; i < READERS; i++) {
        source[i] = open(names[i], O_RDWR | O_CREAT | O_TRUNC | (i == 2 ? O_DIRECT : 0), 0600);
        if (source[i] < 0)
            source[i] = open(names[i], O_RDWR | O_CREAT | O_TRUNC, 0600);
        CHECK(source[i] >= 0);
    }
    for (int round = 0; round < ROUNDS; round++) {
        int fd = make_file("cut", READERS * PART);
        at = snapshot(fd, 0, READERS * PART, PROT_READ | PROT_WRITE);
        memset(put, 0, sizeof put);
        is_over = 0;
        pthread_t readers[READERS];
        for (size_t i = 0; i < READERS; i++) {
            has_begun[i] = 0;
            CHECK(pthread_create(&readers[i], NULL, read_on, (void *)i) == 0);
        }
        for (size_t i = 0; i < READERS; i++)
            while (!has_begun[i])
                usleep(100);
        CHECK(ftruncate(fd, 0) == 0);
        is_over = 1;
        for (size_t i = 0; i < READERS; i++)
            CHECK(pthread_join(readers[i], NULL) == 0);
        for (size_t page = 0; page < READERS * PART / PAGE; page++) {
            size_t chunk = page / CHUNK_PAGES;
            unsigned char mark = put[chunk / CHUNKS][chunk % CHUNKS], wanted[PAGE];
            memset(wanted, mark ? mark : stamp(page, 0), PAGE);
            CHECK(memcmp(at + page * PAGE, wanted, PAGE) == 0);
        }
        CHECK(stat_of(at).state == SNAPSHIM_EXACT && munmap(at, READERS * PART) == 0);
        close(fd);
    }
    return 0;
}

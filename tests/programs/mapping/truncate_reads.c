/* truncate_reads little|much: threads read into a writable snapshot while its file is truncated to nothing: no call fails, no byte of what
 * came is lost, and no other byte changes. They read a little, from a file, a pipe and a socket; or much at once from a file, at offsets,
 * at the file position and with O_DIRECT. Once the kernel found the range that was being moved closed to it (EFAULT). */
#include "check.h"

#include <pthread.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { READERS = 3, ROUNDS = 4, LITTLE_PAGES = 4096, CHUNK_PAGES = 64, CHUNKS = 16, MUCH_PAGES = READERS * CHUNKS * CHUNK_PAGES };
#define CHUNK (CHUNK_PAGES * PAGE)

/* Each reader has places of its own, each of which gets the same byte as often as it is read into. */
struct reading {
    const char *name;
    size_t pages, places;
    long most;
    void (*open)(void);
    size_t (*length)(size_t reader);
    /* Where a place is, from the beginning of the snapshot. */
    size_t (*start)(size_t reader, size_t place);
    void (*receive)(size_t reader, unsigned char *to, const unsigned char *bytes);
};

static const struct reading *reading;
static unsigned char *at;
static volatile int is_over, has_begun[READERS];
/* The last that each reader put into a place; 0: nothing. */
static unsigned char put[READERS][LITTLE_PAGES];
static int source[READERS][2];

static void open_little(void)
{
    source[0][0] = open("read", O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(source[0][0] >= 0 && pipe(source[1]) == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, source[2]) == 0);
}

static size_t length_of_little(size_t reader)
{
    return reader == 0 ? 1000 : 900;
}

/* A part of each page, which crosses no page. */
static size_t start_of_little(size_t reader, size_t place)
{
    return place * PAGE + reader * 1000;
}

static void receive_little(size_t reader, unsigned char *to, const unsigned char *bytes)
{
    size_t length = length_of_little(reader);
    if (reader == 0) {
        CHECK(pwrite(source[0][0], bytes, length, 0) == (ssize_t)length);
        CHECK(pread(source[0][0], to, length, 0) == (ssize_t)length);
        return;
    }
    CHECK(write(source[reader][1], bytes, length) == (ssize_t)length);
    if (reader == 1) {
        struct iovec halves[2] = {{to, 400}, {to + 400, length - 400}};
        CHECK(readv(source[1][0], halves, 2) == (ssize_t)length);
    } else {
        struct iovec whole = {to, length};
        struct msghdr message = {.msg_iov = &whole, .msg_iovlen = 1};
        CHECK(recvmsg(source[2][0], &message, 0) == (ssize_t)length);
    }
}

static void open_much(void)
{
    static const char *const names[READERS] = {"at", "on", "direct"};
    for (size_t i = 0; i < READERS; i++) {
        source[i][0] = open(names[i], O_RDWR | O_CREAT | O_TRUNC | (i == 2 ? O_DIRECT : 0), 0600);
        if (source[i][0] < 0)
            source[i][0] = open(names[i], O_RDWR | O_CREAT | O_TRUNC, 0600);
        CHECK(source[i][0] >= 0);
    }
}

static size_t length_of_much(size_t reader)
{
    (void)reader;
    return CHUNK;
}

static size_t start_of_much(size_t reader, size_t place)
{
    return (reader * CHUNKS + place) * CHUNK;
}

static void receive_much(size_t reader, unsigned char *to, const unsigned char *bytes)
{
    int fd = source[reader][0];
    CHECK(pwrite(fd, bytes, CHUNK, 0) == (ssize_t)CHUNK);
    if (reader != 1) {
        CHECK(pread(fd, to, CHUNK, 0) == (ssize_t)CHUNK);
        return;
    }
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    for (size_t done = 0; done < CHUNK;) {
        ssize_t got = read(fd, to + done, CHUNK - done);
        CHECK(got > 0);
        done += (size_t)got;
        CHECK(lseek(fd, 0, SEEK_CUR) == (off_t)done);
    }
}

static const struct reading readings[] = {
    {"little", LITTLE_PAGES, LITTLE_PAGES, 200000, open_little, length_of_little, start_of_little, receive_little},
    {"much", MUCH_PAGES, CHUNKS, 100000, open_much, length_of_much, start_of_much, receive_much},
};

static void *read_on(void *argument)
{
    static unsigned char bytes[READERS][CHUNK] __attribute__((aligned(4096)));
    size_t me = (size_t)argument;
    unsigned seed = (unsigned)me + 7;
    for (long count = 0; !is_over && count < reading->most; count++) {
        size_t place = (size_t)rand_r(&seed) % reading->places;
        unsigned char mark = (unsigned char)(1 + rand_r(&seed) % 255);
        memset(bytes[me], mark, reading->length(me));
        reading->receive(me, at + reading->start(me, place), bytes[me]);
        put[me][place] = mark;
        has_begun[me] = 1;
    }
    return NULL;
}

/* What the snapshot shows: the file's bytes but where readers put others. */
static void check_all(void)
{
    unsigned char *wanted = malloc(reading->pages * PAGE);
    CHECK(wanted);
    for (size_t page = 0; page < reading->pages; page++)
        memset(wanted + page * PAGE, stamp(page, 0), PAGE);
    for (size_t reader = 0; reader < READERS; reader++)
        for (size_t place = 0; place < reading->places; place++)
            if (put[reader][place])
                memset(wanted + reading->start(reader, place), put[reader][place], reading->length(reader));
    CHECK(memcmp(at, wanted, reading->pages * PAGE) == 0);
    free(wanted);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    reading = &readings[strcmp(argv[1], "much") == 0];
    CHECK(strcmp(argv[1], reading->name) == 0);
    reading->open();
    for (int round = 0; round < ROUNDS; round++) {
        int fd = make_file("truncated", reading->pages * PAGE);
        at = snapshot(fd, 0, reading->pages * PAGE, PROT_READ | PROT_WRITE);
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
        check_all();
        CHECK(stat_of(at).state == SNAPSHIM_EXACT && munmap(at, reading->pages * PAGE) == 0);
        close(fd);
    }
    return 0;
}

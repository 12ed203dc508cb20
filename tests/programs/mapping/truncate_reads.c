/* Threads read into a writable snapshot, from a file, a pipe and a socket, while its file is cut to nothing: no call fails, no byte
 * of what came is lost, and no other byte changes. Once the kernel found the range that was being moved closed to it (EFAULT). */
#include "check.h"

#include <pthread.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { PAGES = 4096, READERS = 3, ROUNDS = 4, MOST = 200000 };

static unsigned char *at;
static volatile int is_over, has_begun[READERS];
/* The last that each reader put into a page; 0: nothing. */
static unsigned char put[READERS][PAGES];
static int source[READERS][2];

/* Each reader has a part of each page, which crosses no page. */
static unsigned char *part(size_t reader, size_t page)
{
    return at + page * PAGE + reader * 1000;
}

static size_t length_of(size_t reader)
{
    return reader == 0 ? 1000 : 900;
}

static void receive(size_t me, size_t page, unsigned char mark)
{
    unsigned char bytes[1000];
    size_t length = length_of(me);
    memset(bytes, mark, length);
    if (me == 0) {
        CHECK(pwrite(source[me][0], bytes, length, 0) == (ssize_t)length);
        CHECK(pread(source[me][0], part(me, page), length, 0) == (ssize_t)length);
        return;
    }
    CHECK(write(source[me][1], bytes, length) == (ssize_t)length);
    if (me == 1) {
        struct iovec halves[2] = {{part(me, page), 400}, {part(me, page) + 400, length - 400}};
        CHECK(readv(source[me][0], halves, 2) == (ssize_t)length);
    } else {
        struct iovec whole = {part(me, page), length};
        struct msghdr message = {.msg_iov = &whole, .msg_iovlen = 1};
        CHECK(recvmsg(source[me][0], &message, 0) == (ssize_t)length);
    }
}

static void *read_on(void *argument)
{
    size_t me = (size_t)argument;
    unsigned seed = (unsigned)me + 7;
    for (long count = 0; !is_over && count < MOST; count++) {
        size_t page = (size_t)rand_r(&seed) % PAGES;
        unsigned char mark = (unsigned char)(1 + rand_r(&seed) % 255);
        receive(me, page, mark);
        put[me][page] = mark;
        has_begun[me] = 1;
    }
    return NULL;
}

int main(void)
{
    source[0][0] = open("read", O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(source[0][0] >= 0 && pipe(source[1]) == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, source[2]) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        int fd = make_file("cut", PAGES * PAGE);
        at = snapshot(fd, 0, PAGES * PAGE, PROT_READ | PROT_WRITE);
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
        for (size_t page = 0; page < PAGES; page++) {
            unsigned char wanted[PAGE];
            memset(wanted, stamp(page, 0), PAGE);
            for (size_t i = 0; i < READERS; i++)
                if (put[i][page])
                    memset(wanted + i * 1000, put[i][page], length_of(i));
            CHECK(memcmp(at + page * PAGE, wanted, PAGE) == 0);
        }
        CHECK(stat_of(at).state == SNAPSHIM_EXACT && munmap(at, PAGES * PAGE) == 0);
        close(fd);
    }
    return 0;
}

/* calls FILE: every call that writes, in every way it can be aimed. Each case says what the call returned and what became of
 * the file, which a model of the file foretells, while snapshots are held by this process (read-only and writable) and by another.
 * Prints the same natively, where there is nothing to hold. */
#include "check.h"

#include <limits.h>
#include <sys/resource.h>
#include <sys/uio.h>

extern ssize_t __write(int, const void *, size_t);
extern ssize_t __pwrite64(int, const void *, size_t, off64_t);

#ifndef RWF_NOAPPEND
#define RWF_NOAPPEND 0x20
#endif

enum { PAGES = 24, SIZE = PAGES * 4096 - 1000, ROOM = 64 * 4096 };

static const char *path;
static int fd;
static unsigned char model[ROOM], before[ROOM];
static size_t model_size;
static const char *running;


static unsigned char data[1 << 16];
static unsigned seed;

/* The next `length` bytes to write. */
static unsigned char *fresh(size_t length)
{
    CHECK(length <= sizeof data);
    for (size_t i = 0; i < length; i++)
        data[i] = (unsigned char)((seed = seed * 1103515245 + 12345) >> 16);
    return data;
}

static void expect(size_t offset, const void *bytes, size_t length)
{
    CHECK(offset + length <= ROOM);
    memcpy(model + offset, bytes, length);
    if (length > 0 && offset + length > model_size)
        model_size = offset + length;
}

static void said(const char *what, ssize_t result)
{
    printf("%s: %s = %zd", running, what, result);
    if (result < 0)
        printf(" (%s)", strerrorname_np(errno));
    putchar('\n');
}

/* A call that has to write all of `length` fresh bytes, at `at` of the file. */
#define WRITES(call, at, length)                     \
    do {                                             \
        const unsigned char *bytes = fresh(length);  \
        ssize_t written_ = (call);                   \
        said(#call, written_);                       \
        CHECK(written_ == (ssize_t)(length));        \
        expect(at, bytes, length);                   \
    } while (0)

#define FAILS(call, wanted)              \
    do {                                 \
        errno = 0;                       \
        ssize_t failed_ = (call);        \
        int why_ = errno;                \
        said(#call, failed_);            \
        errno = why_;                    \
        CHECK(failed_ == -1);            \
        CHECK(errno == (wanted));        \
    } while (0)

static void seek(int file, off_t to)
{
    CHECK(lseek(file, to, SEEK_SET) == to);
}

static off_t position(int file)
{
    return lseek(file, 0, SEEK_CUR);
}

static int reopen(int flags)
{
    int file = open(path, flags | O_CLOEXEC);
    CHECK(file >= 0);
    return file;
}


static void plain(void)
{
    seek(fd, 0);
    WRITES(write(fd, bytes, 1), 0, 1);
    WRITES(write(fd, bytes, 4096), 1, 4096);
    seek(fd, 5 * 4096);
    WRITES(write(fd, bytes, 4096), 5 * 4096, 4096);
    WRITES(__write(fd, bytes, 3 * 4096 + 17), 6 * 4096, 3 * 4096 + 17);
    CHECK(position(fd) == 9 * 4096 + 17);
    WRITES(write(fd, bytes, 0), 0, 0);
}

static void positional(void)
{
    seek(fd, 77);
    WRITES(pwrite(fd, bytes, 2, 4095), 4095, 2);
    WRITES(pwrite64(fd, bytes, 8191, 3 * 4096 + 1), 3 * 4096 + 1, 8191);
    WRITES(__pwrite64(fd, bytes, 4096 * 5, 8 * 4096 - 1), 8 * 4096 - 1, 4096 * 5);
    WRITES(pwrite(fd, bytes, 0, 100), 0, 0);
    CHECK(position(fd) == 77);
}

/* Three pieces of the fresh bytes, one of them empty. */
static const struct iovec *pieces(unsigned char *bytes, size_t length)
{
    static struct iovec vector[3];
    vector[0] = (struct iovec){bytes, length / 3};
    vector[1] = (struct iovec){NULL, 0};
    vector[2] = (struct iovec){bytes + length / 3, length - length / 3};
    return vector;
}

static void vectored(void)
{
    seek(fd, 4000);
    WRITES(writev(fd, pieces(data, 9000), 3), 4000, 9000);
    CHECK(position(fd) == 13000);
    WRITES(pwritev(fd, pieces(data, 5000), 3, 20000), 20000, 5000);
    WRITES(pwritev64(fd, pieces(data, 4097), 3, 5 * 4096), 5 * 4096, 4097);
    WRITES(pwritev2(fd, pieces(data, 4000), 3, 30001, 0), 30001, 4000);
    WRITES(pwritev64v2(fd, pieces(data, 6000), 3, 50001, RWF_DSYNC), 50001, 6000);
    CHECK(position(fd) == 13000);
    WRITES(pwritev2(fd, pieces(data, 300), 3, -1, 0), 13000, 300);
    WRITES(pwritev64v2(fd, pieces(data, 5000), 3, -1, 0), 13300, 5000);
    CHECK(position(fd) == 18300);
    WRITES(writev(fd, pieces(data, 0), 0), 0, 0);
}

static void appending_by_flag(void)
{
    seek(fd, 11);
    WRITES(pwritev2(fd, pieces(data, 500), 3, 0, RWF_APPEND), model_size, 500);
    WRITES(pwritev64v2(fd, pieces(data, 5000), 3, 4096, RWF_APPEND), model_size, 5000);
    CHECK(position(fd) == 11);
    WRITES(pwritev2(fd, pieces(data, 700), 3, -1, RWF_APPEND), model_size, 700);
    CHECK((size_t)position(fd) == model_size);
}

static void appending_by_descriptor(void)
{
    int file = reopen(O_WRONLY | O_APPEND);
    seek(file, 10);
    WRITES(write(file, bytes, 600), model_size, 600);
    /* pwrite(2), BUGS: Linux appends, whatever the offset. */
    WRITES(pwrite(file, bytes, 4100, 0), model_size, 4100);
    WRITES(writev(file, pieces(data, 5000), 3), model_size, 5000);
    WRITES(pwritev(file, pieces(data, 50), 3, 4096), model_size, 50);
    WRITES(pwritev2(file, pieces(data, 60), 3, 4096, 0), model_size, 60);
    WRITES(pwritev2(file, pieces(data, 60), 3, -1, 0), model_size, 60);
    /* Linux 6.9; an older kernel refuses it. */
    const unsigned char *bytes = fresh(99);
    ssize_t written = pwritev2(file, pieces(data, 99), 3, 4096 * 2, RWF_NOAPPEND);
    said("RWF_NOAPPEND", written);
    if (written == 99)
        expect(4096 * 2, bytes, 99);
    else
        CHECK(errno == EOPNOTSUPP);
    /* The flag can come and go. */
    CHECK(fcntl(file, F_SETFL, 0) == 0);
    WRITES(pwrite(file, bytes, 33, 12345), 12345, 33);
    CHECK(fcntl(file, F_SETFL, O_APPEND) == 0);
    WRITES(pwrite(file, bytes, 33, 12345), model_size, 33);
    close(file);
}

static void through_other_descriptors(void)
{
    static const int flags[] = {O_WRONLY, O_WRONLY | O_SYNC, O_WRONLY | O_DSYNC, O_RDWR | O_NONBLOCK};
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        int file = reopen(flags[i]);
        size_t at = i * 9000;
        seek(file, (off_t)at);
        WRITES(write(file, bytes, 100), at, 100);
        WRITES(pwrite(file, bytes, 5000, (off_t)at + 3000), at + 3000, 5000);
        close(file);
    }
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int file = open(link, O_WRONLY);
    CHECK(file >= 0);
    WRITES(write(file, bytes, 100), 0, 100);
    close(file);
}

static void direct(void)
{
    int file = open(path, O_WRONLY | O_DIRECT);
    if (file < 0) {
        fprintf(stderr, "SKIPPED O_DIRECT: %s does not take it\n", path);
        return;
    }
    unsigned char *aligned = aligned_alloc(4096, 3 * 4096);
    CHECK(aligned);
    memcpy(aligned, fresh(3 * 4096), 3 * 4096);
    if (pwrite(file, aligned, 3 * 4096, 4 * 4096) == 3 * 4096)
        expect(4 * 4096, aligned, 3 * 4096);
    else
        fprintf(stderr, "SKIPPED O_DIRECT: pwrite: %s\n", strerror(errno));
    seek(file, 0);
    if (write(file, aligned, 4096) == 4096)
        expect(0, aligned, 4096);
    free(aligned);
    close(file);
}

static void duplicated(void)
{
    seek(fd, 4090);
    int copy = dup(fd), third = fcntl(fd, F_DUPFD_CLOEXEC, 50);
    CHECK(copy >= 0 && third >= 50);
    WRITES(write(copy, bytes, 5), 4090, 5);
    WRITES(write(fd, bytes, 5), 4095, 5);
    WRITES(write(third, bytes, 5000), 4100, 5000);
    CHECK(position(fd) == 9100);
    CHECK(dup2(copy, third) == third);
    WRITES(write(third, bytes, 50), 9100, 50);
    close(copy);
    close(third);
}

static void shared_by_fork(void)
{
    seek(fd, 8000);
    WRITES(write(fd, bytes, 500), 8000, 500);
    const unsigned char *bytes = fresh(5000);
    IN_CHILD({
        CHECK(write(fd, bytes, 2500) == 2500);
        CHECK(write(fd, bytes + 2500, 2500) == 2500);
    });
    expect(8500, bytes, 5000);
    WRITES(write(fd, bytes, 600), 13500, 600);
}

static void longest_vector(void)
{
    static struct iovec vector[IOV_MAX + 1];
    enum { EACH = 7 };
    for (int i = 0; i <= IOV_MAX; i++)
        vector[i] = (struct iovec){data + i * EACH, EACH};
    seek(fd, 4099);
    WRITES(writev(fd, vector, IOV_MAX), 4099, IOV_MAX * EACH);
    WRITES(pwritev(fd, vector, IOV_MAX, 30000), 30000, IOV_MAX * EACH);
    FAILS(writev(fd, vector, IOV_MAX + 1), EINVAL);
    FAILS(pwritev(fd, vector, IOV_MAX + 1, 0), EINVAL);
    FAILS(pwritev2(fd, vector, IOV_MAX + 1, 0, 0), EINVAL);
}

static void bad_pointers(void)
{
    unsigned char *edge = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(edge != MAP_FAILED && munmap(edge + PAGE, PAGE) == 0);
    struct iovec *nowhere = (struct iovec *)(edge + PAGE);
    FAILS(writev(fd, nowhere, 1), EFAULT);
    FAILS(pwritev(fd, nowhere, 3, 0), EFAULT);
    FAILS(pwritev2(fd, nowhere, 3, 0, 0), EFAULT);
    struct iovec *half = (struct iovec *)(edge + PAGE) - 1;
    *half = (struct iovec){data, 10};
    FAILS(writev(fd, half, 2), EFAULT);
    FAILS(write(fd, edge + PAGE, 10), EFAULT);
    FAILS(pwrite(fd, edge + PAGE, 10, 0), EFAULT);
    FAILS(pwrite(fd, (void *)-4096, 10, 0), EFAULT);
    /* Readable for 100 bytes only: what is written up to there differs between file systems, so it is said by the file. */
    memset(edge + PAGE - 100, 0x5a, 100);
    struct iovec vector[2] = {{edge + PAGE - 100, 100}, {edge + PAGE, 100}};
    ssize_t written = pwritev(fd, vector, 2, 4000);
    said("half readable", written);
    if (written > 0)
        expect(4000, edge + PAGE - 100, (size_t)written);
    written = pwrite(fd, edge + PAGE - 100, 5000, 12000);
    said("half readable", written);
    if (written > 0)
        expect(12000, edge + PAGE - 100, (size_t)written);
    munmap(edge, PAGE);
}

static void bad_numbers(void)
{
    struct iovec one = {data, 10}, endless = {data, (size_t)SSIZE_MAX + 1};
    FAILS(pwrite(fd, data, 10, -1), EINVAL);
    FAILS(pwrite(fd, data, 10, INT64_MIN), EINVAL);
    FAILS(pwritev(fd, &one, 1, -1), EINVAL);
    FAILS(pwritev2(fd, &one, 1, -2, 0), EINVAL);
    FAILS(pwrite(fd, data, 10, INT64_MAX - 2), EINVAL);
    volatile int minus_one = -1;
    FAILS(writev(fd, &one, minus_one), EINVAL);
    FAILS(writev(fd, &endless, 1), EINVAL);
    FAILS(pwritev2(fd, &one, 1, 0, 0x40000000), EOPNOTSUPP);
    FAILS(write(-1, data, 10), EBADF);
    FAILS(write(9999, data, 10), EBADF);
    FAILS(pwrite(-1, data, 10, 0), EBADF);
    FAILS(pwrite(INT_MAX, data, 10, 0), EBADF);
    FAILS(writev(INT_MIN, &one, 1), EBADF);
    FAILS(pwritev(-100, &one, 1, 0), EBADF);
    FAILS(pwritev2(9999, &one, 1, 0, 0), EBADF);
    int reader = reopen(O_RDONLY), location = reopen(O_PATH), ends[2];
    CHECK(pipe(ends) == 0);
    FAILS(write(reader, data, 10), EBADF);
    FAILS(pwrite(location, data, 10, 0), EBADF);
    FAILS(pwrite(ends[1], data, 10, 0), ESPIPE);
    close(ends[0]);
    signal(SIGPIPE, SIG_IGN);
    FAILS(write(ends[1], data, 10), EPIPE);
    close(ends[1]);
    close(reader);
    close(location);
}

static void size_limit(void)
{
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit, old;
    CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0);
    limit = old;
    limit.rlim_cur = SIZE + 100;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    const unsigned char *bytes = fresh(5000);
    ssize_t written = pwrite(fd, bytes, 5000, SIZE - 4000);
    int why = errno;
    off_t past = SIZE + 100;
    ssize_t refused = pwrite(fd, bytes, 10, past);
    int reason = errno;
    CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
    errno = why;
    said("short", written);
    CHECK(written == 4100);
    expect(SIZE - 4000, bytes, 4100);
    errno = reason;
    said("refused", refused);
    CHECK(refused == -1 && reason == EFBIG);
}

static void past_the_end(void)
{
    WRITES(pwrite(fd, bytes, 100, SIZE + 5000), SIZE + 5000, 100);
    WRITES(pwrite(fd, bytes, 5000, SIZE - 10), SIZE - 10, 5000);
    seek(fd, SIZE + 20000);
    WRITES(write(fd, bytes, 10), SIZE + 20000, 10);
}

static void byte_by_byte(void)
{
    for (size_t at = 4000; at < 4200; at++) {
        unsigned char byte = (unsigned char)at;
        CHECK(pwrite(fd, &byte, 1, (off_t)at) == 1);
        expect(at, &byte, 1);
    }
    for (size_t page = 0; page < PAGES - 1; page += 2)
        for (int again = 0; again < 3; again++) {
            const unsigned char *bytes = fresh(64);
            CHECK(pwrite(fd, bytes, 64, (off_t)(page * PAGE + 4000)) == 64);
            expect(page * PAGE + 4000, bytes, 64);
        }
}


static int ask, answer;

/* In the other process: 's' takes snapshots, 'c' compares and drops them. */
static void hold(int orders, int answers)
{
    unsigned char *at[2] = {NULL, NULL}, order;
    while (read(orders, &order, 1) == 1) {
        unsigned char good = 1;
        for (int i = 0; i < 2; i++)
            if (order == 's') {
                CHECK(pread(fd, before, SIZE, 0) == SIZE);
                at[i] = snapshot(fd, 0, SIZE, i ? PROT_READ | PROT_WRITE : PROT_READ);
            } else {
                good &= memcmp(at[i], before, SIZE) == 0;
                CHECK(munmap(at[i], SIZE) == 0);
            }
        CHECK(write(answers, &good, 1) == 1);
    }
    _exit(0);
}

static void start_holder(void)
{
    int orders[2], answers[2];
    CHECK(pipe(orders) == 0 && pipe(answers) == 0);
    fflush(NULL);
    pid_t holder = fork();
    CHECK(holder >= 0);
    if (holder == 0) {
        close(orders[1]);
        close(answers[0]);
        hold(orders[0], answers[1]);
    }
    close(orders[0]);
    close(answers[1]);
    ask = orders[1];
    answer = answers[0];
}

static int holder_says(char order)
{
    unsigned char good;
    CHECK(write(ask, &order, 1) == 1);
    CHECK(read(answer, &good, 1) == 1);
    return good;
}


static void run(const char *name, void (*body)(void))
{
    running = name;
    seed = 1;
    close(fd);
    fd = make_file(path, SIZE);
    CHECK(pread(fd, model, SIZE, 0) == SIZE);
    memset(model + SIZE, 0, ROOM - SIZE);
    model_size = SIZE;
    unsigned char *own[2] = {NULL, NULL};
    if (snapshim_active()) {
        own[0] = snapshot(fd, 0, SIZE, PROT_READ);
        CHECK(holder_says('s'));
        own[1] = snapshot(fd, 0, SIZE, PROT_READ | PROT_WRITE);
    }
    body();
    static unsigned char now[ROOM];
    ssize_t length = pread(fd, now, ROOM, 0);
    CHECK((size_t)length == model_size);
    CHECK(memcmp(now, model, model_size) == 0);
    if (!own[0])
        return;
    for (int i = 0; i < 2; i++) {
        for (size_t at = 0; at < SIZE; at++)
            if (own[i][at] != stamp(at / PAGE, 0)) {
                fprintf(stderr, "%s: own snapshot %d differs at byte %zu\n", name, i, at);
                exit(1);
            }
        struct snapshim_stat stat;
        CHECK(snapshim_stat(own[i], &stat) == 0 && stat.state == SNAPSHIM_EXACT);
        CHECK(munmap(own[i], SIZE) == 0);
    }
    if (!holder_says('c')) {
        fprintf(stderr, "%s: the other process's snapshot differs\n", name);
        exit(1);
    }
}

#define RUN(body) run(#body, body)

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    path = argv[1];
    fd = make_file(path, SIZE);
    CHECK(snapshim_active() == (getenv("LD_PRELOAD") != NULL));
    if (snapshim_active())
        start_holder();
    RUN(plain);
    RUN(positional);
    RUN(vectored);
    RUN(appending_by_flag);
    RUN(appending_by_descriptor);
    RUN(through_other_descriptors);
    RUN(direct);
    RUN(duplicated);
    RUN(shared_by_fork);
    RUN(longest_vector);
    RUN(bad_pointers);
    RUN(bad_numbers);
    RUN(size_limit);
    RUN(past_the_end);
    RUN(byte_by_byte);
    puts("done");
    return 0;
}

/* large_reads: reads of many bytes into memory that the kernel must not store into: mappings of a file that has a snapshot, and the
 * snapshot itself. They take no memory to speak of, and answer as they do natively. Each line that is printed is the same
 * natively. */
#include "check.h"

#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define SIZE ((size_t)20 << 20)
/* What a call may take beside what is mapped; moving a snapshot takes several huge pages. */
#define ROOM ((rlim_t)16 << 20)

static int source, target;
static unsigned char *kept;

/* No call gets more memory than ROOM. */
static void limit_memory(void)
{
    unsigned long pages;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file && fscanf(file, "%lu", &pages) == 1);
    fclose(file);
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
    limit.rlim_cur = pages * PAGE + ROOM;
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

static void lift_limit(void)
{
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

static unsigned char *map_target(void)
{
    unsigned char *at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, target, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

/* Says what the call answers. */
#define SAY_FREELY(call)                                                      \
    do {                                                                      \
        errno = 0;                                                            \
        ssize_t result = (call);                                              \
        printf("%s: %zd, errno %d\n", #call, result, result < 0 ? errno : 0); \
    } while (0)

/* The same within the limit. */
#define SAY(call)         \
    do {                  \
        limit_memory();   \
        SAY_FREELY(call); \
        lift_limit();     \
    } while (0)

/* What the snapshot showed it shows still; the file has version 1 of the source. */
static void is_kept(unsigned char *at, size_t length)
{
    CHECK(shows(at, 0, length, 1));
    if (snapshim_active()) {
        CHECK(shows(kept, 0, SIZE, 0) && stat_of(kept).state == SNAPSHIM_EXACT && munmap(kept, SIZE) == 0);
    }
    CHECK(munmap(at, SIZE) == 0);
    overwrite(target, 0, SIZE, 0);
    if (snapshim_active())
        kept = snapshot(target, 0, SIZE, PROT_READ);
}

static void from_files(void)
{
    unsigned char *at = map_target();
    SAY(pread(source, at, SIZE, 0));
    is_kept(at, SIZE);
    at = map_target();
    CHECK(lseek(source, 0, SEEK_SET) == 0);
    SAY(read(source, at, SIZE));
    SAY(read(source, at, SIZE));
    SAY(lseek(source, 0, SEEK_CUR));
    is_kept(at, SIZE);
    at = map_target();
    SAY(pread(source, at, SIZE, (off_t)(SIZE - 3 * PAGE + 100)));
    SAY(preadv(source, (struct iovec[]){{at, SIZE / 2}, {at + SIZE / 2, SIZE / 2}}, 2, 0));
    is_kept(at, SIZE);
}

/* Two files are mapped side by side, so no single announcement covers them. */
static void into_two_mappings(void)
{
    int other = make_file("other", SIZE);
    unsigned char *at = map_target();
    CHECK(mmap(at + SIZE / 2, SIZE / 2, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, other, SIZE / 2) == at + SIZE / 2);
    unsigned char *others = snapshim_active() ? snapshot(other, 0, SIZE, PROT_READ) : NULL;
    SAY(pread(source, at, SIZE, 0));
    if (others)
        CHECK(shows(others, 0, SIZE, 0) && munmap(others, SIZE) == 0);
    is_kept(at, SIZE);
    close(other);
}

/* Behind the buffer nothing is mapped. */
static void into_half_a_buffer(void)
{
    unsigned char *at = map_target();
    CHECK(munmap(at + SIZE / 2, SIZE / 2) == 0);
    SAY(pread(source, at, SIZE, 0));
    SAY(pread(source, at + SIZE / 2, SIZE / 2, 0));
    CHECK(mmap(at + SIZE / 2, SIZE / 2, PROT_READ, MAP_SHARED | MAP_FIXED, target, SIZE / 2) == at + SIZE / 2);
    is_kept(at, SIZE / 2);
}

static void from_devices(void)
{
    unsigned char *at = map_target();
    int zero = open("/dev/zero", O_RDONLY), random = open("/dev/urandom", O_RDONLY);
    CHECK(zero >= 0 && random >= 0);
    SAY(read(random, at, SIZE));
    SAY(getrandom(at, SIZE, 0));
    SAY(read(zero, at, SIZE));
    CHECK(at[0] == 0 && memcmp(at, at + 1, SIZE - 1) == 0);
    SAY(pread(source, at, SIZE, 0));
    is_kept(at, SIZE);
    close(zero), close(random);
}

/* A message comes whole, or what is not asked for is lost. */
static void from_sockets(void)
{
    static unsigned char bytes[100000];
    unsigned char *at = map_target();
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK(send(pair[0], memset(bytes, 'a' + i, sizeof bytes), sizeof bytes, 0) == sizeof bytes);
        SAY_FREELY(recv(pair[1], at, SIZE, 0));
        CHECK(memcmp(at, bytes, sizeof bytes) == 0);
    }
    int pipes[2];
    CHECK(pipe2(pipes, O_DIRECT) == 0 && write(pipes[1], bytes, 10) == 10 && write(pipes[1], bytes, 20) == 20);
    SAY_FREELY(read(pipes[0], at, SIZE));
    SAY_FREELY(read(pipes[0], at, SIZE));
    SAY(pread(source, at, SIZE, 0));
    is_kept(at, SIZE);
}

/* The buffer is a snapshot that the program may store into; the kernel pins its pages. */
static void into_a_snapshot(void)
{
    int direct = open("source", O_RDONLY | O_DIRECT);
    if (direct < 0)
        return;
    unsigned char *at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_SNAPSHOT, target, 0);
    CHECK(at != MAP_FAILED);
    SAY(pread(direct, at, SIZE, 0));
    CHECK(lseek(direct, 0, SEEK_SET) == 0);
    SAY(read(direct, at, SIZE));
    CHECK(ftruncate(target, 0) == 0);
    if (snapshim_active())
        CHECK(shows(at, 0, SIZE, 1) && stat_of(at).state == SNAPSHIM_EXACT);
    CHECK(munmap(at, SIZE) == 0);
    overwrite(target, 0, SIZE, 0);
    close(direct);
}

int main(void)
{
    source = make_file("source", SIZE);
    overwrite(source, 0, SIZE, 1);
    CHECK(fsync(source) == 0);
    target = make_file("target", SIZE);
    if (snapshim_active())
        kept = snapshot(target, 0, SIZE, PROT_READ);
    from_files();
    into_two_mappings();
    into_half_a_buffer();
    from_devices();
    from_sockets();
    into_a_snapshot();
    return 0;
}

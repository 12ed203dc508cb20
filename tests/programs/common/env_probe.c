/* env_probe FILE VERB...: does what the verbs say, in order, and says how it went.
 *
 *   active      is this process able to make snapshots?
 *   snapshot    takes a snapshot of FILE's first page, in addition to those it has
 *   write       overwrites the first page of FILE
 *   compare     is every snapshot what FILE was when it was taken?
 *   wait        says "ready" and waits for a line on standard input
 *   doubtful    waits until the first snapshot is doubtful, a minute at the most
 *   why         prints why the first snapshot is not exact
 *   fill        takes as many snapshots as can be had; then gives half of them back
 *   stuck       begins a write of FILE that cannot go on before a line came on standard input; says "ready" when it is stuck
 */
#include "blocked.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

enum { MOST = 30000 };

static const char *path;
static int file, taken, version;
static unsigned char *held[MOST];
static int versions[MOST];

static const char *name_of(int error)
{
    return error ? strerrorname_np(error) : "none";
}

static unsigned char *try_snapshot(void)
{
    return mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, file, 0);
}

static int try_group(int count)
{
    static struct snapshim_map maps[SNAPSHIM_GROUP];
    unsigned char *place = free_range((size_t)count * PAGE);
    for (int i = 0; i < count; i++)
        maps[i] = (struct snapshim_map){.fd = file, .prot = PROT_READ, .length = PAGE, .addr = place + (size_t)i * PAGE};
    if (taken + count > MOST || snapshim_mapv(maps, count) != 0)
        return 0;
    for (int i = 0; i < count; i++) {
        versions[taken] = version;
        held[taken++] = maps[i].addr;
    }
    return 1;
}

static void take(void)
{
    unsigned char *at = try_snapshot();
    if (at == MAP_FAILED) {
        printf("snapshot: %s\n", name_of(errno));
        return;
    }
    CHECK(taken < MOST);
    versions[taken] = version;
    held[taken++] = at;
    puts("snapshot: taken");
}

static void compare(void)
{
    int good = 1;
    for (int i = 0; i < taken; i++)
        good &= shows(held[i], 0, PAGE, versions[i]);
    puts(good ? "compare: same" : "compare: differs");
}

static void wait_for_line(void)
{
    char byte = 0;
    puts("ready");
    fflush(stdout);
    while (byte != '\n' && read(0, &byte, 1) == 1)
        ;
}

static void await_doubt(void)
{
    struct snapshim_stat stat;
    double started = milliseconds();
    do {
        CHECK(snapshim_stat(held[0], &stat) == 0);
        usleep(20000);
    } while (stat.state == SNAPSHIM_EXACT && milliseconds() - started < 60000);
    printf("doubtful: %s\n", stat.state == SNAPSHIM_DOUBTFUL ? "yes" : "no");
}

static void fill(void)
{
    int first = taken;
    /* Half as many at once each time that so many cannot be had. */
    for (int count = SNAPSHIM_GROUP; count > 0;)
        if (!try_group(count))
            count /= 2;
    int error = errno;
    printf("fill: %d, then %s\n", taken - first, name_of(error));
    int kept = taken / 2;
    while (taken > kept) {
        /* Those of one group lie side by side. */
        int from = taken - 1;
        while (from > kept && held[from - 1] == held[from] - PAGE)
            from--;
        CHECK(munmap(held[from], (size_t)(taken - from) * PAGE) == 0);
        taken = from;
    }
}

/* Writes from memory whose page does not come until `go` is set (userfaultfd(2)). */
static void *write_stuck(void *source)
{
    CHECK(write(file, source, PAGE) == (ssize_t)PAGE);
    return NULL;
}

static void stick(void)
{
    int faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = {.api = UFFD_API};
    if (faults < 0 || ioctl(faults, UFFDIO_API, &api) != 0) {
        puts("cannot");
        return;
    }
    void *source = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register all = {.range = {(uintptr_t)source, PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    CHECK(source != MAP_FAILED && ioctl(faults, UFFDIO_REGISTER, &all) == 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, write_stuck, source) == 0);
    struct uffd_msg message;
    CHECK(read(faults, &message, sizeof message) == sizeof message);
    wait_for_line();
    struct uffdio_zeropage page = {.range = all.range};
    CHECK(ioctl(faults, UFFDIO_ZEROPAGE, &page) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    puts("went on");
}

static void obey(const char *verb)
{
    if (strcmp(verb, "active") == 0)
        printf("active: %d\n", snapshim_active());
    else if (strcmp(verb, "snapshot") == 0)
        take();
    else if (strcmp(verb, "write") == 0)
        overwrite(file, 0, PAGE, ++version);
    else if (strcmp(verb, "compare") == 0)
        compare();
    else if (strcmp(verb, "wait") == 0)
        wait_for_line();
    else if (strcmp(verb, "doubtful") == 0)
        await_doubt();
    else if (strcmp(verb, "why") == 0)
        printf("why: %s\n", why_of(held[0]));
    else if (strcmp(verb, "fill") == 0)
        fill();
    else if (strcmp(verb, "stuck") == 0)
        stick();
    else
        CHECK(!"a known verb");
}

int main(int argc, char **argv)
{
    CHECK(argc >= 2);
    path = argv[1];
    file = open(path, O_RDWR);
    CHECK(file >= 0);
    for (int i = 2; i < argc; i++)
        obey(argv[i]);
    return 0;
}

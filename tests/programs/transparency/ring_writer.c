/* ring_writer FILE MODE [late|child]: opens FILE for MODE (r or rw), makes a ring of io_uring, prints "ready", and when standard
 * input ends writes a page of FILE through the ring, if it may. With late it makes the ring when standard input has one byte. With
 * child its child alone goes on when it has made both. */
#include <linux/io_uring.h>
#include <sys/syscall.h>

#include "check.h"

static struct io_uring_params parameters;
static int ring;

static void make_ring(void)
{
    ring = syscall(SYS_io_uring_setup, 4, &parameters);
    if (ring < 0)
        printf("no ring: %s\n", strerror(errno));
}

static void write_page(int fd)
{
    static unsigned char page[4096];
    memset(page, 'r', sizeof page);
    size_t length = parameters.sq_off.array + parameters.sq_entries * sizeof(unsigned);
    unsigned char *queue = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    struct io_uring_sqe *entries = mmap(NULL, parameters.sq_entries * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
                                        IORING_OFF_SQES);
    CHECK(queue != MAP_FAILED && entries != MAP_FAILED);
    entries[0] = (struct io_uring_sqe){.opcode = IORING_OP_WRITE, .fd = fd, .addr = (uintptr_t)page, .len = sizeof page};
    ((unsigned *)(queue + parameters.sq_off.array))[0] = 0;
    __atomic_store_n((unsigned *)(queue + parameters.sq_off.tail), 1, __ATOMIC_RELEASE);
    CHECK(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1);
}

int main(int argc, char **argv)
{
    CHECK(argc >= 3);
    int writes = !strcmp(argv[2], "rw"), is_late = argc > 3 && !strcmp(argv[3], "late");
    int fd = open(argv[1], writes ? O_RDWR : O_RDONLY);
    CHECK(fd >= 0);
    if (!is_late)
        make_ring();
    int status, has_child = argc > 3 && !is_late;
    pid_t child = has_child ? fork() : 1;
    CHECK(child >= 0);
    if (child > 0) {
        puts("ready");
        fflush(stdout);
    }
    if (has_child && child > 0)
        return close(fd) == 0 && waitpid(child, &status, 0) == child ? status : 1;
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    if (is_late)
        make_ring();
    if (ring > 0 && writes)
        write_page(fd);
    if (is_late)
        sleep(2);
    puts("done");
    return 0;
}

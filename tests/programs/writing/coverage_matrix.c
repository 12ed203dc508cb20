/* coverage_matrix WAY FILE [r|rw]: changes FILE in one way, as the table below does. With r or rw a snapshot of the file is held by
 * this very process meanwhile and compared afterwards. Without WAY: lists the ways, one a line, with what they do to a snapshot.
 * Exit status 0, 3 (the system cannot do this here), 1 (the snapshot changed or something failed). */
#include "check.h"

#include <aio.h>
#include <linux/aio_abi.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <netdb.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>

extern char **environ;

static const char *path;
static char data[3 * 4096];
enum { AT = 4096 * 3 + 17 };

/* Ends the way as "not here" where the file system or kernel says so. */
static void must(long result)
{
    if (result >= 0)
        return;
    if (errno == EOPNOTSUPP || errno == ENOTTY || errno == EINVAL || errno == ENOSYS || errno == EXDEV || errno == EPERM ||
        errno == EACCES || errno == ETXTBSY)
        exit(3);
    perror("the way failed");
    exit(1);
}

static int opened(int flags)
{
    int fd = open(path, flags);
    must(fd);
    return fd;
}

static void by_write(void)
{
    int fd = opened(O_WRONLY);
    must(lseek(fd, AT, SEEK_SET));
    must(write(fd, data, sizeof data));
}
static void by_append(void) { must(write(opened(O_WRONLY | O_APPEND), data, 100)); }
static void by_pwrite(void) { must(pwrite(opened(O_RDWR), data, sizeof data, AT)); }
static struct iovec vector[2] = {{data, 5000}, {data + 5000, 3000}};
static void by_writev(void) { must(writev(opened(O_WRONLY), vector, 2)); }
static void by_pwritev(void) { must(pwritev(opened(O_WRONLY), vector, 2, AT)); }
static void by_pwritev2(void) { must(pwritev2(opened(O_WRONLY), vector, 2, AT, RWF_SYNC)); }
static void by_direct(void)
{
    void *buffer;
    CHECK(posix_memalign(&buffer, 4096, 8192) == 0);
    memset(buffer, 'd', 8192);
    must(pwrite(opened(O_WRONLY | O_DIRECT), buffer, 8192, 8192));
}
static void by_stdio(void)
{
    FILE *file = fopen(path, "r+");
    must(file ? 0 : -1);
    CHECK(fseek(file, AT, SEEK_SET) == 0 && fwrite(data, 1, sizeof data, file) == sizeof data && fclose(file) == 0);
}
static void by_dprintf(void) { must(dprintf(opened(O_WRONLY), "%8000d", 7)); }
static void by_fopen_w(void)
{
    FILE *file = fopen(path, "w");
    must(file ? 0 : -1);
    CHECK(fputs("short", file) >= 0 && fclose(file) == 0);
}
static void by_freopen_w(void) { CHECK(freopen(path, "w", fopen("/dev/null", "r")) != NULL); }
static void by_open(void) { opened(O_WRONLY | O_TRUNC); }
static void by_open_read_only(void) { opened(O_RDONLY | O_TRUNC); }
static void by_open_2(void)
{
    extern int __open64_2(const char *, int);
    must(__open64_2(path, O_WRONLY | O_TRUNC));
}
static void by_openat(void) { must(openat(AT_FDCWD, path, O_WRONLY | O_TRUNC)); }
static void by_creat(void) { must(creat(path, 0600)); }
static void by_spawn(void)
{
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, path, O_WRONLY | O_TRUNC, 0600);
    char *arguments[] = {"echo", "spawned", NULL};
    pid_t child;
    CHECK(posix_spawnp(&child, "echo", &actions, NULL, arguments, environ) == 0);
    CHECK(waitpid(child, NULL, 0) == child);
}
static void by_system(void)
{
    char command[500];
    snprintf(command, sizeof command, "echo shell > '%s'", path);
    CHECK(system(command) == 0);
}
static void by_ftruncate(void) { must(ftruncate(opened(O_WRONLY), 0)); }
static void by_ftruncate_middle(void) { must(ftruncate(opened(O_WRONLY), AT)); }
static void by_ftruncate_and_back(void)
{
    int fd = opened(O_WRONLY);
    must(ftruncate(fd, 100));
    must(ftruncate(fd, 100000));
    must(pwrite(fd, data, sizeof data, AT));
}
static void by_truncate(void) { must(truncate(path, 4096)); }
static void allocate(int mode, off_t offset, off_t length) { must(fallocate(opened(O_RDWR), mode, offset, length)); }
/* fs/ioctl.c: struct space_resv; the header has no name for it outside the kernel. */
enum { RESVSP64 = 0x4030582a, UNRESVSP64 = 0x4030582b, ZERO_RANGE = 0x40305839 };
static void by_request(unsigned long request)
{
    struct {
        int16_t l_type, l_whence;
        int64_t l_start, l_len;
        int32_t l_sysid, l_pid, l_pad[4];
    } range = {.l_whence = SEEK_SET, .l_start = AT, .l_len = 9000};
    must(ioctl(opened(O_RDWR), request, &range));
}
static void by_unreserving(void) { by_request(UNRESVSP64); }
static void by_reserving(void) { by_request(RESVSP64); }
static void by_zeroing(void) { by_request(ZERO_RANGE); }
/* The bits of a compressed stream (RFC 1951), and the checksum of what it stands for (RFC 1950). */
struct stream {
    unsigned char bytes[4096];
    size_t bits;
};
static void put(struct stream *stream, unsigned value, int count)
{
    for (; count > 0; count--, value >>= 1, stream->bits++)
        stream->bytes[stream->bits / 8] |= (unsigned char)((value & 1) << stream->bits % 8);
}
/* Codes begin with their highest bit. */
static void put_code(struct stream *stream, unsigned code, int count)
{
    while (count-- > 0)
        put(stream, code >> count & 1, 1);
}
enum { UNCOMPRESSED = 65536 };
/* As many times the same letter: itself, and copies of 258 bytes from one byte before, in fixed codes. */
static size_t compress_letter(struct stream *stream, unsigned char letter)
{
    unsigned low = 1, high = 0;
    put(stream, 0x0178, 16);
    put(stream, 3, 3);
    size_t left = UNCOMPRESSED;
    for (; left % 258 != 0; left--)
        put_code(stream, 0x30U + letter, 8);
    for (; left > 0; left -= 258) {
        put_code(stream, 0xc5, 8);
        put_code(stream, 0, 5);
    }
    put_code(stream, 0, 7);
    stream->bits = (stream->bits + 7) / 8 * 8;
    for (int i = 0; i < UNCOMPRESSED; i++) {
        low = (low + letter) % 65521;
        high = (high + low) % 65521;
    }
    for (unsigned sum = high << 16 | low, i = 0; i < 4; i++, sum <<= 8)
        put(stream, sum >> 24, 8);
    return stream->bits / 8;
}
/* struct btrfs_ioctl_encoded_io_args (linux/btrfs.h), from Linux 5.18 on. */
static void by_encoded_write(void)
{
    static struct stream stream;
    struct iovec compressed = {stream.bytes, 0};
    struct {
        const struct iovec *vector;
        unsigned long count;
        int64_t offset;
        uint64_t flags, length, unencoded, skipped;
        uint32_t compression, encryption;
        uint8_t reserved[64];
    } wanted = {.vector = &compressed, .count = 1, .offset = 8192, .length = UNCOMPRESSED, .unencoded = UNCOMPRESSED};
    wanted.compression = 1;
    compressed.iov_len = compress_letter(&stream, 'B');
    must(ioctl(opened(O_RDWR), 0x40809440UL, &wanted));
}
static void by_punch(void) { allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, AT, 9000); }
static void by_zero(void) { allocate(FALLOC_FL_ZERO_RANGE, AT, 9000); }
static void by_collapse(void) { allocate(FALLOC_FL_COLLAPSE_RANGE, 8192, 8192); }
static void by_insert(void) { allocate(FALLOC_FL_INSERT_RANGE, 8192, 8192); }
static void by_allocate(void)
{
    allocate(0, 0, 400000);
    CHECK(posix_fallocate(opened(O_RDWR), 0, 500000) == 0);
}
static int other_file(void)
{
    static char name[500];
    snprintf(name, sizeof name, "%s.other", path);
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    must(fd);
    char page[4096];
    memset(page, 'o', sizeof page);
    for (int i = 0; i < 16; i++)
        must(write(fd, page, sizeof page));
    fsync(fd);
    unlink(name);
    return fd;
}
static void by_copy_file_range(void)
{
    loff_t from = 0, to = 8192;
    must(copy_file_range(other_file(), &from, opened(O_WRONLY), &to, 20000, 0));
}
static void by_sendfile(void)
{
    off_t from = 0;
    int fd = opened(O_WRONLY);
    must(lseek(fd, 5000, SEEK_SET));
    must(sendfile(fd, other_file(), &from, 20000));
}
static void by_splice(void)
{
    int ends[2];
    CHECK(pipe(ends) == 0 && write(ends[1], data, sizeof data) == sizeof data);
    loff_t to = AT;
    must(splice(ends[0], NULL, opened(O_WRONLY), &to, sizeof data, 0));
}
static void *fill_later(void *end)
{
    usleep(100000);
    CHECK(write(*(int *)end, data, sizeof data) == sizeof data);
    return NULL;
}
static void by_splice_that_waits(void)
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, fill_later, &ends[1]) == 0);
    loff_t to = AT;
    must(splice(ends[0], NULL, opened(O_WRONLY), &to, sizeof data, 0));
    pthread_join(thread, NULL);
}
static void by_clone(void) { must(ioctl(opened(O_WRONLY), FICLONE, other_file())); }
static void by_clone_range(void)
{
    struct file_clone_range range = {.src_fd = other_file(), .src_length = 8192, .dest_offset = 16384};
    must(ioctl(opened(O_WRONLY), FICLONERANGE, &range));
}
/* What the cache still has of a file need not be what its blocks hold by now. */
static void forget(int fd)
{
    must(fsync(fd));
    must(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
}
/* linux/ext4.h */
struct move_extent {
    uint32_t reserved, donor_fd;
    uint64_t orig_start, donor_start, len, moved_len;
};
#define EXT4_IOC_MOVE_EXT _IOWR('f', 15, struct move_extent)
static void by_moving_out(void)
{
    int donor = opened(O_RDWR);
    struct move_extent range = {.donor_fd = (unsigned)donor, .orig_start = 2, .donor_start = 2, .len = 8};
    forget(donor);
    must(ioctl(other_file(), EXT4_IOC_MOVE_EXT, &range));
    forget(donor);
}
/* xfs_fs.h: struct xfs_swapext. */
struct swapext {
    int64_t version, target, donor, offset, length;
    char pad[16 + 56];
    struct {
        int64_t seconds;
        int32_t nanoseconds;
    } modified, changed;
    char rest[48];
};
#define XFS_IOC_SWAPEXT _IOWR('X', 109, struct swapext)
static void by_swapping_out(void)
{
    int donor = opened(O_RDWR), target = other_file();
    struct stat found;
    must(fstat(donor, &found));
    must(ftruncate(target, 0));
    for (off_t at = 0; at < found.st_size; at += 1 << 12)
        must(pwrite(target, data, (size_t)(found.st_size - at < 1 << 12 ? found.st_size - at : 1 << 12), at));
    forget(target);
    forget(donor);
    struct swapext range = {.target = target, .donor = donor, .length = found.st_size};
    must(fstat(target, &found));
    range.modified.seconds = found.st_mtim.tv_sec;
    range.modified.nanoseconds = (int32_t)found.st_mtim.tv_nsec;
    range.changed.seconds = found.st_ctim.tv_sec;
    range.changed.nanoseconds = (int32_t)found.st_ctim.tv_nsec;
    /* On whatever file of that file system. */
    must(ioctl(other_file(), XFS_IOC_SWAPEXT, &range));
}
/* A part of the file, mapped shared. */
static void *shared_part(void)
{
    void *at = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, opened(O_RDWR), 8192);
    CHECK(at != MAP_FAILED);
    return at;
}
static void by_removing(void) { must(madvise(shared_part(), 16384, MADV_REMOVE)); }
static void by_posix_madvise(void)
{
    errno = posix_madvise(shared_part(), 16384, MADV_REMOVE);
    must(errno ? -1 : 0);
}
static int oneself(void)
{
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    must(pidfd);
    return pidfd;
}
static void by_process_madvise(void)
{
    struct iovec parts[2] = {{shared_part(), 4096}, {shared_part(), 16384}};
    must(process_madvise(oneself(), parts, 2, MADV_REMOVE, 0));
}
static void by_syscall_process_madvise(void)
{
    struct iovec part = {shared_part(), 16384};
    must(syscall(SYS_process_madvise, oneself(), &part, 1, MADV_REMOVE, 0U));
}
static void by_syscall_pkey_mprotect(void)
{
    char *at = shared_part();
    must(mprotect(at, 16384, PROT_READ));
    must(syscall(SYS_pkey_mprotect, at, 16384, PROT_READ | PROT_WRITE, -1));
    memset(at, 'K', 16384);
}
static void by_herror(void)
{
    int fd = opened(O_WRONLY);
    must(lseek(fd, AT, SEEK_SET));
    must(dup2(fd, 2));
    h_errno = HOST_NOT_FOUND;
    herror("a host");
}
static void by_discard(void)
{
    uint64_t range[2] = {8192, 16384};
    must(ioctl(opened(O_RDWR), BLKDISCARD, range));
}
static void by_zero_out(void)
{
    uint64_t range[2] = {8192, 16384};
    must(ioctl(opened(O_RDWR), BLKZEROOUT, range));
}
static void by_aio(void)
{
    struct aiocb block = {.aio_fildes = opened(O_WRONLY), .aio_buf = data, .aio_nbytes = sizeof data, .aio_offset = AT};
    must(aio_write(&block));
    const struct aiocb *list[] = {&block};
    while (aio_error(&block) == EINPROGRESS)
        aio_suspend(list, 1, NULL);
    CHECK(aio_return(&block) == (ssize_t)sizeof data);
}
static void by_lio(void)
{
    struct aiocb block = {
        .aio_fildes = opened(O_WRONLY), .aio_buf = data, .aio_nbytes = sizeof data, .aio_offset = AT, .aio_lio_opcode = LIO_WRITE};
    struct aiocb *list[] = {&block};
    must(lio_listio(LIO_WAIT, list, 1, NULL));
    CHECK(aio_return(&block) == (ssize_t)sizeof data);
}
static void by_io_submit(void)
{
    aio_context_t context = 0;
    must(syscall(SYS_io_setup, 4, &context));
    struct iocb block = {.aio_lio_opcode = IOCB_CMD_PWRITE,
                         .aio_fildes = (unsigned)opened(O_WRONLY),
                         .aio_buf = (uintptr_t)data,
                         .aio_nbytes = sizeof data,
                         .aio_offset = AT};
    struct iocb *list[] = {&block};
    must(syscall(SYS_io_submit, context, 1, list));
    struct io_event event;
    must(syscall(SYS_io_getevents, context, 1, 1, &event, NULL));
    CHECK(event.res == sizeof data);
}
static void by_syscall_write(void) { must(syscall(SYS_write, opened(O_WRONLY), data, sizeof data)); }
static void by_syscall_pwrite(void) { must(syscall(SYS_pwrite64, opened(O_WRONLY), data, sizeof data, (long)AT)); }
static void by_syscall_openat(void) { must(syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_TRUNC, 0)); }
static void by_syscall_openat2(void)
{
    uint64_t how[3] = {O_WRONLY | O_TRUNC, 0, 0};
    must(syscall(SYS_openat2, AT_FDCWD, path, how, sizeof how));
}
static void by_syscall_ftruncate(void) { must(syscall(SYS_ftruncate, opened(O_WRONLY), 5L)); }
static void by_proc_fd(void)
{
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", opened(O_RDONLY));
    int fd = open(name, O_WRONLY | O_TRUNC);
    must(fd);
    must(write(fd, data, 50));
}
static void by_hard_link(void)
{
    char name[500];
    snprintf(name, sizeof name, "%s.link", path);
    must(link(path, name));
    int fd = open(name, O_WRONLY);
    must(pwrite(fd, data, sizeof data, AT));
    unlink(name);
}
static void by_rename_over(void)
{
    char name[500];
    snprintf(name, sizeof name, "%s.new", path);
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    must(fd);
    must(write(fd, data, sizeof data));
    must(rename(name, path));
    must(pwrite(fd, data, 100, 5));
}
static void by_unlink(void)
{
    int fd = opened(O_RDWR);
    must(unlink(path));
    must(pwrite(fd, data, sizeof data, AT));
    must(ftruncate(fd, 0));
}

static const struct way {
    const char *name, *effect;
    void (*act)(void);
} ways[] = {
    {"write", "preserved", by_write},
    {"write with O_APPEND", "preserved", by_append},
    {"write with O_DIRECT", "preserved", by_direct},
    {"pwrite", "preserved", by_pwrite},
    {"writev", "preserved", by_writev},
    {"pwritev", "preserved", by_pwritev},
    {"pwritev2", "preserved", by_pwritev2},
    {"fwrite", "preserved", by_stdio},
    {"dprintf", "preserved", by_dprintf},
    {"fopen w", "relocated", by_fopen_w},
    {"freopen w", "relocated", by_freopen_w},
    {"open O_TRUNC", "relocated", by_open},
    {"open O_RDONLY+O_TRUNC", "relocated", by_open_read_only},
    {"__open64_2 O_TRUNC", "relocated", by_open_2},
    {"openat O_TRUNC", "relocated", by_openat},
    {"creat", "relocated", by_creat},
    {"posix_spawn addopen O_TRUNC", "relocated", by_spawn},
    {"system echo >", "relocated", by_system},
    {"ftruncate to 0", "relocated", by_ftruncate},
    {"ftruncate to the middle", "relocated", by_ftruncate_middle},
    {"ftruncate and write anew", "relocated", by_ftruncate_and_back},
    {"truncate", "relocated", by_truncate},
    {"fallocate punch hole", "preserved", by_punch},
    {"ioctl FS_IOC_RESVSP64", "preserved", by_reserving},
    {"ioctl FS_IOC_UNRESVSP64", "preserved", by_unreserving},
    {"ioctl FS_IOC_ZERO_RANGE", "preserved", by_zeroing},
    {"fallocate zero range", "preserved", by_zero},
    {"fallocate collapse range", "relocated", by_collapse},
    {"fallocate insert range", "relocated", by_insert},
    {"fallocate, posix_fallocate", "preserved", by_allocate},
    {"copy_file_range", "preserved", by_copy_file_range},
    {"sendfile", "preserved", by_sendfile},
    {"splice", "preserved", by_splice},
    {"splice that waits", "preserved", by_splice_that_waits},
    {"ioctl FICLONE", "preserved", by_clone},
    {"ioctl FICLONERANGE", "preserved", by_clone_range},
    {"ioctl EXT4_IOC_MOVE_EXT, donor", "preserved", by_moving_out},
    {"ioctl XFS_IOC_SWAPEXT, donor", "preserved", by_swapping_out},
    {"ioctl BTRFS_IOC_ENCODED_WRITE", "preserved", by_encoded_write},
    {"ioctl BLKDISCARD", "preserved", by_discard},
    {"ioctl BLKZEROOUT", "preserved", by_zero_out},
    {"madvise MADV_REMOVE", "preserved", by_removing},
    {"posix_madvise MADV_REMOVE", "preserved", by_posix_madvise},
    {"process_madvise MADV_REMOVE", "preserved", by_process_madvise},
    {"herror", "preserved", by_herror},
    {"aio_write", "preserved", by_aio},
    {"lio_listio", "preserved", by_lio},
    {"io_submit", "preserved", by_io_submit},
    {"syscall write", "preserved", by_syscall_write},
    {"syscall pwrite64", "preserved", by_syscall_pwrite},
    {"syscall openat O_TRUNC", "relocated", by_syscall_openat},
    {"syscall openat2 O_TRUNC", "relocated", by_syscall_openat2},
    {"syscall ftruncate", "relocated", by_syscall_ftruncate},
    {"syscall process_madvise MADV_REMOVE", "preserved", by_syscall_process_madvise},
    {"syscall pkey_mprotect, then stores", "preserved", by_syscall_pkey_mprotect},
    {"through /proc/self/fd", "relocated", by_proc_fd},
    {"through a hard link", "preserved", by_hard_link},
    {"rename over it", "preserved", by_rename_over},
    {"unlink, then write", "relocated", by_unlink},
};
enum { WAYS = sizeof ways / sizeof *ways };

static void hold_and_act(const struct way *way, int protection)
{
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    size_t size = (size_t)lseek(fd, 0, SEEK_END);
    unsigned char *copy = malloc(size);
    CHECK(copy && pread(fd, copy, size, 0) == (ssize_t)size);
    unsigned char *at = snapshot(fd, 0, size, protection);
    way->act();
    struct snapshim_stat stat;
    CHECK(snapshim_stat(at, &stat) == 0 && stat.state == SNAPSHIM_EXACT);
    CHECK(memcmp(at, copy, size) == 0);
}

int main(int argc, char **argv)
{
    if (argc == 1) {
        for (int i = 0; i < WAYS; i++)
            printf("%s\t%s\n", ways[i].name, ways[i].effect);
        return 0;
    }
    CHECK(argc == 3 || argc == 4);
    path = argv[2];
    memset(data, 'W', sizeof data);
    for (int i = 0; i < WAYS; i++)
        if (strcmp(ways[i].name, argv[1]) == 0) {
            if (argc == 3)
                ways[i].act();
            else
                hold_and_act(&ways[i], strcmp(argv[3], "rw") == 0 ? PROT_READ | PROT_WRITE : PROT_READ);
            return 0;
        }
    CHECK(!"a known way");
}

#include "file_writes.h"

#include <aio.h>
#include <linux/aio_abi.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>

int memory_file(const void *data, size_t length)
{
    int fd = memfd_create("source", MFD_CLOEXEC);
    CHECK(fd >= 0 && write(fd, data, length) == (ssize_t)length && lseek(fd, 0, SEEK_SET) == 0);
    return fd;
}

ssize_t write_by_copy(int fd, const char *path, const void *data, size_t length, off_t offset)
{
    char directory[320];
    snprintf(directory, sizeof directory, "%.*s", (int)(strrchr(path, '/') - path), path);
    int from = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    CHECK(from >= 0 && write(from, data, length) == (ssize_t)length);
    off_t start = 0;
    ssize_t count = copy_file_range(from, &start, fd, &offset, length, 0);
    close(from);
    return count;
}

ssize_t write_by_sendfile(int fd, const void *data, size_t length, off_t offset, int is_placed)
{
    int from = memory_file(data, length);
    off_t start = 0;
    CHECK(lseek(fd, offset, SEEK_SET) == offset);
    ssize_t count = sendfile(fd, from, is_placed ? &start : NULL, length);
    close(from);
    return count;
}

ssize_t write_by_splice(int fd, const void *data, size_t length, off_t offset)
{
    int ends[2];
    length = length < PAGE ? length : PAGE;
    CHECK(pipe2(ends, O_CLOEXEC) == 0 && write(ends[1], data, length) == (ssize_t)length);
    ssize_t count = splice(ends[0], NULL, fd, &offset, length, 0);
    close(ends[0]), close(ends[1]);
    return count;
}

ssize_t write_by_stdio(const char *path, const void *data, size_t length, off_t offset)
{
    FILE *stream = fopen(path, "r+e");
    CHECK(stream && setvbuf(stream, NULL, _IOFBF, length + PAGE) == 0 && fseeko(stream, offset, SEEK_SET) == 0);
    size_t count = fwrite(data, 1, length, stream);
    return fclose(stream) == 0 ? (ssize_t)count : -1;
}

ssize_t write_by_aio(int fd, const void *data, size_t length, off_t offset, int is_listed)
{
    struct aiocb block = {.aio_fildes = fd, .aio_buf = (void *)data, .aio_nbytes = length, .aio_offset = offset,
                          .aio_lio_opcode = LIO_WRITE};
    struct aiocb *blocks[] = {&block};
    if ((is_listed ? lio_listio(LIO_NOWAIT, blocks, 1, NULL) : aio_write(&block)) != 0) {
        CHECK(is_listed || errno == EAGAIN);
        return pwrite(fd, data, length, offset);
    }
    while (aio_error(&block) == EINPROGRESS)
        (void)aio_suspend((const struct aiocb *const *)blocks, 1, NULL);
    return aio_return(&block);
}

ssize_t write_by_queue(int fd, const void *data, size_t length, off_t offset, void (*meanwhile)(size_t file), size_t file)
{
    aio_context_t context = 0;
    struct io_event event;
    struct iocb block = {.aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = (unsigned)fd, .aio_buf = (uintptr_t)data,
                         .aio_nbytes = length, .aio_offset = offset}, *blocks[] = {&block};
    if (syscall(SYS_io_setup, 1, &context) != 0) {
        CHECK(errno == EAGAIN);
        return pwrite(fd, data, length, offset);
    }
    CHECK(syscall(SYS_io_submit, context, 1L, blocks) == 1);
    if (meanwhile)
        meanwhile(file);
    long got;
    do
        got = syscall(SYS_io_getevents, context, 1L, 1L, &event, NULL);
    while (got == -1 && errno == EINTR);
    CHECK(got == 1 && syscall(SYS_io_destroy, context) == 0);
    return (ssize_t)event.res;
}

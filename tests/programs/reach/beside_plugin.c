/* A library that changes a file in the way it is asked for, by whatever libc it finds itself with. */
#include "check.h"

#include <dlfcn.h>
#include <sys/syscall.h>
#include <sys/uio.h>

static const char letters[8192] = {[0 ... 8191] = 'P'};

void by_libc_beside(const char *way, const char *path)
{
    int fd = open(path, O_RDWR);
    CHECK(fd >= 0);
    if (strcmp(way, "write") == 0)
        CHECK(write(fd, letters, sizeof letters) == sizeof letters);
    else if (strcmp(way, "pwritev") == 0) {
        struct iovec part = {(void *)letters, sizeof letters};
        CHECK(pwritev(fd, &part, 1, 4096) == sizeof letters);
    } else if (strcmp(way, "syscall") == 0)
        CHECK(syscall(SYS_pwrite64, fd, letters, sizeof letters, 4096L) == sizeof letters);
    else if (strcmp(way, "stdio") == 0) {
        FILE *file = fopen(path, "r+");
        CHECK(file && fseek(file, 5000, SEEK_SET) == 0 && fwrite(letters, sizeof letters, 1, file) == 1 && fclose(file) == 0);
    } else if (strcmp(way, "O_TRUNC") == 0)
        CHECK(open(path, O_WRONLY | O_TRUNC) >= 0);
    else if (strcmp(way, "ftruncate") == 0)
        CHECK(ftruncate(fd, 5) == 0);
    else if (strcmp(way, "stores") == 0) {
        char *at = mmap(NULL, sizeof letters, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
        CHECK(at != MAP_FAILED);
        memcpy(at, letters, sizeof letters);
        CHECK(munmap(at, sizeof letters) == 0);
    } else if (strcmp(way, "posix_madvise") == 0) {
        void *at = mmap(NULL, sizeof letters, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
        CHECK(at != MAP_FAILED && posix_madvise(at, sizeof letters, MADV_REMOVE) == 0);
    } else
        CHECK(!"a known way");
    CHECK(close(fd) == 0);
}

/* What a call says by errno comes to the errno of the caller's own libc, and one that succeeds leaves it alone. */
void errno_beside(void)
{
    CHECK_ERRNO(write(-1, "", 1), -1, EBADF);
    CHECK_ERRNO(open("/does/not/exist", O_RDONLY), -1, ENOENT);
    CHECK_ERRNO(munmap((void *)1, 1), -1, EINVAL);
    errno = 77;
    int fd = open("/dev/null", O_WRONLY);
    CHECK(fd >= 0 && write(fd, "", 1) == 1 && close(fd) == 0 && errno == 77);
    void *some = malloc(1 << 20);
    CHECK(some && errno == 77);
    free(some);
}

/* A namespace that makes one more. */
void *namespace_beside(const char *path)
{
    void *handle = dlmopen(LM_ID_NEWLM, path, RTLD_NOW);
    CHECK(handle);
    return handle;
}

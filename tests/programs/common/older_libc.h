/* Included before each program: what older libcs do not declare. Empty with glibc from 2.36 on. */
#ifndef OLDER_LIBC_H
#define OLDER_LIBC_H

#if defined(__has_include) && !defined(__cplusplus)
#if __has_include(<features.h>)
#include <features.h>
#endif
#if defined(__GLIBC__) && !(__GLIBC__ > 2 || __GLIBC_MINOR__ >= 36)
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#if __GLIBC_MINOR__ < 32
static inline const char *strerrorname_np(int number) {
    static const struct {
        int number;
        const char *name;
    } names[] = {
#define NAME(error) {error, #error}
        NAME(EPERM), NAME(ENOENT), NAME(ESRCH), NAME(EINTR), NAME(EIO), NAME(ENXIO), NAME(E2BIG), NAME(ENOEXEC), NAME(EBADF),
        NAME(ECHILD), NAME(EAGAIN), NAME(ENOMEM), NAME(EACCES), NAME(EFAULT), NAME(EBUSY), NAME(EEXIST), NAME(EXDEV), NAME(ENODEV),
        NAME(ENOTDIR), NAME(EISDIR), NAME(EINVAL), NAME(ENFILE), NAME(EMFILE), NAME(ENOTTY), NAME(ETXTBSY), NAME(EFBIG),
        NAME(ENOSPC), NAME(ESPIPE), NAME(EROFS), NAME(EPIPE), NAME(ERANGE), NAME(EDEADLK), NAME(ENOSYS), NAME(ENOTSOCK),
        NAME(EOPNOTSUPP), NAME(ETIMEDOUT), NAME(EOVERFLOW)
#undef NAME
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].number == number)
            return names[i].name;
    return strerror(number);
}
#endif
#if __GLIBC_MINOR__ < 34
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
static inline int close_range(unsigned first, unsigned last, int flags) {
    return (int)syscall(SYS_close_range, first, last, flags);
}
#endif
#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif
static inline ssize_t process_madvise(int process, const struct iovec *parts, size_t count, int advice, unsigned flags) {
    return syscall(SYS_process_madvise, process, parts, count, advice, flags);
}
#endif
#endif
#endif

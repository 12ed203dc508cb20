/* Included before each program: what older libcs do not declare. Empty with glibc from 2.36 on. */
#ifndef OLDER_LIBC_H
#define OLDER_LIBC_H

#if defined(__has_include) && !defined(__cplusplus)
/* The first header decides what all declare. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#if __has_include(<features.h>)
#include <features.h>
#endif
#if defined(__GLIBC__) && !(__GLIBC__ > 2 || __GLIBC_MINOR__ >= 36)
#include <errno.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
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
        NAME(EOPNOTSUPP), NAME(ETIMEDOUT), NAME(EOVERFLOW), NAME(EPROTO), NAME(ESTALE), NAME(ELOOP), NAME(ENAMETOOLONG), NAME(EDOM),
        NAME(ENODATA), NAME(ENOTEMPTY), NAME(EMLINK), NAME(ECANCELED), NAME(EALREADY), NAME(EMSGSIZE), NAME(EAFNOSUPPORT),
        NAME(ECONNREFUSED), NAME(ENOTCONN), NAME(EADDRINUSE), NAME(EUSERS), NAME(ENOKEY), NAME(EILSEQ)
#undef NAME
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].number == number)
            return names[i].name;
    return strerror(number);
}
static inline const char *sigabbrev_np(int number) {
    return number == SIGBUS ? "BUS" : number == SIGSEGV ? "SEGV" : "?";
}
/* The thread then has the mask of its creator, natively as under the shim. */
static inline int pthread_attr_setsigmask_np(pthread_attr_t *attributes, const sigset_t *set) {
    return attributes == NULL || set == NULL ? EINVAL : 0;
}
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#endif
#if __GLIBC_MINOR__ < 34
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
static inline int close_range(unsigned first, unsigned last, int flags) {
    return (int)syscall(SYS_close_range, first, last, flags);
}
static inline int execveat(int directory, const char *path, char *const arguments[], char *const environment[], int flags) {
    return (int)syscall(SYS_execveat, directory, path, arguments, environment, flags);
}
static inline pid_t _Fork(void) {
    return fork();
}
#endif
#if __GLIBC_MINOR__ < 35
static inline int epoll_pwait2(int epoll, struct epoll_event *events, int most, const struct timespec *time, const sigset_t *mask) {
    enum { EPOLL_PWAIT2 = 441 };
    return (int)syscall(EPOLL_PWAIT2, epoll, events, most, time, mask, _NSIG / 8);
}
#endif
/* What the headers of an older kernel do not have. */
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFDIO_REGISTER_MODE_MINOR
#define UFFDIO_REGISTER_MODE_MINOR ((__u64)1 << 2)
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

/* snapshim: point-in-time private mappings of files and block devices.
 *
 *     void *p = mmap(NULL, length, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, fd, 0);
 *
 * Every byte of p equals the file's content at one instant between the call and the return of mmap(), until it is unmapped, as long
 * as every process that changes the file runs under LD_PRELOAD=libsnapshim.so with the same SNAPSHIM_DIR. Without the shim the
 * kernel ignores the flag and the mapping is an ordinary MAP_PRIVATE one: ask snapshim_active() first.
 *
 * Nothing has to be linked. C and C++.
 */
#ifndef SNAPSHIM_H
#define SNAPSHIM_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/types.h>

/* A flag for mmap(2), with MAP_PRIVATE. Checked to be free in every Linux ABI (include/uapi/asm-generic/mman-common.h, mman.h, and
 * arch/{alpha,mips,parisc,powerpc,sparc,xtensa,x86}/include/uapi/asm/mman.h): the flags end at bit 20 (MAP_FIXED_NOREPLACE; bit 21
 * on alpha), bit 26 is MAP_UNINITIALIZED, and bits 26 to 31 hold the size of huge pages (MAP_HUGE_SHIFT). This is bit 24. */
#ifndef MAP_SNAPSHOT
#define MAP_SNAPSHOT 0x01000000
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SNAPSHIM_EXACT = 0,    /* as promised */
    SNAPSHIM_DOUBTFUL = 1, /* readable, but the shim can no longer vouch for it (a program without the shim changed the file, for one);
                            * or the table was damaged; snapshim_why() and the log say why. Of a process that left a damaged table
                            * only state and pages are known */
    SNAPSHIM_BROKEN = 2,   /* a page could not be preserved; the broken part raises SIGBUS */
    SNAPSHIM_LIVE = 3      /* no snapshot: it shows the file as it is, and keeps what truncations take away (SNAPSHIM_GUARD_FILES) */
};

enum {
    SNAPSHIM_FOREIGN_CHANGE = 1, /* a program without the shim changed the file */
    SNAPSHIM_FOREIGN_CUT = 2,    /* ... cut it, so that pages of the snapshot may be gone */
    SNAPSHIM_FOREIGN_MAPPING = 4 /* ... had it mapped shared and writable */
};

struct snapshim_stat {
    int state;           /* SNAPSHIM_EXACT and its kin: the worst of all parts of the mapping */
    int cause;           /* why it is not exact, where a program without the shim is why: a sum of SNAPSHIM_FOREIGN_*, else 0 */
    uint64_t size;       /* of the file or device at the instant, bytes */
    uint64_t pages;      /* 4 KiB pages of the file that the mapping still shows */
    uint64_t preserved;  /* of these, pages that were copied because the file changed, or was about to as it seemed */
    uint64_t bytes_held; /* memory that the snapshot costs beyond a plain mapping: copies and their bookkeeping */
};

/* One of the snapshots that snapshim_mapv() takes. The first four are the arguments of mmap(2). */
struct snapshim_map {
    int fd;        /* the file or block device */
    int prot;      /* PROT_READ, with PROT_WRITE for stores that stay private */
    off_t offset;  /* where in the file it begins: bytes, a multiple of the page size */
    size_t length; /* bytes, not 0. More than the file has is allowed: what lies past its end at the instant raises SIGBUS */
    void *addr;    /* in: a hint, or NULL, or the place for MAP_FIXED; out: where the snapshot lies */
    int flags;     /* 0, or a sum of MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_LOCKED, MAP_POPULATE, MAP_NORESERVE */
    int error;     /* out: why this one keeps all from being taken (an errno), else 0 */
};

/* Snapshots that snapshim_mapv() takes at once. */
#define SNAPSHIM_GROUP 16384

/* Weak: absent without the shim. In a program that is linked at a fixed address (-no-pie) the linker would settle on "absent" for
 * good, unless the address is loaded from the global offset table, which noplt asks for. */
#if defined(__has_attribute)
#if __has_attribute(noplt)
#define SNAPSHIM_WEAK_ __attribute__((weak, noplt))
#endif
#endif
#ifndef SNAPSHIM_WEAK_
#define SNAPSHIM_WEAK_ __attribute__((weak))
#endif
extern int __snapshim_active(void) SNAPSHIM_WEAK_;
extern int __snapshim_stat(const void *, struct snapshim_stat *) SNAPSHIM_WEAK_;
extern int __snapshim_check(const void *, int, struct snapshim_stat *) SNAPSHIM_WEAK_;
extern int __snapshim_mapv(struct snapshim_map *, int) SNAPSHIM_WEAK_;
extern int __snapshim_why(const void *, char *, size_t) SNAPSHIM_WEAK_;
extern const char *__snapshim_version(void) SNAPSHIM_WEAK_;

/* 1 if this process can make snapshots; 0 without the shim, with SNAPSHIM_DISABLE=1, or if the shared table cannot be used. */
static inline int snapshim_active(void)
{
    return __snapshim_active ? __snapshim_active() : 0;
}

/* Describes the snapshot that `addr` lies in. 0, or -1 with errno: EINVAL (no snapshot there), ENOSYS (no shim). */
static inline int snapshim_stat(const void *addr, struct snapshim_stat *stat)
{
    if (__snapshim_stat)
        return __snapshim_stat(addr, stat);
    errno = ENOSYS;
    return -1;
}

/* The same, after a look through fd, a descriptor of the file, whether a program without the shim has changed it. snapshim_stat()
 * looks at up to 64 files by descriptors of its own; with snapshots of more files ask by this one, before what was read is
 * believed. 0, or -1 with errno: EINVAL (no snapshot there, or fd leads to another file), EAGAIN (another thread is at it), ENOSYS
 * (no shim). */
static inline int snapshim_check(const void *addr, int fd, struct snapshim_stat *stat)
{
    if (__snapshim_check)
        return __snapshim_check(addr, fd, stat);
    errno = ENOSYS;
    return -1;
}

/* Why the snapshot that `addr` lies in is doubtful or broken, in words for a person and with what to do: what the log says of it.
 * Like snprintf(3), it stores at most size bytes with the '\0' behind them, and returns the length of the whole text: 0 for a
 * snapshot that is exact or live. Otherwise -1 with errno: EINVAL (no snapshot there), ENOSYS (no shim). */
static inline int snapshim_why(const void *addr, char *buffer, size_t size)
{
    if (__snapshim_why)
        return __snapshim_why(addr, buffer, size);
    errno = ENOSYS;
    return -1;
}

/* Takes n snapshots, of one file or of several, at one instant: what one of them shows of a change, all of them show. All or none.
 *
 * 0, and each addr is set; or -1 with errno, and nothing is mapped: EINVAL (n < 1, or as for mmap), E2BIG (n > SNAPSHIM_GROUP),
 * EBADF, ENODEV (neither a file nor a block device), EOPNOTSUPP (a file system whose files change without a system call here),
 * ENFILE (the table is full), ENOMEM, EBUSY (the kernel uses the device, or SNAPSHIM_CLAIM cannot have it), ETIMEDOUT (a writer did
 * not finish in time), EDEADLK (in a handler that interrupted a write), ESTALE (the table was removed or replaced), EUCLEAN (it is
 * damaged), ENOSYS (no shim). The error of the entry that is the reason is the same number. */
static inline int snapshim_mapv(struct snapshim_map *maps, int n)
{
    if (__snapshim_mapv)
        return __snapshim_mapv(maps, n);
    errno = ENOSYS;
    return -1;
}

/* A snapshot of one file, where mmap() with MAP_SNAPSHOT would be an ordinary mapping without the shim. Its address, or MAP_FAILED
 * with errno: as snapshim_mapv(). munmap(2) ends it. */
static inline void *snapshim_map(int fd, off_t offset, size_t length, int prot)
{
    struct snapshim_map map;
    map.fd = fd;
    map.prot = prot;
    map.offset = offset;
    map.length = length;
    map.addr = NULL;
    map.flags = map.error = 0;
    return snapshim_mapv(&map, 1) == 0 ? map.addr : MAP_FAILED;
}

/* The version of the shim, "MAJOR.MINOR.PATCH"; NULL without it. */
static inline const char *snapshim_version(void)
{
    return __snapshim_version ? __snapshim_version() : NULL;
}

#ifdef __cplusplus
}
#endif

#endif

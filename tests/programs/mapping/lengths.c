/* lengths plain|snapshot: calls on a mapping whose lengths and addresses no memory has. Says what each answers, and whether the
 * mapping still is there; the same for a snapshot as for a plain mapping. */
#include "check.h"

#include <sys/syscall.h>

static const size_t SIZE = 4 * 4096;
static unsigned char *at;

static void say(const char *name, long result)
{
    int failure = errno;
    unsigned char there[4];
    int is_there = mincore(at, SIZE, there) == 0;
    printf("%s: %s; %s\n", name, result == -1 ? strerror(failure) : "done", is_there && shows(at, 0, SIZE, 0) ? "there" : "GONE");
    CHECK(is_there);
}

static void resize(const char *name, size_t old, size_t new, int flags, size_t target)
{
    errno = 0;
    say(name, syscall(SYS_mremap, at, old, new, flags, target));
    errno = 0;
    say(name, (long)mremap(at, old, new, flags, (void *)target));
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    int fd = make_file("file", SIZE);
    int kind = MAP_PRIVATE | (strcmp(argv[1], "snapshot") == 0 ? MAP_SNAPSHOT : 0);
    at = mmap(NULL, SIZE, PROT_READ, kind, fd, 0);
    CHECK(at != MAP_FAILED);
    const int may = MREMAP_MAYMOVE, fixed = MREMAP_MAYMOVE | MREMAP_FIXED;
    const size_t top = ((size_t)1 << 47) - PAGE;
    resize("longer than all", SIZE, SIZE_MAX, may, 0);
    resize("rounded to nothing", SIZE, SIZE_MAX - PAGE + 2, may, 0);
    resize("no length", SIZE, 0, may, 0);
    resize("no length, in place", SIZE, 0, 0, 0);
    resize("to the top, longer than all", SIZE, SIZE_MAX, fixed, top);
    resize("past the top", SIZE, 2 * PAGE, fixed, top);
    resize("past the top, shorter", SIZE, PAGE, fixed, (size_t)1 << 62);
    resize("nowhere", SIZE, PAGE, fixed, SIZE_MAX - PAGE + 1);
    resize("not on a page", SIZE, PAGE, fixed, top / 2 + 1);
    resize("fixed, may not move", SIZE, PAGE, MREMAP_FIXED, top / 2 + 1);
    errno = 0, say("munmap of all", munmap(at, SIZE_MAX));
    errno = 0, say("munmap past the top", munmap(at, SIZE_MAX - (size_t)at - PAGE));
    errno = 0, say("munmap of nothing", munmap(at, 0));
    errno = 0, say("munmap off a page", munmap(at + 1, PAGE));
    errno = 0, say("mprotect of all", mprotect(at, SIZE_MAX, PROT_NONE));
    errno = 0, say("mprotect to the end of numbers", mprotect(at, SIZE_MAX - (size_t)at, PROT_NONE));
    errno = 0, say("mprotect of nothing", mprotect(at, 0, PROT_NONE));
    errno = 0, say("mprotect off a page", mprotect(at + 1, PAGE, PROT_NONE));
    errno = 0, say("madvise of all", madvise(at, SIZE_MAX, MADV_DONTNEED));
    errno = 0, say("madvise to the end of numbers", madvise(at, SIZE_MAX - (size_t)at, MADV_DONTNEED));
    errno = 0, say("madvise of nothing", madvise(at, 0, MADV_DONTNEED));
    errno = 0, say("madvise off a page", madvise(at + 1, PAGE, MADV_DONTNEED));
    errno = 0, say("mmap over it of all", (long)mmap(at, SIZE_MAX, PROT_READ, kind | MAP_FIXED, fd, 0));
    errno = 0, say("mmap over it past the top", (long)mmap(at, top, PROT_READ, kind | MAP_FIXED, fd, 0));
    errno = 0, say("mmap over it of memory past the top",
                   (long)mmap(at, top, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    errno = 0, say("mmap over it of nothing", (long)mmap(at, 0, PROT_READ, kind | MAP_FIXED, fd, 0));
    errno = 0, say("mmap of all", (long)mmap(NULL, SIZE_MAX, PROT_READ, kind, fd, 0));
    errno = 0, say("mmap of nearly all", (long)mmap(NULL, SIZE_MAX - 2 * PAGE, PROT_READ, kind, fd, 0));
    return 0;
}

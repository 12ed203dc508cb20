/* beside PLUGIN WAY: a snapshot is held while a library in a namespace of its own, with a libc of its own, changes the file. */
#include "check.h"

#include <dlfcn.h>

#define SIZE (16 * PAGE)

static void *loaded(const char *name)
{
    errno = 55;
    void *handle = dlmopen(LM_ID_NEWLM, name, RTLD_NOW);
    if (!handle)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(handle);
    return handle;
}

static void *function(void *handle, const char *name)
{
    void *found = dlsym(handle, name);
    CHECK(found);
    return found;
}

static void changes(void *handle, const char *way)
{
    void (*change)(const char *, const char *) = function(handle, "by_libc_beside");
    for (int protection = PROT_READ; protection <= (PROT_READ | PROT_WRITE); protection += PROT_WRITE) {
        int fd = make_file("file", SIZE);
        unsigned char *at = snapshot(fd, 0, SIZE, protection);
        change(way, "file");
        CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
        unsigned char now[SIZE];
        ssize_t there = pread(fd, now, SIZE, 0);
        CHECK(there >= 0 && ((size_t)there != SIZE || memcmp(at, now, SIZE) != 0));
        CHECK(munmap(at, SIZE) == 0);
        close(fd);
    }
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    if (strcmp(argv[2], "name") == 0) {
        /* Found by the RUNPATH of the caller. */
        changes(loaded(strrchr(argv[1], '/') + 1), "write");
        return 0;
    }
    void *handle = loaded(argv[1]);
    if (strcmp(argv[2], "errno") == 0) {
        ((void (*)(void))function(handle, "errno_beside"))();
        CHECK_ERRNO(write(-1, "", 1), -1, EBADF);
    } else if (strcmp(argv[2], "nested") == 0) {
        void *(*nested)(const char *) = function(handle, "namespace_beside");
        changes(nested(argv[1]), "write");
    } else if (strcmp(argv[2], "again") == 0) {
        /* Namespaces go and come; there are never more than a few. An older libc gives nothing of its static thread-local storage
         * back, and has none left after some. */
        int times = __GLIBC_MINOR__ < 34 ? 6 : 40;
        for (int i = 0; i < times; i++) {
            CHECK(dlclose(handle) == 0);
            handle = loaded(argv[1]);
            ((void (*)(void))function(handle, "errno_beside"))();
        }
        changes(handle, "write");
        void *second = loaded(argv[1]);
        changes(second, "write");
        changes(handle, "stdio");
    } else
        changes(handle, argv[2]);
    return 0;
}

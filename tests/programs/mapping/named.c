/* named map KIND...: maps the file "victim" so, each time anew, and says whether the mapping is a snapshot.
 * named short SIZE LENGTH: asks for the file's size, has the file truncated to SIZE, maps LENGTH bytes (0: the size that it was
 * told), and says what each page shows. `asked` is the same with a snapshot that the program asks for.
 * named load NAME...: loads each library (dlopen(3)) and calls it.
 */
#include "check.h"

#include <dlfcn.h>

enum { PAGES = 3 };

static void kind_of(const char *name, int *flags, int *access, int *protection)
{
    *flags = strncmp(name, "private", 7) == 0 ? MAP_PRIVATE : MAP_SHARED;
    *access = strstr(name, "read-write") ? O_RDWR : O_RDONLY;
    *protection = strstr(name, "stored") ? PROT_READ | PROT_WRITE : PROT_READ;

}

static void map(const char *name)
{
    int flags, access, protection, version = 0;
    kind_of(name, &flags, &access, &protection);
    int writer = make_file("victim", PAGES * PAGE), file = open("victim", access);
    unsigned char *at = mmap(NULL, PAGES * PAGE, protection, flags, file, 0);
    if (at == MAP_FAILED) {
        printf("%s: %s\n", name, strerrorname_np(errno));
        return;
    }
    overwrite(writer, 0, PAGES * PAGE, ++version);
    printf("%s: %s\n", name, shows(at, 0, PAGES * PAGE, 0) ? "snapshot" : "live");
    CHECK(munmap(at, PAGES * PAGE) == 0 && close(file) == 0 && close(writer) == 0);
}

static void show(unsigned char *at, size_t length, size_t size)
{
    for (size_t page = 0; page * PAGE < length; page++) {
        unsigned char *start = at + page * PAGE;
        int number = fault_of_reading(start);
        if (number != 0) {
            printf("page %zu: %s\n", page, number == SIGBUS ? "SIGBUS" : "another signal");
            continue;
        }
        size_t shown = page * PAGE >= size ? 0 : size - page * PAGE < PAGE ? size - page * PAGE : PAGE, zeros = 0;
        CHECK(shown == 0 || shows(start, page * PAGE, shown, 0));
        for (size_t i = shown; i < PAGE; i++)
            zeros += start[i] == 0;
        printf("page %zu: %zu bytes, %zu zeros\n", page, shown, zeros);
    }
}

static void map_short(size_t size, size_t length, int flags)
{
    int writer = make_file("victim", PAGES * PAGE), file = open("victim", O_RDONLY);
    struct stat told;
    CHECK(fstat(file, &told) == 0 && ftruncate(writer, (off_t)size) == 0);
    length = length ? length : (size_t)told.st_size;
    unsigned char *at = mmap(NULL, length, PROT_READ, flags, file, 0);
    if (at == MAP_FAILED) {
        printf("%s\n", strerrorname_np(errno));
        return;
    }
    show(at, length, size);
    /* What comes later is not shown either. */
    overwrite(writer, 0, PAGES * PAGE, 1);
    show(at, length, size);
    CHECK(munmap(at, length) == 0);
}

static void load(const char *name)
{
    void *library = dlopen(name, RTLD_NOW);
    CHECK(library != NULL);
    int (*answer)(void) = (int (*)(void))(uintptr_t)dlsym(library, "answer");
    CHECK(answer != NULL);
    printf("answer: %d\n", answer());
}

int main(int argc, char **argv)
{
    CHECK(argc >= 2);
    if (strcmp(argv[1], "map") == 0)
        for (int i = 2; i < argc; i++)
            map(argv[i]);
    else if (strcmp(argv[1], "short") == 0 && argc == 4)
        map_short(strtoul(argv[2], NULL, 10), strtoul(argv[3], NULL, 10), MAP_SHARED);
    else if (strcmp(argv[1], "asked") == 0 && argc == 4)
        map_short(strtoul(argv[2], NULL, 10), strtoul(argv[3], NULL, 10), MAP_PRIVATE | MAP_SNAPSHOT);
    else if (strcmp(argv[1], "load") == 0)
        for (int i = 2; i < argc; i++)
            load(argv[i]);
    else
        CHECK(!"known");
    return 0;
}

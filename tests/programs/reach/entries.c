/* Of the names on standard input, prints those that a handle of libc's leads to a function for whose entry is not a jump. */
#include "check.h"

#include <dlfcn.h>

static int is_jump(const unsigned char *entry)
{
    static const unsigned char landing[] = {0xf3, 0x0f, 0x1e, 0xfa};
    if (memcmp(entry, landing, sizeof landing) == 0)
        entry += sizeof landing;
    return entry[0] == 0xe9 || (entry[0] == 0xff && entry[1] == 0x25);
}

int main(void)
{
    char name[200];
    void *libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
    CHECK(libc);
    while (scanf("%199s", name) == 1) {
        const unsigned char *entry = dlsym(libc, name);
        if (entry && !is_jump(entry))
            puts(name);
    }
    return 0;
}

/* dropped: a thread that has ended snapshots by their number, as `snapshim drop` does, is in no call any more. */
#include "check.h"

#include <dlfcn.h>

int main(void)
{
    uint32_t process;
    int (*drop)(uint64_t, uint32_t *) = (int (*)(uint64_t, uint32_t *))dlsym(RTLD_DEFAULT, "__snapshim_drop");
    int file = make_file("file", PAGE);
    CHECK(drop);
    CHECK_ERRNO(drop(UINT64_MAX, &process), -1, ENOENT);
    unsigned char *at = snapshot(file, 0, PAGE, PROT_READ);
    overwrite(file, 0, PAGE, 1);
    CHECK(shows(at, 0, PAGE, 0) && munmap(at, PAGE) == 0);
    return 0;
}

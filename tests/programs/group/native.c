/* Without the shim: no mapping that is not a snapshot. */
#include "check.h"

int main(void)
{
    int fd = make_file("file", PAGE);
    struct snapshim_map map = {.fd = fd, .prot = PROT_READ, .length = PAGE};
    CHECK_ERRNO(snapshim_mapv(&map, 1), -1, ENOSYS);
    CHECK(map.addr == NULL);
    CHECK_ERRNO(snapshim_map(fd, 0, PAGE, PROT_READ), MAP_FAILED, ENOSYS);
    return 0;
}

/* why FILE: an exact snapshot has nothing to say; what is no snapshot is refused. */
#include "check.h"

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    char text[8] = "before";
    int fd = open(argv[1], O_RDWR);
    unsigned char *at = snapshot(fd, 0, PAGE, PROT_READ);
    CHECK(snapshim_why(at, text, sizeof text) == 0 && text[0] == 0 && text[1] == 'e');
    overwrite(fd, 0, PAGE, 1);
    CHECK(snapshim_why(at, NULL, 0) == 0);
    strcpy(text, "before");
    CHECK_ERRNO(snapshim_why(text, text, sizeof text), -1, EINVAL);
    CHECK_ERRNO(snapshim_why(NULL, text, sizeof text), -1, EINVAL);
    CHECK(strcmp(text, "before") == 0);
    CHECK(munmap(at, PAGE) == 0);
    CHECK_ERRNO(snapshim_why(at, text, sizeof text), -1, EINVAL);
    return 0;
}

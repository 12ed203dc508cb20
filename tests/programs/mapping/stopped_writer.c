/* A terminal stops a writer, which has no handlers, while it makes pages of a snapshot private (SIGTSTP). The mapper can give its
 * snapshot up meanwhile: no push is stopped in its middle. */
#include "check.h"

#define SIZE ((size_t)64 << 20)

static int file;

static void __attribute__((noreturn)) write_when_told(int to_writer, int from_writer)
{
    char byte, *bytes = malloc(SIZE);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    CHECK(bytes && memset(bytes, 'w', SIZE) && setpgid(0, 0) == 0);
    while (read(to_writer, &byte, 1) == 1) {
        CHECK(write(from_writer, "", 1) == 1);
        CHECK(pwrite(file, bytes, SIZE, 0) == (ssize_t)SIZE);
        CHECK(write(from_writer, "", 1) == 1);
    }
    _exit(0);
}

int main(void)
{
    int to_writer[2], from_writer[2], status;
    char byte;
    file = make_file("file", SIZE);
    CHECK(pipe(to_writer) == 0 && pipe(from_writer) == 0);
    pid_t writer = fork();
    CHECK(writer >= 0);
    if (writer == 0) {
        close(to_writer[1]);
        write_when_told(to_writer[0], from_writer[1]);
    }
    for (int round = 0; round < 6; round++) {
        unsigned char *at = snapshot(file, 0, SIZE, PROT_READ);
        CHECK(write(to_writer[1], "", 1) == 1 && read(from_writer[0], &byte, 1) == 1);
        usleep(1000 + 3000 * (useconds_t)round);
        CHECK(kill(writer, SIGTSTP) == 0);
        CHECK(waitpid(writer, &status, WUNTRACED) == writer && WIFSTOPPED(status));
        CHECK(munmap(at, SIZE) == 0);
        CHECK(kill(writer, SIGCONT) == 0 && read(from_writer[0], &byte, 1) == 1);
    }
    close(to_writer[1]);
    CHECK(waitpid(writer, &status, 0) == writer && status == 0);
    return 0;
}

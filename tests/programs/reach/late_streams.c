/* late_streams HOW FILE [r|rw]: FILE is opened for writing as HOW says, and has bytes that wait in memory, before "ready" is printed.
 * A line on standard input, which is when snapshots have been taken, makes them land. With r or rw a snapshot is taken by this very
 * process instead, and compared. Without HOW: lists the ways. */
#include "check.h"

#include <aio.h>
#include <wchar.h>

static const char *path;
static unsigned char block[5 * 4096];
static FILE *stream;
enum { AT = 4096 * 2 + 99 };

static void buffered(const char *mode)
{
    stream = fopen(path, mode);
    CHECK(stream && setvbuf(stream, NULL, _IOFBF, 1 << 16) == 0);
    CHECK(fseek(stream, mode[0] == 'a' ? 0 : AT, SEEK_SET) == 0);
}
static void fill(void) { CHECK(fwrite(block, 1, sizeof block, stream) == sizeof block); }

static void open_plain(void) { buffered("r+"); fill(); }
static void open_append(void) { buffered("a"); fill(); }
static void land_flush(void) { CHECK(fflush(stream) == 0); }
static void land_close(void) { CHECK(fclose(stream) == 0); }
static void land_flush_all(void) { CHECK(fflush(NULL) == 0); }
static void land_by_seek(void) { CHECK(fseek(stream, 0, SEEK_SET) == 0); }
static void land_by_reopening(void) { CHECK(freopen("/dev/null", "w", stream) != NULL); }
static void land_by_filling(void)
{
    for (int i = 0; i < 8; i++)
        fill();
}
static void land_by_letters(void)
{
    for (int i = 0; i < 100000; i++)
        CHECK(fprintf(stream, "%c", 'p') == 1 && fputs("s", stream) >= 0 && putc('c', stream) == 'c');
}
static void open_descriptor(void)
{
    stream = fdopen(open(path, O_RDWR), "r+");
    CHECK(stream && fseek(stream, AT, SEEK_SET) == 0);
    fill();
}
static void open_unbuffered(void)
{
    buffered("r+");
    setvbuf(stream, NULL, _IONBF, 0);
}
static void open_wide(void)
{
    buffered("r+");
    for (int i = 0; i < 3000; i++)
        CHECK(fputwc(L'w', stream) == L'w');
}
static void open_cutter(void)
{
    stream = fopen("/dev/null", "w");
    CHECK(stream);
}
static void land_by_cutting(void) { CHECK(freopen(path, "w", stream) && fputs("short", stream) >= 0 && fclose(stream) == 0); }
static void land_by_cutting_itself(void) { CHECK(freopen(NULL, "w", stream) && fputs("short", stream) >= 0 && fclose(stream) == 0); }
static void open_nothing(void) {}
static void land_by_fopen(void) { open_cutter(); CHECK(fclose(stream) == 0 && (stream = fopen(path, "w")) && fputs("a", stream) >= 0 && fclose(stream) == 0); }
static void land_by_dprintf(void)
{
    int fd = open(path, O_WRONLY);
    CHECK(fd >= 0 && lseek(fd, AT, SEEK_SET) == AT && dprintf(fd, "%9000d", 5) == 9000);
}
static void land_by_aio(void)
{
    struct aiocb request = {.aio_fildes = open(path, O_WRONLY), .aio_buf = block, .aio_nbytes = sizeof block, .aio_offset = AT};
    const struct aiocb *all[] = {&request};
    CHECK(aio_write(&request) == 0);
    while (aio_error(&request) == EINPROGRESS)
        aio_suspend(all, 1, NULL);
    CHECK(aio_return(&request) == (ssize_t)sizeof block);
}
static volatile sig_atomic_t told;
static void on_end(int number)
{
    (void)number;
    told = 1;
}
static void land_by_list(void)
{
    static unsigned char read_back[100];
    int ends[2];
    CHECK(pipe(ends) == 0 && write(ends[1], "pipe", 4) == 4);
    signal(SIGUSR1, on_end);
    struct aiocb one = {.aio_fildes = open(path, O_WRONLY), .aio_buf = block, .aio_nbytes = sizeof block, .aio_lio_opcode = LIO_WRITE};
    struct aiocb two = {.aio_fildes = ends[0], .aio_buf = read_back, .aio_nbytes = 4, .aio_lio_opcode = LIO_READ};
    struct aiocb none = {.aio_lio_opcode = LIO_NOP};
    struct aiocb *list[] = {&one, NULL, &two, &none};
    struct sigevent then = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    CHECK(lio_listio(LIO_NOWAIT, list, 4, &then) == 0);
    while (!told)
        usleep(1000);
    CHECK(aio_return(&one) == (ssize_t)sizeof block && aio_return(&two) == 4 && memcmp(read_back, "pipe", 4) == 0);
    one.aio_offset = AT * 2;
    CHECK(lio_listio(LIO_WAIT, list, 1, NULL) == 0 && aio_return(&one) == (ssize_t)sizeof block);
    one.aio_fildes = open(path, O_RDONLY);
    CHECK_ERRNO(lio_listio(LIO_WAIT, list, 1, NULL), -1, EIO);
    CHECK(aio_error(&one) == EBADF);
}
static void land_at_exit(void) {}

static const struct how {
    const char *name;
    void (*open)(void);
    void (*land)(void);
} hows[] = {
    {"fflush", open_plain, land_flush},
    {"fclose", open_plain, land_close},
    {"fflush of all", open_plain, land_flush_all},
    {"fseek", open_plain, land_by_seek},
    {"freopen elsewhere", open_plain, land_by_reopening},
    {"a full buffer", open_plain, land_by_filling},
    {"fprintf, fputs, putc", open_plain, land_by_letters},
    {"unbuffered", open_unbuffered, land_by_letters},
    {"exit", open_plain, land_at_exit},
    {"append", open_append, land_flush},
    {"fdopen", open_descriptor, land_flush},
    {"wide", open_wide, land_close},
    {"freopen w", open_cutter, land_by_cutting},
    {"freopen w of itself", open_plain, land_by_cutting_itself},
    {"fopen w", open_nothing, land_by_fopen},
    {"dprintf", open_nothing, land_by_dprintf},
    {"aio_write", open_nothing, land_by_aio},
    {"lio_listio", open_nothing, land_by_list},
};
enum { HOWS = sizeof hows / sizeof *hows };

static void await_line(void)
{
    char byte;
    CHECK(write(1, "ready\n", 6) == 6);
    while (read(0, &byte, 1) > 0 && byte != '\n')
        ;
}

int main(int argc, char **argv)
{
    if (argc == 1) {
        for (int i = 0; i < HOWS; i++)
            puts(hows[i].name);
        return 0;
    }
    CHECK(argc == 3 || argc == 4);
    path = argv[2];
    memset(block, 'L', sizeof block);
    const struct how *how = hows;
    while (strcmp(how->name, argv[1]) != 0)
        CHECK(++how < hows + HOWS);
    how->open();
    if (argc == 3) {
        await_line();
        how->land();
        return 0;
    }
    int fd = open(path, O_RDONLY);
    size_t size = (size_t)lseek(fd, 0, SEEK_END);
    unsigned char *copy = malloc(size);
    CHECK(fd >= 0 && copy && pread(fd, copy, size, 0) == (ssize_t)size);
    unsigned char *at = snapshot(fd, 0, size, strcmp(argv[3], "rw") == 0 ? PROT_READ | PROT_WRITE : PROT_READ);
    how->land();
    struct snapshim_stat stat;
    CHECK(snapshim_stat(at, &stat) == 0 && stat.state == SNAPSHIM_EXACT);
    CHECK(memcmp(at, copy, size) == 0);
    return 0;
}

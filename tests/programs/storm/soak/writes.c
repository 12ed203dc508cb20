#include "writes.h"

#include "file_writes.h"
#include <linux/falloc.h>

_Thread_local unsigned char buffer[STATE_BYTES] __attribute__((aligned(4096)));

int has_aio = 1;

/* Perhaps a snapshot of that very file is taken while a write is under way. */
static void take_another(size_t file)
{
    struct held *one = &held[below(HELD)];
    if (!one->at)
        take(one, file);
}

static ssize_t write_by_own_stream(const char *path, const void *data, size_t length, off_t offset)
{
    ssize_t count = write_by_stdio(path, data, length, offset);
    CHECK(count >= 0);
    return count;
}

/* Returns the bytes written, -1 if it failed. `fd` has a file position that no other thread uses. */
static ssize_t write_by(int way, int fd, const char *path, unsigned char *data, size_t length, off_t offset)
{
    struct iovec parts[] = {{data, length / 3}, {data + length / 3, length - length / 3}};
    switch (way) {
    case WRITE: CHECK(lseek(fd, offset, SEEK_SET) == offset); return write(fd, data, length);
    case WRITEV: CHECK(lseek(fd, offset, SEEK_SET) == offset); return writev(fd, parts, 2);
    case PWRITEV: return pwritev(fd, parts, 2, offset);
    case PWRITEV2: return pwritev2(fd, parts, 2, offset, 0);
    case STDIO: return write_by_own_stream(path, data, length, offset);
    case AIO: return has_aio ? write_by_aio(fd, data, length, offset, 0) : pwrite(fd, data, length, offset);
    case COPY: return write_by_copy(fd, path, data, length, offset);
    case SENDFILE: return write_by_sendfile(fd, data, length, offset, 1);
    case SPLICE: return write_by_splice(fd, data, length, offset);
    default: return pwrite(fd, data, length, offset);
    }
}

/* Cells [first, first + count) of a file. */
static void write_cells(int fd, size_t file, size_t first, size_t count, int way)
{
    size_t size = cell_size[file], most = way == SPLICE ? PAGE : STATE_BYTES;
    count = count * size > most ? most / size : count;
    step(way_names[way], (int64_t)file, (int64_t)(first << 16 | count));
    uint64_t number = begin_write(way_names[way], file, first, count, way < WHOLE && size == 2048);
    unsigned char *at = buffer;
    for (size_t cell = first; cell < first + count; cell++)
        at = (unsigned char *)fill_cell(at, file, cell, number);
    size_t length = count * size;
    ssize_t written = write_by(way, fd, file_path(file), buffer, length, (off_t)(first * size));
    shared->ways[way] += written == (ssize_t)length;
    if (written != (ssize_t)length && way >= WHOLE) /* a signal came */
        written = write_by(PWRITE, fd, file_path(file), buffer, length, (off_t)(first * size));
    CHECK(written == (ssize_t)length);
    end_write(number);
    shared->writes++;
}

void write_some_cells(void)
{
    size_t file = below(CELL_FILES), count = cells_of(file), first = below(count);
    int fd = open(file_path(file), O_RDWR | O_CLOEXEC), turns = 1 + (int)below(4);
    CHECK(fd >= 0);
    while (turns-- > 0)
        if (cell_size[file] == 2048)
            write_cells(fd, file, first, 1 + below(one_in(8) ? count - first : count - first < 5 ? count - first : 5), (int)below(WAYS));
        else
            write_cells(fd, file, first | 1, 1, (int)below(PWRITEV2 + 1));
    close(fd);
}

_Thread_local unsigned char *stored[2];

static void store_word(unsigned char *at, uint64_t word)
{
    int ends[2];
    switch (below(12)) {
    case 0: /* the kernel stores */
        CHECK(pipe2(ends, O_CLOEXEC) == 0 && write(ends[1], &word, 8) == 8 && read(ends[0], at, 8) == 8);
        close(ends[0]), close(ends[1]);
        break;
    case 1:
        ends[0] = memory_file(&word, 8);
        CHECK(pread(ends[0], at, 8, 0) == 8);
        close(ends[0]);
        break;
    default: *(volatile uint64_t *)(void *)at = word;
    }
}

void store_some_words(void)
{
    size_t which = below(2), file = 2 + which, size = CELL_PAGES * PAGE;
    unsigned char **at = &stored[which];
    if (!*at) {
        int fd = open(file_path(file), O_RDWR | O_CLOEXEC);
        step("map shared", (int64_t)file, 0);
        *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(fd >= 0 && *at != MAP_FAILED);
        close(fd);
    } else if (one_in(12)) {
        step("remap shared", (int64_t)file, (int64_t)(uintptr_t)*at);
        if (one_in(2)) {
            CHECK(munmap(*at, size) == 0);
            *at = NULL;
            return;
        }
        CHECK(mprotect(*at, size / 2, PROT_READ) == 0 && mprotect(*at, size / 2, PROT_READ | PROT_WRITE) == 0);
        void *to = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        *at = mremap(*at, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to);
        CHECK(*at == to);
    }
    size_t turns = 1 + below(40);
    step("stores", (int64_t)file, (int64_t)turns);
    while (turns-- > 0) {
        size_t cell = below(CELLS) & ~(size_t)1;
        uint64_t number = begin_write("store", file, cell, 1, 0);
        store_word(*at + cell * 512, number);
        end_write(number);
        shared->stores++;
    }
}

struct target {
    const char *path;
    size_t file;
    int fd;
    size_t size;
};

static void fill_buffer(void)
{
    uint64_t seed = tick();
    for (size_t i = 0; i < STATE_BYTES / 8; i++)
        ((uint64_t *)(void *)buffer)[i] = seed * (i + 0x10001);
}

static size_t some_pages(void)
{
    return PAGE * (1 + below(3));
}

/* A place within STATE_BYTES for so many bytes. */
static size_t place_for(size_t length)
{
    return below(STATE_BYTES - length + 1);
}

static void change_range(struct target *target, int way)
{
    size_t length = 1 + below(one_in(2) ? STATE_BYTES / 2 : 300), at = place_for(length);
    if (way == SPLICE && length > PAGE)
        length = PAGE;
    (void)write_by(way, target->fd, target->path, buffer, length, (off_t)at);
}

static void change_whole(struct target *target)
{
    change_range(target, (int)below(WHOLE));
}

/* Within the file, so that what a copy in several steps leads through is a mix. */
static void change_mixed(struct target *target)
{
    if (target->size < 8)
        return;
    size_t at = below(target->size) & ~(size_t)7, length = (target->size - at) & ~(size_t)7;
    length = length < PAGE ? length : PAGE;
    (void)write_by(WHOLE + (int)below(WAYS - WHOLE), target->fd, target->path, buffer, length, (off_t)at);
}

static void append(struct target *target)
{
    size_t room = STATE_BYTES - target->size, length = room ? 1 + below(room < 6000 ? room : 6000) : 0;
    int fd = open(target->path, O_WRONLY | O_APPEND | O_CLOEXEC);
    CHECK(fd >= 0 && write(fd, buffer, length) == (ssize_t)length);
    close(fd);
}

static void print(struct target *target)
{
    size_t at = place_for(8);
    if (!is_alone())
        return; /* dprintf puts a stream on the stack into a list that a child would inherit */
    CHECK(lseek(target->fd, (off_t)at, SEEK_SET) == (off_t)at && dprintf(target->fd, "%08x", (unsigned)below(1 << 30)) == 8);
}

static void resize(struct target *target)
{
    off_t size = (off_t)(one_in(3) ? below(STATE_PAGES + 1) * PAGE : below(STATE_BYTES + 1));
    CHECK((one_in(2) ? ftruncate(target->fd, size) : truncate(target->path, size)) == 0);
}

static void empty(struct target *target)
{
    if (one_in(2)) {
        FILE *file = fopen(target->path, "we");
        CHECK(file && fclose(file) == 0);
    } else {
        int fd = one_in(2) ? creat(target->path, 0600) : open(target->path, O_RDWR | O_TRUNC | O_CLOEXEC);
        CHECK(fd >= 0);
        close(fd);
    }
}

static void allocate(struct target *target)
{
    static const int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
                                FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE};
    size_t which = below(sizeof modes / sizeof modes[0]), length = 1 + below(3 * PAGE), at = place_for(length);
    if (which >= 5) {
        length = some_pages();
        at = below(STATE_PAGES - 3) * PAGE;
        if (which == 6 && target->size + length > STATE_BYTES)
            return;
    }
    step("fallocate", modes[which], (int64_t)at);
    int failed = 0;
    if (which == 0 && one_in(2))
        failed = posix_fallocate(target->fd, (off_t)at, (off_t)length);
    else if (fallocate(target->fd, modes[which], (off_t)at, (off_t)length) == -1)
        failed = errno;
    CHECK(failed == 0 || failed == EINTR || (which > 0 && (failed == EOPNOTSUPP || failed == EINVAL)));
}

static void replace(struct target *target)
{
    char path[320];
    snprintf(path, sizeof path, "%s.new", target->path);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    size_t length = below(STATE_BYTES + 1);
    CHECK(fd >= 0 && pwrite(fd, buffer, length, 0) == (ssize_t)length);
    CHECK(rename(path, target->path) == 0);
    close(fd);
}

static void write_direct(struct target *target)
{
    size_t length = some_pages(), at = below(STATE_PAGES - 3) * PAGE;
    int fd = open(target->path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd < 0)
        return;
    if (one_in(2))
        CHECK(pwrite(fd, buffer, length, (off_t)at) == (ssize_t)length);
    else
        CHECK(write_by_queue(fd, buffer, length, (off_t)at, take_another, target->file) == (ssize_t)length);
    close(fd);
}

static void store_pages(struct target *target)
{
    size_t length = target->size / PAGE * PAGE;
    if (length == 0)
        return;
    unsigned char *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, target->fd, 0);
    CHECK(at != MAP_FAILED);
    size_t start = below(length / 8) * 8, end = start + (1 + below((length - start) / 8)) * 8;
    int from = one_in(3) ? memory_file(buffer, end - start) : -1;
    if (from < 0)
        for (size_t i = start; i < end; i += 8)
            *(volatile uint64_t *)(void *)(at + i) = *(uint64_t *)(void *)(buffer + i);
    else
        CHECK(pread(from, at + start, end - start, 0) == (ssize_t)(end - start) && close(from) == 0);
    CHECK(one_in(4) ? msync(at, length, MS_SYNC) == 0 : 1);
    CHECK(munmap(at, length) == 0);
}

void change_a_state(void)
{
    static const struct {
        const char *name;
        void (*change)(struct target *);
        int is_mixed;
    } all[] = {{"whole write", change_whole, 0}, {"mixed write", change_mixed, 1}, {"append", append, 0}, {"print", print, 0}, {"resize", resize, 0},
               {"empty", empty, 0}, {"allocate", allocate, 0}, {"replace", replace, 0}, {"direct", write_direct, 0}, {"store", store_pages, 1}};
    size_t file = below(STATE_FILES), which = below(sizeof all / sizeof all[0]);
    const char *path = file_path(CELL_FILES + file);
    if (!lock_state(file, path))
        return;
    for (size_t turns = 1 + below(4); turns > 0; turns--) {
        struct stat found;
        struct target target = {.path = path, .file = CELL_FILES + file, .fd = open(path, O_RDWR | O_CLOEXEC)};
        CHECK(target.fd >= 0 && fstat(target.fd, &found) == 0);
        target.size = (size_t)found.st_size;
        fill_buffer();
        step(all[which].name, (int64_t)(CELL_FILES + file), histories[file].reached + 1);
        begin_state(file, all[which].is_mixed);
        all[which].change(&target);
        reach_state(file, path);
        close(target.fd);
        which = below(sizeof all / sizeof all[0]);
    }
    unlock_state(file);
    shared->writes++;
}

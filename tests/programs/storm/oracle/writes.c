#include "writes.h"

#include "file_writes.h"
#include "time.h"
#include <linux/falloc.h>
#include <sys/uio.h>

_Thread_local struct actor actors[ROLES];

int fd_of(struct actor *actor, int file)
{
    if (actor->fds[file] <= 0)
        actor->fds[file] = open(files[file].path, O_RDWR | O_CLOEXEC);
    CHECK(actor->fds[file] > 0);
    return actor->fds[file];
}

static ssize_t write_direct(const struct file *file, int fd, const void *data, size_t length, off_t offset)
{
    int direct = (offset | length) % PAGE ? -1 : open(file->path, O_RDWR | O_DIRECT | O_CLOEXEC);
    ssize_t count = pwrite(direct < 0 ? fd : direct, data, length, offset);
    if (direct >= 0)
        close(direct);
    return count;
}

static ssize_t write_at_end(const struct file *file, const void *data, size_t length)
{
    int fd = open(file->path, O_WRONLY | O_APPEND | O_CLOEXEC);
    CHECK(fd >= 0);
    ssize_t count = write(fd, data, length);
    close(fd);
    return count;
}

static ssize_t write_by(enum way way, int fd, const struct file *file, void *data, size_t length, off_t offset)
{
    struct iovec parts[] = {{data, length / 3}, {(char *)data + length / 3, length - length / 3}};
    switch (way) {
    case WRITE: CHECK(lseek(fd, offset, SEEK_SET) == offset); return write(fd, data, length);
    case WRITEV: CHECK(lseek(fd, offset, SEEK_SET) == offset); return writev(fd, parts, 2);
    case PWRITEV: return pwritev(fd, parts, 2, offset);
    case PWRITEV2: return pwritev2(fd, parts, 2, offset, 0);
    case STDIO: return write_by_stdio(file->path, data, length, offset);
    case AIO: return write_by_aio(fd, data, length, offset, 0);
    case LIO: return write_by_aio(fd, data, length, offset, 1);
    case QUEUE: return write_by_queue(fd, data, length, offset, NULL, 0);
    case NUMBER: return syscall(SYS_pwrite64, fd, data, length, offset);
    case DIRECT: return write_direct(file, fd, data, length, offset);
    case APPEND: return write_at_end(file, data, length);
    case COPY: return write_by_copy(fd, file->path, data, length, offset);
    case SENDFILE: return write_by_sendfile(fd, data, length, offset, 0);
    case SPLICE: return write_by_splice(fd, data, length, offset);
    default: return pwrite(fd, data, length, offset);
    }
}

/* Of a file that belongs to another: the call fails, after all has been done that has to be done before it. */
static void write_nothing(struct actor *actor, int line, int file, size_t page, size_t from, size_t length)
{
    static void *unreadable;
    if (!unreadable)
        unreadable = mmap(NULL, MOST_PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    size_t size = (size_t)files[file].pages * PAGE, start = page * PAGE % size + from % PAGE_WORDS * 8, room = size - start;
    ssize_t count = pwrite(fd_of(actor, file), unreadable, length * 8 < room ? length * 8 : room, (off_t)start);
    HOPE(actor->number, line, count == -1 && errno == EFAULT);
}

size_t lane_words(void)
{
    return PAGE_WORDS / ((size_t)thread_count * (ROLES + 1));
}

/* What actor may write of what is asked for: `length` words from word `from` of page `page`. 0 if nothing. */
static size_t own_range(const struct actor *actor, int file, size_t page, size_t from, size_t length, size_t *offset)
{
    const struct file *of = &files[file];
    page %= (size_t)of->pages;
    if (of->kind == WHOLE) {
        if (of->owner != actor->number)
            return 0;
        from = page * PAGE_WORDS + from % PAGE_WORDS;
        size_t room = (size_t)of->pages * PAGE_WORDS - from;
        *offset = from * 8;
        return 8 * (length < room ? length : room);
    }
    /* A thread itself has two lanes, so that the first and the last byte of a page belong to one that writes. */
    size_t threads = (size_t)thread_count, thread = ((size_t)(actor->number - 1) / ROLES + page) % threads;
    size_t is_second = actor->role == ITSELF_ && from / lane_words() % 2;
    from %= lane_words();
    size_t room = lane_words() - from, lane = (size_t)actor->role * threads + thread;
    size_t start = is_second ? PAGE_WORDS - (threads - thread) * lane_words() : lane * lane_words();
    *offset = (page * PAGE_WORDS + start + from) * 8;
    return 8 * (length < room ? length : room);
}

void note_written(const struct actor *actor, int line, uint64_t change, uint64_t begin, int file, size_t offset,
                         ssize_t count, int in_steps)
{
    uint64_t words[] = {change, begin, tick(), (uint64_t)file, offset, count < 0 ? 0 : (uint64_t)count, (uint64_t)in_steps};
    note(actor->number, WRITTEN, line, words, 7);
}

/* One call. `is_held`: the kernel waits in the middle of its copy. */
static void write_range(struct actor *actor, int line, int file, enum way way, size_t offset, size_t length, int is_held)
{
    int fd = fd_of(actor, file);
    uint64_t change = next_change(actor->number);
    fill(actor->buffer, offset, length, change);
    unsigned char *held = is_held && way != DIRECT && actor->role == ITSELF_ ? held_copy(actor->buffer, length) : NULL;
    void *data = held ? held : actor->buffer;
    uint64_t begin = tick();
    errno = 0;
    ssize_t count = write_by(way, fd, &files[file], data, length, (off_t)offset);
    int error = errno;
    note_written(actor, line, change, begin, file, offset, count, way >= IN_STEPS);
    errno = error;
    HOPE(actor->number, line, count == (ssize_t)length || way >= IN_STEPS);
}

static size_t size_of(int fd)
{
    struct stat found;
    CHECK(fstat(fd, &found) == 0);
    return (size_t)found.st_size;
}

/* Of a file that changes its size: bytes, not words. */
static void write_serial(struct actor *actor, int line, int file, enum way way, size_t offset, size_t length, int is_held)
{
    size_t most = (size_t)files[file].pages * PAGE;
    lock(file);
    size_t size = size_of(fd_of(actor, file));
    offset = way == APPEND ? size : way >= IN_STEPS && size ? offset % size : offset % most;
    size_t end = way >= IN_STEPS ? size : most;
    length = offset + length < end ? length : end - offset;
    length = way == SPLICE && length > PAGE ? PAGE : length;
    if (offset < end && length > 0)
        write_range(actor, line, file, way, offset, length, is_held);
    unlock(file);
}

void do_write(struct actor *actor, int line, const int *a)
{
    int file = a[0];
    enum way way = (enum way)a[1];
    if (actor->role == HANDLER || (actor->role == CHILD && (way == AIO || way == LIO))) /* a child has no threads for that */
        way = PWRITE;
    if (files[file].kind == SERIAL) {
        if (actor->role == ITSELF_)
            write_serial(actor, line, file, way, (size_t)a[2] * PAGE + (size_t)a[3], (size_t)a[4], a[5]);
        return;
    }
    size_t offset, length = own_range(actor, file, (size_t)a[2], (size_t)a[3], (size_t)a[4], &offset);
    if (!length)
        write_nothing(actor, line, file, (size_t)a[2], (size_t)a[3], (size_t)a[4]);
    if (way == SPLICE && length > PAGE)
        length = PAGE;
    if (length)
        write_range(actor, line, file, way == APPEND ? WRITE : way, offset, length, a[5]);
}

void do_store(struct actor *actor, int line, const int *a, unsigned char **mappings)
{
    int file = a[0], how = a[4];
    const struct file *of = &files[file];
    size_t offset, length = of->kind == SERIAL ? 0 : own_range(actor, file, (size_t)a[1], (size_t)a[2], (size_t)a[3], &offset);
    if (!length)
        return;
    size_t size = (size_t)of->pages * PAGE;
    if (!mappings[file])
        mappings[file] = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_of(actor, file), 0);
    HOPE(actor->number, line, mappings[file] != MAP_FAILED);
    if (mappings[file] == MAP_FAILED) {
        mappings[file] = NULL;
        return;
    }
    unsigned char *at = mappings[file] + offset;
    uint64_t change = next_change(actor->number);
    fill(actor->buffer, offset, length, change);
    int ends[2] = {-1, -1};
    if (how == 1)
        ends[0] = memory_file(actor->buffer, length);
    else if (how == 2) {
        length = length < PAGE ? length : PAGE;
        CHECK(pipe2(ends, O_CLOEXEC) == 0 && write(ends[1], actor->buffer, length) == (ssize_t)length);
    }
    uint64_t begin = tick();
    ssize_t count = (ssize_t)length;
    if (how == 1 || how == 2)
        count = read(ends[0], at, length);
    else
        for (size_t i = 0; i < length; i += 8)
            *(volatile uint64_t *)(void *)(at + i) = *(uint64_t *)(void *)(actor->buffer + i);
    int error = errno;
    note_written(actor, line, change, begin, file, offset, count, 1);
    errno = error;
    HOPE(actor->number, line, count == (ssize_t)length);
    if (how == 3)
        HOPE(actor->number, line, msync(mappings[file], size, MS_SYNC) == 0);
    if (how == 4) {
        HOPE(actor->number, line, munmap(mappings[file], size) == 0);
        mappings[file] = NULL;
    }
    close(ends[0]), close(ends[1]);
}

static int resize(int fd, int file, enum resizing how, off_t at, off_t length)
{
    static const int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
                                FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE};
    const char *path = files[file].path;
    int opened = -1;
    switch (how) {
    case BY_FTRUNCATE: return ftruncate(fd, at);
    case BY_TRUNCATE: return truncate(path, at);
    case BY_OPEN: opened = open(path, O_RDWR | O_TRUNC | O_CLOEXEC); break;
    case BY_FOPEN: {
        FILE *stream = fopen(path, "we");
        return stream ? fclose(stream) : -1;
    }
    default: return fallocate(fd, modes[how - ALLOCATE], at, length);
    }
    return opened < 0 ? -1 : close(opened);
}

void do_resize(struct actor *actor, int line, const int *a)
{
    int file = a[0];
    enum resizing how = (enum resizing)a[1];
    if (files[file].kind != SERIAL || actor->role != ITSELF_)
        return;
    off_t most = files[file].pages * (off_t)PAGE, at = ((off_t)a[2] * (off_t)PAGE + a[3]) % (most + 1), length = a[4];
    lock(file);
    int fd = fd_of(actor, file);
    off_t size = (off_t)size_of(fd);
    if (how >= COLLAPSE) {
        at -= at % (off_t)PAGE;
        length = (length + (off_t)PAGE) / (off_t)PAGE * (off_t)PAGE;
    }
    int is_possible = how < ALLOCATE || ((how == INSERT ? size + length : at + length) <= most);
    if (is_possible) {
        uint64_t begin = tick();
        errno = 0;
        int failed = resize(fd, file, how, at, length) == 0 ? 0 : errno;
        uint64_t words[] = {begin, tick(), (uint64_t)file, how, (uint64_t)at, (uint64_t)length, (uint64_t)failed};
        note(actor->number, RESIZED, line, words, 7);
        errno = failed;
        /* Not every file system can do all, and not at every place. */
        HOPE(actor->number, line, !failed || failed == EINTR || (how >= ALLOCATE && (failed == EOPNOTSUPP || failed == EINVAL)));
    }
    unlock(file);
}

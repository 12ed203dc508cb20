#include "held.h"

_Thread_local struct held held[HELD];

const char *file_path(size_t file)
{
    static _Thread_local char path[300];
    snprintf(path, sizeof path, "%s/%zu", shared->directories[file % 2], file);
    return path;
}

int is_cells_file(size_t file)
{
    return file < CELL_FILES;
}

/* Whether the byte can be read. */
static int is_readable(const void *at)
{
    char byte;
    struct iovec to = {&byte, 1}, from = {(void *)at, 1};
    return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1;
}

_Thread_local int has_left_a_write;

/* Returns NULL if that cannot be had here. */
static unsigned char *map_somewhere(int fd, size_t offset, size_t length, int protection)
{
    int flags = MAP_PRIVATE | MAP_SNAPSHOT;
    void *at = MAP_FAILED, *place = ARENA + below(ARENA_SLOTS) * ARENA_SLOT;
    if (one_in(2))
        at = mmap(place, length, protection, flags | MAP_FIXED_NOREPLACE, fd, (off_t)offset);
    else if (one_in(3)) {
        place = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        at = mmap(place, length, protection, flags | MAP_FIXED, fd, (off_t)offset);
    }
    if (at == MAP_FAILED)
        at = mmap(NULL, length, protection, flags, fd, (off_t)offset);
    CHECK(at != MAP_FAILED || (errno == EDEADLK && has_left_a_write));
    return at == MAP_FAILED ? NULL : at;
}

static void judge(struct held *one)
{
    if (one->is_judged || !judge_state(one->copy, one->size, one->file - CELL_FILES, one->first, one->last))
        return;
    one->is_judged = 1;
    shared->judged++;
}

static void take_cells(struct held *one, int fd)
{
    size_t page = 0, pages = CELL_PAGES;
    if (one_in(2)) {
        page = below(CELL_PAGES);
        pages = 1 + below(CELL_PAGES - page);
    }
    size_t size = cell_size[one->file], first = page * PAGE / size, count = pages * PAGE / size;
    uint64_t overwritten[CELLS];
    for (size_t i = 0; i < count; i++)
        overwritten[i] = cells->overwritten[one->file][first + i];
    one->at = map_somewhere(fd, page * PAGE, pages * PAGE, PROT_READ | (one->is_writable ? PROT_WRITE : 0));
    if (!one->at)
        return;
    uint64_t after = tick();
    one->mapped = one->size = pages * PAGE;
    memcpy(one->copy, one->at, one->size);
    judge_cells((char *)one->copy, one->file, first, count, overwritten, after);
    one->is_judged = 1;
    shared->judged++;
}

/* `first` was read before the file was opened: it may be replaced by another at any time. */
static void take_state(struct held *one, int fd)
{
    one->mapped = STATE_BYTES;
    one->at = map_somewhere(fd, 0, one->mapped, PROT_READ | (one->is_writable ? PROT_WRITE : 0));
    if (!one->at)
        return;
    one->last = histories[one->file - CELL_FILES].begun;
    struct snapshim_stat stat;
    CHECK(snapshim_stat(one->at, &stat) == 0 && stat.state == SNAPSHIM_EXACT && stat.size <= STATE_BYTES);
    one->size = stat.size;
    memcpy(one->copy, one->at, one->size);
    size_t end = (one->size + PAGE - 1) / PAGE * PAGE;
    for (size_t i = one->size; i < end; i++)
        CHECK(one->at[i] == 0);
    CHECK(end == one->mapped || !is_readable(one->at + end));
    judge(one);
}

void take(struct held *one, size_t file)
{
    *one = (struct held){.file = file, .is_writable = one_in(2)};
    if (!is_cells_file(one->file))
        one->first = histories[one->file - CELL_FILES].reached;
    step("take", (int64_t)one->file, one->is_writable);
    int fd = open(file_path(one->file), O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    CHECK(one->copy = malloc(CELL_PAGES * PAGE));
    if (is_cells_file(one->file))
        take_cells(one, fd);
    else
        take_state(one, fd);
    close(fd);
    if (one->at)
        shared->snapshots++;
    else
        free(one->copy);
}

static void look(struct held *one)
{
    step("look", (int64_t)one->file, (int64_t)one->size);
    struct snapshim_stat stat;
    if (one->mapped)
        CHECK(snapshim_stat(one->at, &stat) == 0 && stat.state == SNAPSHIM_EXACT);
    for (size_t i = 0; i < one->size; i++)
        if (one->at[i] != one->copy[i])
            fail("a snapshot of file %zu at %p%s has changed at %#zx: %#x is %#x", one->file, (void *)one->at,
                 one->has_stores ? ", with stores of its own," : "", i, one->copy[i], one->at[i]);
    size_t end = (one->size + PAGE - 1) / PAGE * PAGE;
    CHECK(end >= one->mapped || !is_readable(one->at + end));
    if (!is_cells_file(one->file))
        judge(one);
    shared->looks++;
}

static void drop(struct held *one)
{
    look(one);
    step("drop", (int64_t)one->file, (int64_t)one->mapped);
    CHECK(one->mapped == 0 || munmap(one->at, one->mapped) == 0);
    free(one->copy);
    one->at = NULL;
}

/* Stores of its own stay. */
static void store_into(struct held *one)
{
    if (!one->is_writable || one->size == 0)
        return;
    judge(one);
    if (!one->is_judged)
        return;
    one->has_stores = 1;
    for (size_t i = 0; i < 3; i++) {
        size_t at = below(one->size);
        one->at[at] = one->copy[at] = (unsigned char)below(256);
    }
}

/* What is cut is not read any more, so not judged as a whole. */
static void cut(struct held *one)
{
    judge(one);
    size_t pages = one->mapped / PAGE;
    if (!one->is_judged || pages < 2)
        return;
    size_t front = one_in(2) ? below(pages - 1) : 0, back = one_in(2) ? below(pages - front - 1) : 0;
    size_t length = (pages - front - back) * PAGE;
    CHECK(front == 0 || munmap(one->at, front * PAGE) == 0);
    CHECK(back == 0 || munmap(one->at + one->mapped - back * PAGE, back * PAGE) == 0);
    one->at += front * PAGE;
    one->mapped = length;
    one->size = one->size > front * PAGE ? one->size - front * PAGE : 0;
    one->size = one->size < length ? one->size : length;
    memmove(one->copy, one->copy + front * PAGE, one->size);
}

static void move(struct held *one)
{
    void *to = MAP_FAILED;
    if (one_in(2)) {
        to = mmap(NULL, one->mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        CHECK(to != MAP_FAILED);
        to = mremap(one->at, one->mapped, one->mapped, MREMAP_MAYMOVE | MREMAP_FIXED, to);
    } else {
        size_t left = one->mapped - (one->mapped > PAGE && one->is_judged ? PAGE : 0);
        to = mremap(one->at, one->mapped, left, MREMAP_MAYMOVE);
        one->mapped = left;
        one->size = one->size < left ? one->size : left;
    }
    CHECK(to != MAP_FAILED);
    one->at = to;
}

static void protect(struct held *one)
{
    size_t pages = one->mapped / PAGE, first = below(pages), length = (1 + below(pages - first)) * PAGE;
    unsigned char *at = one->at + first * PAGE;
    CHECK(mprotect(at, length, PROT_NONE) == 0);
    CHECK(mprotect(at, length, PROT_READ | PROT_WRITE) == 0);
    if (first * PAGE < one->size && one->is_judged) {
        one->has_stores = 1;
        *at = one->copy[first * PAGE] = (unsigned char)below(256);
    }
    CHECK(mprotect(at, length, PROT_READ | (one->is_writable ? PROT_WRITE : 0)) == 0);
}

static void advise(struct held *one)
{
    static const int advices[] = {MADV_DONTNEED, MADV_DONTNEED, MADV_DONTNEED, 20 /* COLD */, 21 /* PAGEOUT */, MADV_WILLNEED, 22 /* POPULATE_READ */};
    size_t pages = one->mapped / PAGE, first = below(pages), length = (1 + below(pages - first)) * PAGE;
    int advice = advices[below(sizeof advices / sizeof advices[0])];
    step("madvise", advice, (int64_t)first);
    if (advice == MADV_DONTNEED && one->has_stores)
        return; /* they may go */
    (void)madvise(one->at + first * PAGE, length, advice);
}

/* What a write takes out of a snapshot is its content too. */
static void write_out(struct held *one)
{
    int ends[2];
    size_t at = one->size ? below(one->size) : 0, length = one->size - at < 2000 ? one->size - at : 2000;
    unsigned char back[2000];
    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    CHECK(write(ends[1], one->at + at, length) == (ssize_t)length);
    close(ends[1]);
    CHECK(read(ends[0], back, sizeof back) == (ssize_t)length && memcmp(back, one->copy + at, length) == 0);
    close(ends[0]);
}

static void change_mapping(struct held *one)
{
    static const struct {
        const char *name;
        void (*change)(struct held *);
    } all[] = {{"store", store_into}, {"cut", cut}, {"mremap", move}, {"mprotect", protect}, {"madvise", advise}, {"write out", write_out}};
    if (one->mapped == 0)
        return;
    size_t which = below(sizeof all / sizeof all[0]);
    step(all[which].name, (int64_t)one->file, (int64_t)(uintptr_t)one->at);
    all[which].change(one);
    shared->changes++;
}

void use_a_snapshot(void)
{
    struct held *one = &held[below(HELD)];
    if (!one->at)
        take(one, below(FILES));
    else if (one_in(6))
        drop(one);
    else if (one_in(2))
        look(one);
    else
        change_mapping(one);
}

void look_at_all(void)
{
    for (size_t i = 0; i < HELD; i++)
        if (held[i].at)
            look(&held[i]);
}

void drop_all(void)
{
    for (size_t i = 0; i < HELD; i++)
        if (held[i].at)
            drop(&held[i]);
}

void forget_broken(uint64_t parent)
{
    size_t broken = 0;
    struct snapshim_stat stat;
    for (size_t i = 0; i < HELD; i++)
        broken += held[i].at && held[i].mapped && snapshim_stat(held[i].at, &stat) != 0;
    if (broken == 0)
        return;
    for (size_t tries = 0; tries < 10000 && !has_left_a_write && !is_over(parent); tries++)
        usleep(1000);
    CHECK(has_left_a_write || is_over(parent));
    for (size_t i = 0; i < HELD; i++) {
        if (!held[i].at)
            continue;
        CHECK(held[i].mapped == 0 || (!is_readable(held[i].at) && munmap(held[i].at, held[i].mapped) == 0));
        free(held[i].copy);
        held[i].at = NULL;
    }
}

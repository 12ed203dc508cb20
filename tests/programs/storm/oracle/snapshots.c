#include "snapshots.h"

_Thread_local struct slot *slots;
static _Thread_local struct { sigjmp_buf back; volatile int is_set; } escape;

void on_fault_here(int number)
{
    if (!escape.is_set) {
        signal(number, SIG_DFL);
        return;
    }
    escape.is_set = 0;
    siglongjmp(escape.back, number);
}

/* Compares pages; 0 alike, 1 different, -1 the memory faults. */
static int differs(const void *copy, const void *at, size_t length)
{
    if (sigsetjmp(escape.back, 1))
        return -1;
    escape.is_set = 1;
    atomic_signal_fence(memory_order_seq_cst);
    int different = memcmp(copy, at, length) != 0;
    atomic_signal_fence(memory_order_seq_cst);
    escape.is_set = 0;
    return different;
}

/* 0, or -1 if the memory faults. */
static int copy_page(void *to, const void *from)
{
    if (sigsetjmp(escape.back, 1))
        return -1;
    escape.is_set = 1;
    atomic_signal_fence(memory_order_seq_cst);
    memcpy(to, from, PAGE);
    atomic_signal_fence(memory_order_seq_cst);
    escape.is_set = 0;
    return 0;
}

static int state_of(const void *at)
{
    struct snapshim_stat stat;
    return snapshim_stat(at, &stat) == 0 ? stat.state : -1;
}

/* Whether to ask for a state: that takes milliseconds where there are many snapshots. */
static int is_asked(void)
{
    return filling < 100 || below(8) == 0;
}

static void note_bad(int actor, int line, const struct slot *slot, enum finding finding, int state, size_t word,
                     const unsigned char *shown)
{
    uint64_t got = 0, wanted = 0;
    if (finding == FOUND_DIFFERENT) {
        memcpy(&got, shown, 8);
        memcpy(&wanted, slot->copy + word * 8, 8);
    }
    uint64_t words[] = {tick(), slot->number, (uint64_t)slot->file, finding, (uint64_t)(int64_t)state, word, wanted, got};
    note(actor, SEEN_BAD, line, words, 8);
}

static size_t different_word(const unsigned char *one, const unsigned char *other)
{
    for (size_t i = 0; i < PAGE_WORDS; i++)
        if (memcmp(one + i * 8, other + i * 8, 8) != 0)
            return i;
    return 0;
}

void look(struct slot *slot, int actor, int line)
{
    if (!slot->is_held)
        return;
    const unsigned char *any = NULL;
    enum finding bad = 0;
    size_t word = 0;
    const unsigned char *shown = NULL;
    for (size_t page = 0; page < slot->readable && !bad; page++) {
        if (!slot->at[page] || !(slot->rights[page] & PROT_READ))
            continue;
        any = slot->at[page];
        int different = differs(slot->copy + page * PAGE, any, PAGE);
        if (different == 0)
            continue;
        bad = different < 0 ? FOUND_FAULT : FOUND_DIFFERENT;
        word = page * PAGE_WORDS;
        shown = any;
        if (bad == FOUND_DIFFERENT) {
            size_t within = different_word(slot->copy + page * PAGE, any);
            word += within;
            shown = any + within * 8;
        }
    }
    int state = any && (bad || is_asked()) ? state_of(any) : SNAPSHIM_EXACT;
    if (!bad && state != SNAPSHIM_EXACT)
        bad = FOUND_STATE;
    shared->looks++;
    if (!bad)
        return;
    note_bad(actor, line, slot, bad, state, word, shown);
    slot->readable = 0;
}

void drop(struct slot *slot, int actor, int line)
{
    for (size_t page = 0; slot->is_held && page < slot->pages; page++)
        if (slot->at[page] && !(slot->rights[page] & PROT_READ)) {
            HOPE(actor, line, mprotect(slot->at[page], PAGE, PROT_READ) == 0);
            slot->rights[page] = PROT_READ;
        }
    look(slot, actor, line);
    for (size_t page = 0; slot->is_held && page < slot->pages; page++) {
        size_t count = 1;
        if (!slot->at[page])
            continue;
        while (page + count < slot->pages && slot->at[page + count] == slot->at[page] + count * PAGE)
            count++;
        HOPE(actor, line, munmap(slot->at[page], count * PAGE) == 0);
        page += count - 1;
    }
    slot->is_held = 0;
}

/* Runs of words: how many, what kind, and what they have in common. */
static uint64_t *note_words(uint64_t *to, const unsigned char *bytes, size_t words)
{
    enum { NAMED, ZERO };
    uint64_t *count = to++;
    *count = 0;
    for (size_t i = 0; i < words;) {
        uint64_t word, value;
        memcpy(&word, bytes + i * 8, 8);
        int kind = word == 0 ? ZERO : NAMED;
        value = word == 0 ? 0 : word - ((uint64_t)i << PLACE_SHIFT);
        size_t end = i + 1;
        for (; end < words; end++) {
            memcpy(&word, bytes + end * 8, 8);
            if (kind == ZERO ? word != 0 : word == 0 || word - ((uint64_t)end << PLACE_SHIFT) != value)
                break;
        }
        *to++ = (uint64_t)(end - i) << 1 | (uint64_t)kind;
        *to++ = value;
        (*count)++;
        i = end;
    }
    return to;
}

void do_take(struct actor *actor, int line, const int *a)
{
    struct slot *slot = &slots[a[0]];
    int file = a[1], rights = PROT_READ | (a[2] ? PROT_WRITE : 0);
    drop(slot, actor->number, line);
    size_t length = (size_t)files[file].pages * PAGE;
    int fd = fd_of(actor, file);
    uint64_t begin = tick();
    errno = 0;
    unsigned char *at = mmap(NULL, length, rights, MAP_PRIVATE | MAP_SNAPSHOT, fd, 0);
    int error = errno;
    uint64_t end = tick();
    uint64_t number = atomic_fetch_add(&shared->snapshots, 1);
    if (at == MAP_FAILED) {
        note_unexpected(actor->number, line, error);
        return;
    }
    struct snapshim_stat stat = {.state = SNAPSHIM_EXACT, .size = length};
    if (files[file].kind == SERIAL || is_asked())
        CHECK(snapshim_stat(at, &stat) == 0);
    if (!slot->copy)
        slot->copy = mmap(NULL, MOST_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    slot->is_held = 1;
    slot->file = file;
    slot->line = line;
    slot->number = number;
    slot->pages = length / PAGE;
    slot->readable = stat.size < length ? (stat.size + PAGE - 1) / PAGE : slot->pages;
    for (size_t page = 0; page < slot->pages; page++) {
        slot->at[page] = at + page * PAGE;
        slot->rights[page] = (unsigned char)rights;
    }
    for (size_t page = 0; page < slot->readable; page++)
        if (copy_page(slot->copy + page * PAGE, slot->at[page]) != 0) {
            note_bad(actor->number, line, slot, FOUND_FAULT, state_of(at), page * PAGE_WORDS, NULL);
            slot->readable = 0;
        }
    unsigned char byte[PAGE];
    if (slot->readable && slot->readable < slot->pages && copy_page(byte, slot->at[slot->readable]) == 0)
        note_bad(actor->number, line, slot, FOUND_NO_END, stat.state, slot->readable * PAGE_WORDS, NULL);
    uint64_t *to = entry(actor->number, TAKEN, line);
    if (!to)
        return;
    uint64_t words[] = {begin, end, (uint64_t)file, slot->number, stat.size, (uint64_t)stat.state};
    memcpy(to, words, sizeof words);
    end_entry(actor->number, note_words(to + 6, slot->copy, slot->readable * PAGE_WORDS));
}

void do_poke(struct slot *slot, const int *a)
{
    size_t page = (size_t)a[1] % MOST_PAGES, word = (size_t)a[2] % PAGE_WORDS;
    if (!slot->is_held || page >= slot->readable || !slot->at[page] || !(slot->rights[page] & PROT_WRITE))
        return;
    uint64_t value = below(SIZE_MAX);
    if (sigsetjmp(escape.back, 1))
        return; /* the next look finds it */
    escape.is_set = 1;
    atomic_signal_fence(memory_order_seq_cst);
    *(volatile uint64_t *)(void *)(slot->at[page] + word * 8) = value;
    atomic_signal_fence(memory_order_seq_cst);
    escape.is_set = 0;
    memcpy(slot->copy + page * PAGE + word * 8, &value, 8);
}

void cut(struct slot *slot, int actor, int line, size_t first, size_t count, enum cutting how)
{
    static const int rights[] = {[HIDE] = PROT_NONE, [OPEN] = PROT_READ | PROT_WRITE, [CLOSE] = PROT_READ};
    unsigned char *at = slot->at[first];
    size_t length = count * PAGE;
    if (how == MOVE) {
        unsigned char *to = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        CHECK(to != MAP_FAILED);
        unsigned char *moved = mremap(at, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, to);
        HOPE(actor, line, moved == to);
        for (size_t i = 0; moved == to && i < count; i++)
            slot->at[first + i] = to + i * PAGE;
        return;
    }
    int failed = how == GIVE_UP ? munmap(at, length) : mprotect(at, length, rights[how]);
    HOPE(actor, line, failed == 0);
    for (size_t i = 0; failed == 0 && i < count; i++) {
        if (how == GIVE_UP)
            slot->at[first + i] = NULL;
        else
            slot->rights[first + i] = (unsigned char)rights[how];
    }
}

/* The process has stopped, or does not seem to. */
static void stop_process(int pid)
{
    char path[32], line[200];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    kill(pid, SIGSTOP);
    for (int tries = 0; tries < 100; tries++) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t got = fd < 0 ? 0 : read(fd, line, sizeof line - 1);
        line[got > 0 ? got : 0] = 0;
        close(fd);
        const char *end = strrchr(line, ')');
        if (!end || end[2] == 'T')
            return;
        sched_yield();
    }
}

void do_cut(struct slot *slot, int actor, int line, const int *a, int own_process)
{
    if (!slot->is_held)
        return;
    size_t first = (size_t)a[1] % slot->pages, count = 1;
    if (!slot->at[first])
        return;
    while ((int)count < a[2] && first + count < slot->pages && slot->at[first + count] == slot->at[first] + count * PAGE)
        count++;
    int pid = a[4] >= 0 && a[4] < PROCESSES && a[4] != own_process ? shared->pids[a[4]] : 0;
    spin_us(below((size_t)a[5] + 1));
    if (pid > 0)
        stop_process(pid);
    cut(slot, actor, line, first, count, (enum cutting)a[3]);
    if (pid > 0)
        kill(pid, SIGCONT);
}

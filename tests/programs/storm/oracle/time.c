#include "time.h"

/* Of a process: the thread that answers the faults, late. */
static int faults = -1;
unsigned char *missing[THREADS], *source[THREADS], *stacks[THREADS];
unsigned char *handler_stacks[THREADS];
static _Atomic int ends[THREADS];
_Thread_local int own_thread = -1;

size_t table_offset, table_length;
unsigned char *table;

/* The thread that answers faults makes its calls past the shim, which may touch what is waited for. */
static long raw(long number, long a, long b, long c)
{
#if defined(__x86_64__)
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
#else
#error "the system calls of this architecture"
#endif
}

static void sleep_us(size_t us)
{
    struct timespec time = {.tv_nsec = (long)us * 1000};
    raw(SYS_nanosleep, (long)&time, 0, 0);
}

static void registered(unsigned char *at, size_t length, uint64_t mode)
{
    struct uffdio_register range = {.range = {(uintptr_t)at, length}, .mode = mode};
    CHECK(ioctl(faults, UFFDIO_REGISTER, &range) == 0);
}

int open_faults(void)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MINOR_SHMEM};
    faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (faults >= 0 && ioctl(faults, UFFDIO_API, &api) == 0)
        return 1;
    shared->has_no_faults = errno;
    close(faults);
    faults = -1;
    return 0;
}

unsigned char *anonymous(size_t length)
{
    unsigned char *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

void prepare_held_memory(int thread, int has_held_stack)
{
    missing[thread] = anonymous(HELD_BYTES);
    source[thread] = anonymous(HELD_BYTES);
    registered(missing[thread], HELD_BYTES, UFFDIO_REGISTER_MODE_MISSING);
    if (!has_held_stack)
        return;
    stacks[thread] = anonymous(STACK);
    memset(stacks[thread], 0, STACK);
    registered(stacks[thread], STACK, UFFDIO_REGISTER_MODE_WP);
}

void prepare_held_table(void)
{
    char line[400], pattern[300];
    struct stat found;
    snprintf(pattern, sizeof pattern, "%s/table-*", getenv("SNAPSHIM_DIR"));
    glob_t names;
    CHECK(glob(pattern, 0, NULL, &names) == 0 && stat(names.gl_pathv[0], &found) == 0);
    globfree(&names);
    FILE *maps = fopen("/proc/self/maps", "re");
    CHECK(maps);
    while (!table && fgets(line, sizeof line, maps)) {
        unsigned long start, offset, inode;
        if (sscanf(line, "%lx-%*x %*s %lx %*s %lu", &start, &offset, &inode) == 3 && inode == found.st_ino && strchr(line, '/'))
            table = (unsigned char *)start - offset + table_offset;
    }
    fclose(maps);
    CHECK(table);
    registered(table, table_length, UFFDIO_REGISTER_MODE_MINOR);
}

static void fill_missing(int thread, size_t page)
{
    uintptr_t to = (uintptr_t)missing[thread] + page * PAGE, from = (uintptr_t)source[thread] + page * PAGE;
    struct uffdio_copy copy = {.dst = to, .src = from, .len = PAGE};
    raw(SYS_ioctl, faults, (long)UFFDIO_COPY, (long)&copy);
}

unsigned char *held_copy(const unsigned char *bytes, size_t length)
{
    unsigned char *at = own_thread < 0 ? NULL : missing[own_thread];
    if (!at)
        return NULL;
    size_t start = PAGE - (length < PAGE ? length / 16 * 8 : PAGE / 2);
    CHECK(madvise(at, HELD_BYTES, MADV_DONTNEED) == 0);
    memcpy(source[own_thread] + start, bytes, length);
    fill_missing(own_thread, 0);
    return at + start;
}

static void protect_stack(int thread, uint64_t mode, uintptr_t at, size_t length)
{
    if (mode && ends[thread] != GOES_ON)
        return;
    struct uffdio_writeprotect range = {.range = {at ? at : (uintptr_t)stacks[thread], length}, .mode = mode};
    raw(SYS_ioctl, faults, (long)UFFDIO_WRITEPROTECT, (long)&range);
}

/* The kernel does not wait for memory when a thread has ended: what pthread_join(3) waits for, on its stack, would not come. */
static void let_go_of_stacks(void)
{
    for (int thread = 0; thread < THREADS; thread++)
        if (ends[thread] == ENDS) {
            protect_stack(thread, 0, 0, STACK);
            ends[thread] = IS_LET_GO;
        }
}

void end_thread(int thread)
{
    ends[thread] = ENDS;
    while (stacks[thread] && ends[thread] != IS_LET_GO)
        usleep(100);
}

static void answer(uintptr_t address)
{
    uintptr_t page = address & ~(uintptr_t)(PAGE - 1);
    if (table && page - (uintptr_t)table < table_length) {
        struct uffdio_continue one = {.range = {page, PAGE}};
        raw(SYS_ioctl, faults, (long)UFFDIO_CONTINUE, (long)&one);
    }
    for (int thread = 0; thread < THREADS; thread++) {
        if (missing[thread] && page - (uintptr_t)missing[thread] < HELD_BYTES)
            fill_missing(thread, (page - (uintptr_t)missing[thread]) / PAGE);
        if (stacks[thread] && page - (uintptr_t)stacks[thread] < STACK)
            protect_stack(thread, 0, page, PAGE);
    }
}

static void hold_table(void)
{
    if (table)
        raw(SYS_madvise, (long)table, (long)table_length, MADV_DONTNEED);
}

/* From now on a thread that touches a stack, or the table, waits. */
static void hold_memory(void)
{
    for (int thread = 0; thread < THREADS; thread++)
        if (stacks[thread] && below(2) == 0)
            protect_stack(thread, UFFDIO_WRITEPROTECT_MODE_WP, 0, STACK);
    hold_table();
}

/* A thread in the middle of a copy waits until half of the threads have gone on, so that what it copies from is changed meanwhile,
 * however busy the machine is; but not for long, because some wait for it. */
static void sleep_beside_others(void)
{
    uint64_t before[THREADS];
    for (int thread = 0; thread < thread_count; thread++)
        before[thread] = shared->turns[thread];
    sleep_us((size_t)longest_us);
    for (int tries = 0; tries < 60 && !shared->stop; tries++) {
        int moved = 0;
        for (int thread = 0; thread < thread_count; thread++)
            moved += shared->turns[thread] > before[thread] + 1;
        if (moved * 2 >= thread_count)
            return;
        sleep_us(500);
    }
}

void *answer_late(void *unused)
{
    (void)unused;
    random_state = seed + 77;
    int is_wish = 0;
    for (uint64_t seen = 0;;) {
        struct pollfd one = {faults, POLLIN, 0};
        struct uffd_msg message;
        let_go_of_stacks();
        if (raw(SYS_poll, (long)&one, 1, 0) == 1 && raw(SYS_read, faults, (long)&message, sizeof message) == sizeof message) {
            if (is_wish) {
                shared->alone = 0;
                sleep_beside_others();
            } else if (below(3)) {
                sleep_us(below((size_t)longest_us + 1));
            }
            is_wish = 0;
            answer(message.arg.pagefault.address);
            continue;
        }
        for (int thread = 0; thread < THREADS; thread++)
            if (stacks[thread] && shared->wishes[thread]) {
                protect_stack(thread, UFFDIO_WRITEPROTECT_MODE_WP, 0, STACK);
                shared->wishes[thread] = 0;
                is_wish = 1;
            }
        uint64_t snapshots = shared->snapshots;
        if (shared->stop || (snapshots == seen && below(20))) {
            if (!shared->stop && below(4) == 0) /* found by the first walk after the next snapshot */
                hold_table();
            sleep_us(20);
            continue;
        }
        seen = snapshots;
        spin_us(below(80));
        hold_memory();
    }
    return NULL;
}

_Thread_local int handler_way, handler_file;
static _Thread_local ucontext_t coroutine, interrupted;
int side = -1;

static void write_in_handler(void)
{
    const struct file *file = &files[handler_file];
    int from = (int)below(lane_words()), length = 1 + (int)below(lane_words());
    const int arguments[] = {handler_file, PWRITE, (int)below(MOST_PAGES), from, length, 0};
    if (file->kind == LANES)
        do_write(&actors[HANDLER], 0, arguments);
    else
        CHECK(pwrite(side, "x", 1, 0) == 1);
}

static void run_coroutine(void)
{
    for (;;) {
        write_in_handler();
        swapcontext(&coroutine, &interrupted);
    }
}

static void prepare_coroutine(unsigned char *stack)
{
    CHECK(getcontext(&coroutine) == 0);
    coroutine.uc_stack.ss_sp = stack;
    coroutine.uc_stack.ss_size = STACK;
    sigaddset(&coroutine.uc_sigmask, SIGUSR1);
    makecontext(&coroutine, run_coroutine, 0);
}

static void on_timer(int number)
{
    (void)number;
    int error = errno;
    if (shared->stop || !handler_way || shared->alone)
        return;
    if (handler_way == COROUTINE)
        swapcontext(&interrupted, &coroutine);
    else
        write_in_handler();
    errno = error;
}

void install_handler(void)
{
    struct sigaction action = {.sa_handler = on_timer, .sa_flags = SA_RESTART | SA_ONSTACK};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
}

void be_interrupted(int way, int file, unsigned char *stack)
{
    way &= ~ABOVE;
    if (way == NO_SIGNALS)
        return;
    if (!stack)
        stack = anonymous(STACK);
    if (way == ALTERNATE || way == AUTODISARM) {
        stack_t alternate = {.ss_sp = stack, .ss_size = STACK, .ss_flags = way == AUTODISARM ? (int)SS_AUTODISARM : 0};
        CHECK(sigaltstack(&alternate, NULL) == 0);
    } else if (way == COROUTINE) {
        prepare_coroutine(stack);
    }
    handler_way = way;
    handler_file = file;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    event._sigev_un._tid = (int)syscall(SYS_gettid);
    timer_t timer;
    struct itimerspec often = {{0, 300000}, {0, 300000}};
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &often, NULL) == 0);
}

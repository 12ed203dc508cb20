/* Two writers preserve the same pages of a read-only snapshot. The kernel pins a page before it copies from it, so the byte that the one
 * has read may be of after the other's change: it must not come into the snapshot. */
#include "check.h"

#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <time.h>

enum { PAGES = 4, SIZE = PAGES * 4096 };

/* What the processes tell each other. */
static struct {
    _Atomic int can_hold, thread, may_write, is_protected, is_held, may_go_on, is_written;
    _Atomic uintptr_t buffer;
} *told;

static void await(_Atomic int *flag)
{
    while (!atomic_load(flag))
        usleep(200);
}

static void *first_writer(void *unused)
{
    atomic_store(&told->thread, (int)syscall(SYS_gettid));
    await(&told->may_write);
    int fd = open("file", O_RDWR);
    CHECK(fd >= 0 && try_overwrite(fd, 0, SIZE, 2) == 0);
    return unused;
}

/* Has `faults` hear of stores into the page at `page`: 0 if the kernel refuses. */
static int watches(int faults, void *page)
{
    struct uffdio_register range = {.range = {(uintptr_t)page, PAGE}, .mode = UFFDIO_REGISTER_MODE_WP};
    return ioctl(faults, UFFDIO_REGISTER, &range) == 0;
}

/* The first writer's process. The page that holds the buffer into which the thread reads, whatever stack it is on by then, becomes
 * memory in which a store of the kernel's is held. */
static void __attribute__((noreturn)) hold_first_writer(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    void *any = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(any != MAP_FAILED);
    int faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = {.api = UFFD_API};
    int can_hold = faults >= 0 && ioctl(faults, UFFDIO_API, &api) == 0 && watches(faults, any);
    atomic_store(&told->can_hold, can_hold ? 1 : -1);
    if (!can_hold)
        _exit(0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, first_writer, NULL) == 0);
    while (!atomic_load(&told->buffer))
        usleep(200);
    struct uffdio_writeprotect page = {.range = {atomic_load(&told->buffer) / PAGE * PAGE, PAGE}};
    CHECK(watches(faults, (void *)(uintptr_t)page.range.start));
    page.mode = UFFDIO_WRITEPROTECT_MODE_WP;
    CHECK(ioctl(faults, UFFDIO_WRITEPROTECT, &page) == 0);
    atomic_store(&told->is_protected, 1);
    struct uffd_msg message;
    CHECK(read(faults, &message, sizeof message) == sizeof message);
    atomic_store(&told->is_held, 1);
    await(&told->may_go_on);
    page.mode = 0;
    CHECK(ioctl(faults, UFFDIO_WRITEPROTECT, &page) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    _exit(0);
}

static void __attribute__((noreturn)) second_writer(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    await(&told->is_held);
    int fd = open("file", O_RDWR);
    CHECK(fd >= 0 && try_overwrite(fd, 0, SIZE, 1) == 0);
    atomic_store(&told->is_written, 1);
    _exit(0);
}

/* Lets the thread run to where it is about to read from the snapshot; the buffer that it reads into, 0 if it ends before. */
static uintptr_t run_to_read(pid_t thread, const unsigned char *at)
{
    for (int status;;) {
        struct user_regs_struct registers;
        CHECK(ptrace(PTRACE_SYSCALL, thread, 0, 0) == 0 && waitpid(thread, &status, __WALL) == thread);
        if (!WIFSTOPPED(status))
            return 0;
        CHECK(ptrace(PTRACE_GETREGS, thread, 0, &registers) == 0);
        if (registers.orig_rax != SYS_process_vm_readv || (long)registers.rax != -ENOSYS)
            continue;
        uintptr_t remote = (uintptr_t)ptrace(PTRACE_PEEKDATA, thread, (void *)registers.r10, 0);
        if (remote >= (uintptr_t)at && remote < (uintptr_t)at + SIZE)
            return (uintptr_t)ptrace(PTRACE_PEEKDATA, thread, (void *)registers.rsi, 0);
    }
}

static void a_byte_that_is_copied_after_a_change_is_not_stored(int protection, enum who who)
{
    (void)who;
    int fd = make_file("file", SIZE), status;
    told = shared_page();
    pid_t first = fork();
    if (first == 0)
        hold_first_writer();
    pid_t second = fork();
    if (second == 0)
        second_writer();
    const unsigned char *at = snapshot(fd, 0, SIZE, protection);
    await(&told->can_hold);
    if (atomic_load(&told->can_hold) < 0) {
        kill(second, SIGKILL);
        SKIP("userfaultfd(2) needs root");
    }
    await(&told->thread);
    pid_t thread = atomic_load(&told->thread);
    CHECK(ptrace(PTRACE_SEIZE, thread, 0, 0) == 0 && ptrace(PTRACE_INTERRUPT, thread, 0, 0) == 0);
    CHECK(waitpid(thread, &status, __WALL) == thread && WIFSTOPPED(status));
    atomic_store(&told->may_write, 1);
    uintptr_t buffer = run_to_read(thread, at);
    if (buffer == 0) {
        /* It preserves in another way. */
        kill(first, SIGKILL);
        kill(second, SIGKILL);
        CHECK(shows(at, 0, SIZE, 0));
        return;
    }
    atomic_store(&told->buffer, buffer);
    await(&told->is_protected);
    CHECK(ptrace(PTRACE_DETACH, thread, 0, 0) == 0);
    await(&told->is_held);
    await(&told->is_written);
    CHECK(shows(at, 0, SIZE, 0));
    atomic_store(&told->may_go_on, 1);
    CHECK(waitpid(first, &status, 0) == first && status == 0);
    CHECK(waitpid(second, &status, 0) == second && status == 0);
    CHECK(shows(at, 0, SIZE, 0));
}

enum { WRITERS_AT_ONCE = 3, MANY = 256, SECONDS = 1 };

/* Each round is one snapshot; all writers meet at each of its pages. */
static struct {
    _Atomic int round, met, done;
} *race;

static void *meet_and_write(void *number)
{
    int version = 1 + (int)(intptr_t)number, fd = open("file", O_RDWR);
    CHECK(fd >= 0);
    for (int round = 0;; round++) {
        while (atomic_load(&race->round) == round)
            sched_yield();
        if (atomic_load(&race->round) < 0)
            return NULL;
        for (int page = 0; page < MANY; page++) {
            int all = (round * MANY + page + 1) * WRITERS_AT_ONCE;
            atomic_fetch_add(&race->met, 1);
            for (int turn = 0; atomic_load(&race->met) < all && turn < 2000; turn++)
                if (turn > 200)
                    sched_yield();
            overwrite(fd, (size_t)page * PAGE, PAGE, version);
        }
        atomic_fetch_add(&race->done, 1);
    }
}

static void writers_meet(int protection, int are_threads)
{
    int fd = make_file("file", MANY * PAGE), status;
    pthread_t threads[WRITERS_AT_ONCE];
    pid_t processes[WRITERS_AT_ONCE];
    race = shared_page();
    for (intptr_t i = 0; i < WRITERS_AT_ONCE; i++) {
        if (are_threads) {
            CHECK(pthread_create(&threads[i], NULL, meet_and_write, (void *)i) == 0);
        } else if ((processes[i] = fork()) == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            meet_and_write((void *)i);
            _exit(0);
        }
    }
    for (time_t end = time(NULL) + SECONDS; time(NULL) < end;) {
        overwrite(fd, 0, MANY * PAGE, 0);
        unsigned char *at = snapshot(fd, 0, MANY * PAGE, protection);
        CHECK(shows(at, 0, MANY * PAGE, 0));
        atomic_store(&race->done, 0);
        atomic_fetch_add(&race->round, 1);
        while (atomic_load(&race->done) < WRITERS_AT_ONCE)
            usleep(200);
        CHECK(shows(at, 0, MANY * PAGE, 0));
        CHECK(munmap(at, MANY * PAGE) == 0);
    }
    atomic_store(&race->round, -1);
    for (int i = 0; i < WRITERS_AT_ONCE; i++) {
        if (are_threads)
            CHECK(pthread_join(threads[i], NULL) == 0);
        else
            CHECK(waitpid(processes[i], &status, 0) == processes[i] && status == 0);
    }
}

static void processes_that_write_the_same_pages_spoil_none(int protection, enum who who)
{
    (void)who;
    writers_meet(protection, 0);
}

static void threads_that_write_the_same_pages_spoil_none(int protection, enum who who)
{
    (void)who;
    writers_meet(protection, 1);
}

static const struct scenario scenarios[] = {
    ONCE(a_byte_that_is_copied_after_a_change_is_not_stored),
    ONCE(processes_that_write_the_same_pages_spoil_none),
    ONCE(threads_that_write_the_same_pages_spoil_none),
};

MAIN(scenarios)

/* stores FILE ROUNDS: threads that block SIGSEGV, each in its own way, store into a writable snapshot while another process cuts
 * the file. No store is lost and no process dies: a thread that has to wait for a moment does not need its signals for that. */
#include "check.h"

#include <pthread.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <ucontext.h>

enum { PAGES = 1024, IN_HANDLER = 512 };

static unsigned char *at;
static volatile int stop;

struct storer {
    void (*block)(struct storer *);
    size_t number;
    unsigned seed;
    unsigned long stored[PAGES];
};

static _Thread_local struct storer *me;

static void store(int count)
{
    while (!stop && count-- != 0) {
        size_t page = (size_t)rand_r(&me->seed) % PAGES;
        volatile unsigned long *word = (volatile unsigned long *)(at + page * PAGE) + me->number;
        unsigned long before = me->stored[page];
        if (before)
            CHECK(*word == before);
        *word = ++me->stored[page];
    }
}

static sigset_t full(void)
{
    sigset_t set;
    sigfillset(&set);
    return set;
}

static void by_pthread_sigmask(struct storer *storer)
{
    (void)storer;
    sigset_t set = full();
    CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
}

static void by_sigprocmask(struct storer *storer)
{
    (void)storer;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
}

static void by_number(struct storer *storer)
{
    (void)storer;
    sigset_t all = full();
    CHECK(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, 8) == 0);
}

static void inherited(struct storer *storer)
{
    (void)storer;
}

static void by_siglongjmp(struct storer *storer)
{
    sigjmp_buf blocked;
    sigset_t none;
    sigemptyset(&none);
    by_pthread_sigmask(storer);
    if (sigsetjmp(blocked, 1) == 0) {
        CHECK(pthread_sigmask(SIG_SETMASK, &none, NULL) == 0);
        siglongjmp(blocked, 1);
    }
}

static ucontext_t back[32];

static void store_here(void)
{
    store(-1);
}

static void by_swapcontext(struct storer *storer)
{
    ucontext_t there;
    CHECK(getcontext(&there) == 0);
    there.uc_sigmask = full();
    there.uc_stack.ss_size = 1 << 16;
    there.uc_stack.ss_sp = malloc(1 << 16);
    there.uc_link = &back[storer->number];
    makecontext(&there, store_here, 0);
    CHECK(swapcontext(&back[storer->number], &there) == 0);
}

/* With room for no more than the frame of the kernel and half a KiB of a handler. */
static void on_a_nearly_full_stack(struct storer *storer)
{
    enum { OWN = 512, HANDLER = 512 };
    size_t least = getauxval(AT_MINSIGSTKSZ) + OWN + HANDLER, pages = (least + PAGE - 1) / PAGE * PAGE;
    unsigned char *memory = mmap(NULL, PAGE + pages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED && mprotect(memory, PAGE, PROT_NONE) == 0);
    ucontext_t there;
    CHECK(getcontext(&there) == 0);
    sigdelset(&there.uc_sigmask, SIGUSR1);
    there.uc_stack.ss_sp = memory + PAGE;
    there.uc_stack.ss_size = least;
    there.uc_link = &back[storer->number];
    makecontext(&there, store_here, 0);
    CHECK(swapcontext(&back[storer->number], &there) == 0);
}

static void on_signal(int number)
{
    (void)number;
    store(IN_HANDLER);
}

static void by_a_handlers_mask(struct storer *storer)
{
    (void)storer;
    while (!stop)
        raise(SIGUSR1);
}

static void by_sigsuspend_in_a_handlers_mask(struct storer *storer)
{
    by_pthread_sigmask(storer);
    sigset_t but_one = full();
    sigdelset(&but_one, SIGUSR2);
    while (!stop) {
        raise(SIGUSR2);
        sigsuspend(&but_one);
    }
}

static void (*const ways[])(struct storer *) = {
    by_pthread_sigmask, by_sigprocmask, by_number, inherited, by_siglongjmp, by_swapcontext, on_a_nearly_full_stack, by_a_handlers_mask,
    by_sigsuspend_in_a_handlers_mask,
};
enum { THREADS = sizeof ways / sizeof ways[0] };

static void *run(void *argument)
{
    me = argument;
    me->block(me);
    store(-1);
    return NULL;
}

static struct storer storers[THREADS];

static void handle(int number)
{
    struct sigaction action = {.sa_handler = on_signal};
    action.sa_mask = full();
    CHECK(sigaction(number, &action, NULL) == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    handle(SIGUSR1);
    int rounds = atoi(argv[2]);
    for (int round = 0; round < rounds; round++) {
        if (round == 1)
            handle(SIGUSR2);
        int fd = make_file(argv[1], PAGES * PAGE), ends[2];
        CHECK(pipe(ends) == 0);
        pid_t cutter = fork();
        CHECK(cutter >= 0);
        if (cutter == 0) {
            char byte;
            CHECK(read(ends[0], &byte, 1) == 1);
            CHECK(ftruncate(fd, 0) == 0);
            _exit(0);
        }
        at = snapshot(fd, 0, PAGES * PAGE, PROT_READ | PROT_WRITE);
        stop = 0;
        pthread_t threads[THREADS];
        sigset_t all = full(), before;
        int count = round == 0 ? THREADS - 1 : THREADS;
        for (int i = 0; i < count; i++) {
            storers[i] = (struct storer){.block = ways[i], .number = (size_t)i, .seed = (unsigned)i};
            if (ways[i] == inherited)
                CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
            CHECK(pthread_create(&threads[i], NULL, run, &storers[i]) == 0);
            if (ways[i] == inherited)
                CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
        }
        usleep(20000);
        CHECK(write(ends[1], "x", 1) == 1);
        int status;
        CHECK(waitpid(cutter, &status, 0) == cutter && WIFEXITED(status) && WEXITSTATUS(status) == 0);
        stop = 1;
        for (int i = 0; i < count; i++)
            pthread_join(threads[i], NULL);
        struct snapshim_stat stat = stat_of(at);
        CHECK(stat.state == SNAPSHIM_EXACT && stat.preserved == PAGES);
        for (size_t page = 0; page < PAGES; page++)
            for (int i = 0; i < count; i++) {
                unsigned long *word = (unsigned long *)(at + page * PAGE) + i;
                unsigned char untouched[8];
                memset(untouched, stamp(page, 0), sizeof untouched);
                CHECK(storers[i].stored[page] ? *word == storers[i].stored[page] : memcmp(word, untouched, 8) == 0);
            }
        CHECK(munmap(at, PAGES * PAGE) == 0);
        close(fd);
        close(ends[0]);
        close(ends[1]);
    }
    return 0;
}

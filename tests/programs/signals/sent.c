/* SIGSEGV as a signal like any other: sent, blocked, pending, waited for; and the calls that say what is to be done with it. */
#include "scenes.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <spawn.h>
#include <time.h>
#include <ucontext.h>

/* Old programs use them. */
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

static volatile int handled;
static sigjmp_buf out;

static void tell(int number, siginfo_t *info, void *context)
{
    (void)context;
    handled++;
    say("signal %ld code %ld errno %ld\n", number + 100 * info->si_signo, info->si_code, info->si_errno);
    if (info->si_code <= 0)
        say("from us %ld value %ld\n", info->si_pid == getpid(), info->si_code == SI_QUEUE ? info->si_value.sival_int : 0, 0);
}

static void send_all(void)
{
    union sigval value = {.sival_int = 77};
    kill(getpid(), SIGSEGV);
    raise(SIGSEGV);
    sigqueue(getpid(), SIGSEGV, value);
    pthread_kill(pthread_self(), SIGSEGV);
    pthread_sigqueue(pthread_self(), SIGSEGV, value);
}

static void sent_in_many_ways(void)
{
    act(SIGSEGV, tell, SA_SIGINFO, NULL);
    now_late();
    send_all();
    printf("%d\n", handled);
}

static void say_pending(const char *where)
{
    sigset_t pending;
    CHECK(sigpending(&pending) == 0);
    printf("%s: pending %#lx\n", where, word_of(&pending));
    fflush(stdout);
}

static void stays_pending_while_blocked(void)
{
    act(SIGSEGV, tell, SA_SIGINFO, NULL);
    block(SIG_BLOCK, (int[]){SIGSEGV, SIGUSR1, 0});
    now_late();
    union sigval value = {.sival_int = 78};
    say_pending("before");
    CHECK(sigqueue(getpid(), SIGSEGV, value) == 0);
    say_pending("sent");
    send_all();
    printf("handled %d\n", handled);
    fflush(stdout);
    block(SIG_UNBLOCK, (int[]){SIGSEGV, 0});
    say_pending("open");
    printf("handled %d\n", handled);
    fflush(stdout);
    say_mask("after");
}

static void pending_is_forgotten_when_ignored(void)
{
    act(SIGSEGV, tell, SA_SIGINFO, NULL);
    block(SIG_BLOCK, (int[]){SIGSEGV, 0});
    now_late();
    raise(SIGSEGV);
    say_pending("sent");
    signal(SIGSEGV, SIG_IGN);
    act(SIGSEGV, tell, SA_SIGINFO, NULL);
    say_pending("ignored");
    block(SIG_UNBLOCK, (int[]){SIGSEGV, 0});
    printf("handled %d\n", handled);
}

static void ignored_when_sent(void)
{
    signal(SIGSEGV, SIG_IGN);
    now_late();
    send_all();
    puts("alive");
}

static void default_when_sent(void)
{
    now_late();
    kill(getpid(), SIGSEGV);
    puts("never");
}

static void default_when_unblocked(void)
{
    block(SIG_BLOCK, (int[]){SIGSEGV, 0});
    now_late();
    raise(SIGSEGV);
    puts("still");
    fflush(stdout);
    block(SIG_UNBLOCK, (int[]){SIGSEGV, 0});
    puts("never");
}

static void *open_to_it(void *arrived)
{
    block(SIG_UNBLOCK, (int[]){SIGSEGV, 0});
    __atomic_store_n((int *)arrived, 1, __ATOMIC_RELEASE);
    while (!handled)
        sched_yield();
    return NULL;
}

static pthread_t handler_ran_in;

static void note_thread(int number)
{
    say("signal %ld\n", number, 0, 0);
    handler_ran_in = pthread_self();
    handled = 1;
}

static void goes_to_the_thread_that_is_open(void)
{
    int arrived = 0;
    pthread_t thread;
    act(SIGSEGV, note_thread, 0, NULL);
    block(SIG_BLOCK, (int[]){SIGSEGV, 0});
    now_late();
    CHECK(pthread_create(&thread, NULL, open_to_it, &arrived) == 0);
    while (!__atomic_load_n(&arrived, __ATOMIC_ACQUIRE))
        sched_yield();
    kill(getpid(), SIGSEGV);
    pthread_join(thread, NULL);
    printf("in the open one %d\n", pthread_equal(handler_ran_in, thread) != 0);
}

static void waited_for(void)
{
    sigset_t set;
    siginfo_t info;
    int number;
    struct timespec now = {0, 0}, soon = {5, 0};
    act(SIGSEGV, tell, SA_SIGINFO, NULL);
    block(SIG_BLOCK, (int[]){SIGSEGV, SIGUSR1, 0});
    now_late();
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    CHECK_ERRNO(sigtimedwait(&set, &info, &now), -1, EAGAIN);
    raise(SIGSEGV);
    CHECK(sigwait(&set, &number) == 0);
    printf("sigwait %d\n", number);
    union sigval value = {.sival_int = 79};
    CHECK(sigqueue(getpid(), SIGSEGV, value) == 0);
    printf("sigwaitinfo %d", sigwaitinfo(&set, &info));
    printf(" %d %d %d\n", info.si_signo, info.si_errno, info.si_value.sival_int);
    raise(SIGSEGV);
    printf("sigtimedwait %d", sigtimedwait(&set, &info, &soon));
    printf(" %d %d %d\n", info.si_signo, info.si_errno, info.si_code);
    raise(SIGSEGV);
    printf("without info %d\n", sigtimedwait(&set, NULL, &now));
    raise(SIGUSR1);
    CHECK_ERRNO(sigtimedwait(&set, &info, &now), -1, EAGAIN);
    sigaddset(&set, SIGUSR1);
    printf("another %d\n", sigwaitinfo(&set, NULL));
    printf("handled %d\n", handled);
}

static void *send_later(void *argument)
{
    (void)argument;
    block(SIG_BLOCK, (int[]){SIGSEGV, 0});
    usleep(50000);
    kill(getpid(), SIGSEGV);
    return NULL;
}

static void waited_for_before_it_comes(void)
{
    sigset_t set;
    pthread_t thread;
    int number;
    act(SIGSEGV, tell, SA_SIGINFO, NULL);
    block(SIG_BLOCK, (int[]){SIGSEGV, 0});
    now_late();
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    CHECK(pthread_create(&thread, NULL, send_later, NULL) == 0);
    CHECK(sigwait(&set, &number) == 0);
    pthread_join(thread, NULL);
    printf("%d, handled %d\n", number, handled);
}

static void *wait_for_process_signal(void *main_thread)
{
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    CHECK(pthread_join(*(pthread_t *)main_thread, NULL) == 0);
    CHECK(kill(getpid(), SIGSEGV) == 0);
    printf("sigwaitinfo %d", sigwaitinfo(&set, &info));
    printf(" %d %d %d %d\n", info.si_signo, info.si_errno, info.si_code, info.si_pid == getpid());
    union sigval value = {.sival_int = 80};
    CHECK(sigqueue(getpid(), SIGSEGV, value) == 0);
    printf("sigwaitinfo %d", sigwaitinfo(&set, &info));
    printf(" %d %d %d\n", info.si_code, info.si_value.sival_int, handled);
    fflush(NULL);
    _exit(0);
}

/* What is sent to the process comes to a thread whose number is not the process's. */
static void waited_for_where_the_first_thread_has_ended(void)
{
    static pthread_t main_thread;
    pthread_t thread;
    main_thread = pthread_self();
    act(SIGSEGV, tell, SA_SIGINFO, NULL);
    block(SIG_BLOCK, (int[]){SIGSEGV, 0});
    now_late();
    CHECK(pthread_create(&thread, NULL, wait_for_process_signal, &main_thread) == 0);
    pthread_exit(NULL);
}

/* Calls with a mask of their own: what was pending comes in them, and the mask is as before behind them. */
static void masks_of_waiting_calls(void)
{
    act(SIGSEGV, tell, SA_SIGINFO, NULL);
    block(SIG_BLOCK, (int[]){SIGSEGV, SIGUSR1, 0});
    now_late();
    sigset_t open;
    sigemptyset(&open);
    struct timespec soon = {5, 0};
    struct epoll_event event;
    int epoll = epoll_create1(0);
    raise(SIGSEGV);
    CHECK_ERRNO(sigsuspend(&open), -1, EINTR);
    say_mask("sigsuspend");
    raise(SIGSEGV);
    CHECK_ERRNO(ppoll(NULL, 0, &soon, &open), -1, EINTR);
    say_mask("ppoll");
    raise(SIGSEGV);
    CHECK_ERRNO(pselect(0, NULL, NULL, NULL, &soon, &open), -1, EINTR);
    say_mask("pselect");
    raise(SIGSEGV);
    CHECK_ERRNO(epoll_pwait(epoll, &event, 1, 5000, &open), -1, EINTR);
    say_mask("epoll_pwait");
    raise(SIGSEGV);
    CHECK_ERRNO(epoll_pwait2(epoll, &event, 1, &soon, &open), -1, EINTR);
    say_mask("epoll_pwait2");
    raise(SIGSEGV);
    CHECK_ERRNO(sigpause(SIGSEGV), -1, EINTR);
    say_mask("sigpause");
    soon.tv_sec = 0;
    raise(SIGSEGV);
    CHECK(ppoll(NULL, 0, &soon, NULL) == 0);
    printf("handled %d\n", handled);
    fflush(stdout);
    CHECK_ERRNO(sigsuspend((sigset_t *)8), -1, EFAULT);
    CHECK_ERRNO(ppoll(NULL, 0, &soon, (sigset_t *)8), -1, EFAULT);
}

static void waiting_calls_by_number(void)
{
    act(SIGSEGV, tell, SA_SIGINFO, NULL);
    block(SIG_BLOCK, (int[]){SIGSEGV, SIGUSR1, 0});
    now_late();
    unsigned long open = 0, set = 1ul << (SIGSEGV - 1), pending = 0;
    struct timespec soon = {5, 0};
    struct epoll_event event;
    siginfo_t info;
    int epoll = epoll_create1(0);
    struct { void *mask; size_t size; } with_size = {&open, 8};
    raise(SIGSEGV);
    CHECK(syscall(SYS_rt_sigpending, &pending, 8) == 0);
    say("pending %#lx\n", (long)pending, 0, 0);
    CHECK_ERRNO(syscall(SYS_rt_sigsuspend, &open, 8), -1, EINTR);
    raise(SIGSEGV);
    CHECK_ERRNO(syscall(SYS_ppoll, NULL, 0, &soon, &open, 8), -1, EINTR);
    raise(SIGSEGV);
    CHECK_ERRNO(syscall(SYS_pselect6, 0, NULL, NULL, NULL, &soon, &with_size), -1, EINTR);
    raise(SIGSEGV);
    CHECK_ERRNO(syscall(SYS_epoll_pwait, epoll, &event, 1, 5000, &open, 8), -1, EINTR);
    raise(SIGSEGV);
    long number = syscall(SYS_rt_sigtimedwait, &set, &info, NULL, 8);
    say("taken %ld %ld %ld\n", number, info.si_signo, info.si_errno);
    CHECK_ERRNO(syscall(SYS_rt_sigsuspend, &open, 4), -1, EINVAL);
    CHECK_ERRNO(syscall(SYS_ppoll, NULL, 0, &soon, (void *)8, 8), -1, EFAULT);
    say_mask("after");
}

static void sent_during_waiting_calls(void)
{
    act(SIGSEGV, tell, SA_SIGINFO, NULL);
    block(SIG_BLOCK, (int[]){SIGSEGV, 0});
    now_late();
    sigset_t open;
    sigemptyset(&open);
    struct timespec soon = {5, 0};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, send_later, NULL) == 0);
    CHECK_ERRNO(sigsuspend(&open), -1, EINTR);
    pthread_join(thread, NULL);
    printf("handled %d\n", handled);
    fflush(stdout);
    CHECK(pthread_create(&thread, NULL, send_later, NULL) == 0);
    CHECK_ERRNO(ppoll(NULL, 0, &soon, &open), -1, EINTR);
    pthread_join(thread, NULL);
    printf("handled %d\n", handled);
    fflush(stdout);
    say_mask("after");
}

static void fed_to_a_descriptor(void)
{
    sigset_t set;
    struct signalfd_siginfo info[2];
    block(SIG_BLOCK, (int[]){SIGSEGV, SIGUSR1, 0});
    now_late();
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    sigaddset(&set, SIGUSR1);
    int fd = signalfd(-1, &set, SFD_CLOEXEC);
    CHECK(fd >= 0);
    raise(SIGSEGV);
    struct pollfd ready = {fd, POLLIN, 0};
    CHECK(poll(&ready, 1, 5000) == 1);
    CHECK(read(fd, info, sizeof info) == sizeof info[0]);
    printf("code %d pid %d\n", info[0].ssi_code, info[0].ssi_pid == (uint32_t)getpid());
    raise(SIGUSR1);
    CHECK(read(fd, info, sizeof info) == sizeof info[0]);
    printf("signal %u code %d\n", info[0].ssi_signo, info[0].ssi_code);
}

/* Interrupts a read; with SA_RESTART the read goes on and finds what the handler wrote. */
static int ends[2];

static void feed(int number)
{
    say("signal %ld\n", number, 0, 0);
    CHECK(write(ends[1], "x", 1) == 1);
}

static void interrupts(int flags)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGSEGV};
    struct itimerspec once = {.it_value.tv_nsec = 50000000};
    timer_t timer;
    char byte;
    act(SIGSEGV, feed, flags, NULL);
    now_late();
    CHECK(pipe(ends) == 0 && timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    CHECK(timer_settime(timer, 0, &once, NULL) == 0);
    ssize_t count = read(ends[0], &byte, 1);
    printf("read %zd, %s\n", count, count < 0 ? strerror(errno) : "-");
}

static void interrupts_a_read(void)
{
    interrupts(0);
}

static void restarts_a_read(void)
{
    interrupts(SA_RESTART);
}

static void show(const char *what, int result)
{
    struct sigaction now;
    printf("%s: %d", what, result);
    if (result < 0)
        printf(" (%s)", strerror(errno));
    CHECK(sigaction(SIGSEGV, NULL, &now) == 0);
    const char *handler = now.sa_handler == SIG_DFL ? "default" : now.sa_handler == SIG_IGN ? "ignore"
                          : now.sa_handler == (void *)tell ? "tell" : now.sa_handler == note_thread ? "note" : "?";
    printf(", now %s flags %#x mask %#lx restorer %d\n", handler, (unsigned)now.sa_flags, word_of(&now.sa_mask), now.sa_restorer != NULL);
}

static const char *named(void *handler)
{
    return handler == SIG_DFL ? "default" : handler == SIG_IGN ? "ignore" : handler == SIG_ERR ? "error"
           : handler == SIG_HOLD ? "hold" : handler == tell ? "tell" : handler == note_thread ? "note" : "?";
}

struct kernel_action {
    void *handler;
    unsigned long flags;
    void *restorer;
    unsigned long mask;
};

static void actions_are_told_as_they_were_set(void)
{
    now_late();
    show("at first", 0);
    static const int flags[] = {0, SA_SIGINFO, SA_ONSTACK, SA_RESTART, SA_NODEFER, (int)SA_RESETHAND, SA_NOCLDSTOP | SA_NOCLDWAIT,
                                0x400, 0x800, 0x7fffffff, -1};
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        struct sigaction action = {.sa_sigaction = tell, .sa_flags = flags[i]}, old;
        sigfillset(&action.sa_mask);
        CHECK(sigaction(SIGSEGV, &action, &old) == 0);
        printf("before %s %#x %#lx, ", named(old.sa_handler), (unsigned)old.sa_flags, word_of(&old.sa_mask));
        show("set", 0);
    }
    printf("signal: %s\n", named((void *)signal(SIGSEGV, note_thread)));
    show("signal", 0);
    printf("siginterrupt\n");
    show("siginterrupt", siginterrupt(SIGSEGV, 1));
    printf("signal: %s\n", named((void *)signal(SIGSEGV, SIG_DFL)));
    show("signal", 0);
    printf("ssignal: %s\n", named((void *)ssignal(SIGSEGV, note_thread)));
    show("ssignal", siginterrupt(SIGSEGV, 0));
    printf("sysv_signal: %s\n", named((void *)sysv_signal(SIGSEGV, note_thread)));
    show("sysv_signal", 0);
    printf("__sysv_signal: %s\n", named((void *)__sysv_signal(SIGSEGV, SIG_IGN)));
    show("__sysv_signal", 0);
    printf("sigset: %s\n", named((void *)sigset(SIGSEGV, note_thread)));
    show("sigset", 0);
    printf("sigset: %s\n", named((void *)sigset(SIGSEGV, SIG_HOLD)));
    fflush(stdout);
    say_mask("held");
    printf("sigset: %s\n", named((void *)sigset(SIGSEGV, SIG_DFL)));
    fflush(stdout);
    say_mask("not held");
    show("sigignore", sigignore(SIGSEGV));
    struct sigaction action = {.sa_handler = note_thread};
    show("no signal", sigaction(0, &action, NULL));
    show("no signal", sigaction(65, &action, NULL));
    show("libc's own", sigaction(32, &action, NULL));
    show("SIGKILL", sigaction(SIGKILL, &action, NULL));
}

static void actions_by_number(void)
{
    now_late();
    struct kernel_action action = {(void *)tell, SA_SIGINFO, (void *)0x4711, ~0ul}, old;
    show("set", (int)syscall(SYS_rt_sigaction, SIGSEGV, &action, NULL, 8));
    show("get", (int)syscall(SYS_rt_sigaction, SIGSEGV, NULL, &old, 8));
    printf("%d %#lx %p %#lx\n", old.handler == tell, old.flags, old.restorer, old.mask);
    show("size", (int)syscall(SYS_rt_sigaction, SIGSEGV, NULL, &old, 16));
    show("new", (int)syscall(SYS_rt_sigaction, SIGSEGV, (void *)8, &old, 8));
    show("old", (int)syscall(SYS_rt_sigaction, SIGSEGV, &action, (void *)8, 8));
    show("number", (int)syscall(SYS_rt_sigaction, 99, &action, &old, 8));
    show("SIGKILL", (int)syscall(SYS_rt_sigaction, SIGKILL, &action, &old, 8));
    show("another", (int)syscall(SYS_rt_sigaction, SIGUSR1, &action, &old, 8));
    show("another", (int)syscall(SYS_rt_sigaction, SIGUSR1, NULL, &old, 8));
    printf("%d %#lx %#lx\n", old.handler == tell, old.flags, old.mask);
}

static void masks_are_told_as_they_were_set(void)
{
    now_late();
    sigset_t full, set, old;
    sigfillset(&full);
    struct {
        const char *name;
        int how;
        unsigned long word;
    } steps[] = {
        {"block SIGSEGV", SIG_BLOCK, 1ul << (SIGSEGV - 1)},
        {"unblock others", SIG_UNBLOCK, ~(1ul << (SIGSEGV - 1))},
        {"block SIGUSR1", SIG_BLOCK, 1ul << (SIGUSR1 - 1)},
        {"unblock SIGSEGV", SIG_UNBLOCK, 1ul << (SIGSEGV - 1)},
        {"set all", SIG_SETMASK, ~0ul},
        {"unblock SIGSEGV", SIG_UNBLOCK, 1ul << (SIGSEGV - 1)},
        {"set none", SIG_SETMASK, 0},
        {"no such way", 17, 0},
    };
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        sigemptyset(&set);
        memcpy(&set, &steps[i].word, 8);
        int result = sigprocmask(steps[i].how, &set, &old);
        say("sigprocmask %ld %ld old %#lx\n", result, result ? errno : 0, result ? 0 : (long)word_of(&old));
        say_mask(steps[i].name);
    }
    CHECK(pthread_sigmask(SIG_BLOCK, &full, NULL) == 0);
    CHECK(pthread_sigmask(99, &full, NULL) == EINVAL);
    CHECK(pthread_sigmask(99, NULL, &old) == 0);
    say("pthread_sigmask %#lx\n", (long)word_of(&old), 0, 0);
    CHECK_ERRNO(sigprocmask(SIG_BLOCK, NULL, (sigset_t *)8), -1, EFAULT);
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, (sigset_t *)8) == EFAULT);
    unsigned long word = 1ul << (SIGSEGV - 1), before;
    CHECK(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &word, &before, 8) == 0);
    say("by number %#lx\n", (long)before, 0, 0);
    CHECK_ERRNO(syscall(SYS_rt_sigprocmask, SIG_SETMASK, (void *)8, &before, 8), -1, EFAULT);
    CHECK_ERRNO(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &word, (void *)8, 8), -1, EFAULT);
    CHECK_ERRNO(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &word, &before, 4), -1, EINVAL);
    say_mask("by number");
    say("sigsetmask %#lx\n", sigsetmask(0), 0, 0);
    say("sigblock %#lx\n", sigblock(1 << (SIGSEGV - 1)), 0, 0);
    say("sigblock %#lx\n", sigblock(0), 0, 0);
    CHECK(sigrelse(SIGSEGV) == 0);
    say_mask("sigrelse");
    CHECK(sighold(SIGSEGV) == 0);
    say_mask("sighold");
}

static void *say_own_mask(void *name)
{
    say_mask(name);
    return NULL;
}

static ucontext_t here, there;

static void coroutine(void)
{
    say_mask("in the coroutine");
    block(SIG_BLOCK, (int[]){SIGUSR2, 0});
    CHECK(swapcontext(&there, &here) == 0);
    say_mask("again in it");
}

static void masks_are_inherited_and_restored(void)
{
    pthread_t thread;
    now_late();
    block(SIG_BLOCK, (int[]){SIGSEGV, 0});
    CHECK(pthread_create(&thread, NULL, say_own_mask, "thread") == 0);
    pthread_join(thread, NULL);
    if (sigsetjmp(out, 1) == 0) {
        block(SIG_UNBLOCK, (int[]){SIGSEGV, 0});
        say_mask("open");
        siglongjmp(out, 1);
    }
    say_mask("jumped");
    if (fork() == 0) {
        say_mask("child");
        _exit(0);
    }
    CHECK(wait(NULL) > 0);
    static char stack[1 << 16];
    CHECK(getcontext(&there) == 0);
    there.uc_stack.ss_sp = stack;
    there.uc_stack.ss_size = sizeof stack;
    there.uc_link = &here;
    makecontext(&there, coroutine, 0);
    block(SIG_SETMASK, (int[]){SIGUSR1, 0});
    CHECK(swapcontext(&here, &there) == 0);
    say_mask("back");
    CHECK(swapcontext(&here, &there) == 0);
    say_mask("back");
    CHECK(getcontext(&there) == 0);
    there.uc_stack.ss_sp = stack;
    there.uc_stack.ss_size = sizeof stack;
    there.uc_link = &here;
    sigfillset(&there.uc_sigmask);
    makecontext(&there, (void (*)(void))say_mask, 1, "a full mask");
    CHECK(swapcontext(&here, &there) == 0);
    pthread_attr_t attributes;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setsigmask_np(&attributes, &set) == 0);
    CHECK(pthread_create(&thread, &attributes, say_own_mask, "thread with a mask") == 0);
    pthread_join(thread, NULL);
}

/* What a program started by execve(2) finds. */
static char *const show_signals[] = {"grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status", NULL};
extern char **environ;

static void start(void)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        execv("/nowhere", show_signals);
        say_mask("no such program");
        execvp("grep", show_signals);
    }
    CHECK(waitpid(child, NULL, 0) == child);
    child = vfork();
    if (child == 0) {
        signal(SIGUSR2, SIG_IGN);
        execvp("grep", show_signals);
    }
    CHECK(waitpid(child, NULL, 0) == child);
    /* Before glibc 2.32 the child of a thread that blocks SIGSEGV has it open (docs/not-covered.md). */
    sigset_t blocked;
    CHECK(sigprocmask(SIG_BLOCK, NULL, &blocked) == 0);
    if (__GLIBC_PREREQ(2, 32) || !sigismember(&blocked, SIGSEGV)) {
        CHECK(posix_spawnp(&child, "grep", NULL, NULL, show_signals, environ) == 0);
        CHECK(waitpid(child, NULL, 0) == child);
    }
    child = fork();
    if (child == 0) {
        int file = open("/bin/grep", O_RDONLY);
        fexecve(file, show_signals, environ);
        _exit(127);
    }
    CHECK(waitpid(child, NULL, 0) == child);
    child = fork();
    if (child == 0) {
        syscall(SYS_execve, "/bin/grep", show_signals, environ);
        _exit(127);
    }
    CHECK(waitpid(child, NULL, 0) == child);
    CHECK(system("grep -E '^Sig(Blk|Ign)' /proc/self/status") == 0);
}

static void programs_that_are_started(void)
{
    act(SIGSEGV, tell, SA_SIGINFO, NULL);
    now_late();
    start();
    block(SIG_BLOCK, (int[]){SIGSEGV, 0});
    start();
    signal(SIGSEGV, SIG_IGN);
    block(SIG_UNBLOCK, (int[]){SIGSEGV, 0});
    start();
    posix_spawnattr_t attributes;
    sigset_t set;
    sigfillset(&set);
    pid_t child;
    signal(SIGSEGV, SIG_DFL);
    CHECK(posix_spawnattr_init(&attributes) == 0 && posix_spawnattr_setsigmask(&attributes, &set) == 0);
    CHECK(posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK) == 0);
    CHECK(posix_spawnp(&child, "grep", NULL, &attributes, show_signals, environ) == 0);
    CHECK(waitpid(child, NULL, 0) == child);
}

static void vfork_children_change_their_own_actions(void)
{
    act(SIGSEGV, tell, SA_SIGINFO, NULL);
    now_late();
    fflush(NULL);
    pid_t child = vfork();
    if (child == 0) {
        signal(SIGSEGV, SIG_IGN);
        execvp("grep", show_signals);
    }
    CHECK(waitpid(child, NULL, 0) == child);
    show("parent", 0);
    raise(SIGSEGV);
}

/* What the shim uses in SIGSEGV's place is still there for a program that asks for it. */
static void the_signal_that_stands_in(void)
{
    struct sigaction now;
    act(SIGSTKFLT, tell, SA_SIGINFO, NULL);
    now_late();
    raise(SIGSTKFLT);
    CHECK(sigaction(SIGSTKFLT, NULL, &now) == 0);
    printf("%s %#x\n", named(now.sa_handler), (unsigned)now.sa_flags);
    signal(SIGSTKFLT, SIG_IGN);
    raise(SIGSTKFLT);
    signal(SIGSTKFLT, SIG_DFL);
    fflush(stdout);
    raise(SIGSTKFLT);
}

static void aborts(void)
{
    act(SIGSEGV, tell, SA_SIGINFO, NULL);
    now_late();
    abort();
}

static const struct scene scenes[] = {
    SCENE(sent_in_many_ways),
    SCENE(stays_pending_while_blocked),
    SCENE(pending_is_forgotten_when_ignored),
    SCENE(ignored_when_sent),
    SCENE(default_when_sent),
    SCENE(default_when_unblocked),
    SCENE(goes_to_the_thread_that_is_open),
    SCENE(waited_for),
    SCENE(waited_for_before_it_comes),
    SCENE(waited_for_where_the_first_thread_has_ended),
    SCENE(masks_of_waiting_calls),
    SCENE(waiting_calls_by_number),
    SCENE(sent_during_waiting_calls),
    SCENE(fed_to_a_descriptor),
    SCENE(interrupts_a_read),
    SCENE(restarts_a_read),
    SCENE(actions_are_told_as_they_were_set),
    SCENE(actions_by_number),
    SCENE(masks_are_told_as_they_were_set),
    SCENE(masks_are_inherited_and_restored),
    SCENE(programs_that_are_started),
    SCENE(vfork_children_change_their_own_actions),
    SCENE(the_signal_that_stands_in),
    SCENE(aborts),
};

SCENES(scenes)

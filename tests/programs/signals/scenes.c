#include "scenes.h"

int late;
static void *taken_over;

static void *idle(void *nothing)
{
    for (;;)
        pause();
    return nothing;
}

/* The kernel's own view of SIGSEGV's handler, past every hook. */
static void *kernel_handler(void)
{
    struct { void *handler; unsigned long flags; void *restorer; unsigned long mask; } action = {0};
    long result;
    register long size __asm__("r10") = 8;
    __asm__ volatile("syscall" : "=a"(result)
                     : "0"((long)SYS_rt_sigaction), "D"((long)SIGSEGV), "S"(0L), "d"(&action), "r"(size)
                     : "rcx", "r11", "memory");
    CHECK(result == 0);
    return action.handler;
}

/* Has a writable snapshot relocated while a second thread could store into it: from then on the shim handles SIGSEGV. */
static void shim_takes_over(void)
{
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    CHECK(pthread_create(&thread, NULL, idle, NULL) == 0);
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    void *before_it = kernel_handler();
    int fd = make_file("scene", 4 * PAGE);
    unsigned char *at = snapshot(fd, 0, 4 * PAGE, PROT_READ | PROT_WRITE);
    at[0] = 1;
    CHECK(ftruncate(fd, 0) == 0);
    if (snapshim_active()) {
        CHECK(at[PAGE] == stamp(1, 0));
        CHECK(kernel_handler() != before_it || before_it == taken_over);
        taken_over = kernel_handler();
    }
    CHECK(munmap(at, 4 * PAGE) == 0);
    close(fd);
}

static void now_early(void)
{
    if (!late)
        shim_takes_over();
}

void now_late(void)
{
    if (late)
        shim_takes_over();
}

/* Lets the child and its threads run, and keeps what the last SIGSEGV was about. */
static int trace(pid_t child, siginfo_t *last)
{
    for (;;) {
        int status;
        pid_t thread = waitpid(-1, &status, __WALL);
        CHECK(thread > 0);
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (thread == child)
                return status;
            continue;
        }
        long forwarded = WSTOPSIG(status);
        siginfo_t about;
        if (status >> 16 || ptrace(PTRACE_GETSIGINFO, thread, NULL, &about) != 0)
            forwarded = 0;
        else if (forwarded == SIGSEGV)
            *last = about;
        CHECK(ptrace(PTRACE_CONT, thread, NULL, forwarded) == 0 || errno == ESRCH);
    }
}

static void play(const struct scene *scene)
{
    int go[2];
    printf("== %s\n", scene->name);
    fflush(NULL);
    CHECK(pipe(go) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char byte;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        CHECK(read(go[0], &byte, 1) == 1);
        close(go[0]);
        close(go[1]);
        alarm(100);
        now_early();
        scene->play();
        fflush(NULL);
        _exit(0);
    }
    siginfo_t last = {0};
    CHECK(ptrace(PTRACE_SEIZE, child, NULL, (long)PTRACE_O_TRACECLONE) == 0);
    CHECK(write(go[1], "x", 1) == 1);
    int status = trace(child, &last);
    close(go[0]);
    close(go[1]);
    printf("-- status %#x", (unsigned)status);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) {
        printf(", code %d", last.si_code);
        if ((uintptr_t)last.si_addr >> 32 == 0)
            printf(", address %p", last.si_code > 0 ? last.si_addr : NULL);
    }
    puts("");
}

int play_all(int argc, char **argv, const struct scene *all, size_t count)
{
    CHECK(argc >= 2);
    late = strcmp(argv[1], "late") == 0;
    struct rlimit cores = {1 << 26, RLIM_INFINITY};
    setrlimit(RLIMIT_CORE, &cores);
    for (size_t i = 0; i < count; i++)
        if (argc < 3 || strcmp(argv[2], all[i].name) == 0)
            play(&all[i]);
    return 0;
}

void say(const char *format, long a, long b, long c)
{
    char line[200];
    int length = snprintf(line, sizeof line, format, a, b, c);
    CHECK(write(1, line, (size_t)length) == length);
}

unsigned long word_of(const sigset_t *set)
{
    unsigned long word;
    memcpy(&word, set, sizeof word);
    return word;
}

void say_mask(const char *where)
{
    sigset_t now;
    CHECK(sigprocmask(SIG_BLOCK, NULL, &now) == 0);
    char line[200];
    int length = snprintf(line, sizeof line, "%s: mask %#lx\n", where, word_of(&now));
    CHECK(write(1, line, (size_t)length) == length);
}

void act(int number, void *handler, int flags, const int *masked)
{
    struct sigaction action = {.sa_flags = flags};
    action.sa_handler = (void (*)(int))handler;
    for (; masked && *masked; masked++)
        sigaddset(&action.sa_mask, *masked);
    CHECK(sigaction(number, &action, NULL) == 0);
}

void block(int how, const int *numbers)
{
    sigset_t set;
    sigemptyset(&set);
    for (; *numbers; numbers++)
        sigaddset(&set, *numbers);
    CHECK(sigprocmask(how, &set, NULL) == 0);
}

/* jumps MODE FILE: longjmp(3) by its names. */
#include "blocked.h"

#include <alloca.h>
#include <sys/resource.h>

void __longjmp_chk(sigjmp_buf, int) __attribute__((noreturn));

static sigjmp_buf back;
static int file;

/* A frame of so many bytes, which is gone when the jump to it is made. */
static void __attribute__((noinline)) be_target(size_t size)
{
    volatile char *frame = alloca(size);
    frame[0] = 1;
    if (sigsetjmp(back, 0))
        _exit(0);
}

/* From which size on libc notices. */
static void jump_to_gone(void)
{
    fflush(stdout);
    for (size_t size = 16; size < 4096; size += 16) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            CHECK(dup2(open("/dev/null", O_WRONLY), STDERR_FILENO) == STDERR_FILENO);
            struct rlimit none = {0, 0};
            CHECK(setrlimit(RLIMIT_CORE, &none) == 0);
            be_target(size);
            __longjmp_chk(back, 1);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        if (status != 0) {
            printf("noticed from %zu bytes on, signal %d\n", size, WTERMSIG(status));
            return;
        }
    }
    puts("not noticed");
}

static void print_blocked(const char *where)
{
    sigset_t now;
    CHECK(sigprocmask(SIG_SETMASK, NULL, &now) == 0);
    printf("%s:", where);
    for (int number = 1; number <= 64; number++)
        if (sigismember(&now, number) == 1)
            printf(" %d", number);
    printf(", errno %d\n", errno);
}

static int by;

static void jump(int number)
{
    (void)number;
    errno = 77;
    switch (by) {
    case 0:
        siglongjmp(back, 1);
    case 1:
        longjmp(back, 1);
    case 2:
        _longjmp(back, 1);
    default:
        __longjmp_chk(back, 1);
    }
}

/* Each way of jumping, with each signal in the mask that is saved, out of a handler or of a handler in a write. */
static void jump_with_masks(int out_of_write)
{
    static const int blocked[] = {0, SIGUSR1, SIGSEGV, SIGBUS, SIGSTKFLT, SIGXFSZ + 1};
    const int raised = out_of_write ? SIGXFSZ : SIGUSR2;
    struct sigaction action = {.sa_handler = jump};
    struct rlimit limit = {1 << 20, RLIM_INFINITY};
    sigaddset(&action.sa_mask, SIGHUP);
    sigaddset(&action.sa_mask, SIGSEGV);
    CHECK(sigaction(raised, &action, NULL) == 0 && setrlimit(RLIMIT_FSIZE, &limit) == 0);
    for (by = 0; by < 4; by++)
        for (volatile int saved = 0; saved < 2; saved++)
            for (volatile size_t at = 0; at < sizeof blocked / sizeof *blocked; at++) {
                sigset_t mask;
                sigemptyset(&mask);
                if (blocked[at])
                    sigaddset(&mask, blocked[at]);
                CHECK(sigprocmask(SIG_SETMASK, &mask, NULL) == 0);
                if (sigsetjmp(back, saved) == 0) {
                    if (out_of_write)
                        (void)!pwrite(file, "x", 1, 1 << 20);
                    else
                        raise(raised);
                    CHECK(!"jumped");
                }
                print_blocked(saved ? "restored" : "kept");
            }
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    file = open(argv[2], O_RDWR);
    CHECK(file >= 0);
    if (strcmp(argv[1], "gone") == 0)
        jump_to_gone();
    else
        jump_with_masks(strcmp(argv[1], "masks-out-of-writes") == 0);
    return 0;
}

/* small_stacks FILE: how much of the stack that they are called on writes take, and handlers that write on a small alternate one. */
#include "blocked.h"

#include <sys/uio.h>
#include <ucontext.h>

enum { STACK = 64 << 10, MOST = 1536, MOST_OF_WAITING = 4096, SMALL = 8192 };

static int file;
static size_t page;
static unsigned char *stack;
static ucontext_t caller, callee;

static void write_at_position(void)
{
    CHECK(write(file, "w", 1) == 1);
}

static void write_at_place(void)
{
    CHECK(pwrite(file, "p", 1, (off_t)(page++ * PAGE)) == 1);
}

static void write_vector(void)
{
    struct iovec part = {"v", 1};
    CHECK(pwritev(file, &part, 1, (off_t)(page++ * PAGE)) == 1);
}

/* Says so if a call takes more than it may. */
static void takes_little(const char *name, void (*call)(void))
{
    memset(stack, 0xa5, STACK);
    CHECK(getcontext(&callee) == 0);
    callee.uc_stack.ss_sp = stack;
    callee.uc_stack.ss_size = STACK;
    callee.uc_link = &caller;
    makecontext(&callee, call, 0);
    CHECK(swapcontext(&caller, &callee) == 0);
    size_t untouched = 0;
    while (untouched < STACK && stack[untouched] == 0xa5)
        untouched++;
    /* A call that asks an agent waits for it, and handlers run meanwhile. */
    const char *way = getenv("SNAPSHIM_PUSH");
    size_t most = way && strcmp(way, "agent") == 0 ? MOST_OF_WAITING : MOST;
    if (STACK - untouched > most)
        printf("%s takes %zu bytes of stack\n", name, STACK - untouched);
    else
        printf("%s takes little\n", name);
}

static volatile sig_atomic_t written;

static void on_signal(int number)
{
    (void)number;
    written += pwrite(file, "h", 1, (off_t)(page++ * PAGE)) == 1;
}

/* Below the stack lies memory that faults. The first write of a child joins the table as well. */
static void write_in_handlers(void)
{
    unsigned char *memory = mmap(NULL, PAGE + SMALL, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED && mprotect(memory + PAGE, SMALL, PROT_READ | PROT_WRITE) == 0);
    stack_t small = {.ss_sp = memory + PAGE, .ss_size = SMALL};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    CHECK(sigaltstack(&small, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(raise(SIGUSR1) == 0);
    printf("%d handlers wrote\n", (int)written);
    fflush(NULL);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    file = open(argv[1], O_RDWR);
    CHECK(file >= 0);
    stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stack != MAP_FAILED);
    pid_t child = fork();
    CHECK(child >= 0);
    page = 20;
    if (child == 0) {
        write_in_handlers();
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    printf("the child's status is %x\n", (unsigned)status);
    page = 1;
    takes_little("the first write", write_at_position);
    takes_little("write", write_at_position);
    takes_little("pwrite", write_at_place);
    takes_little("pwritev", write_vector);
    snapshot(file, 0, 16 * PAGE, PROT_READ);
    takes_little("pwrite beside a snapshot", write_at_place);
    takes_little("pwritev beside a snapshot", write_vector);
    takes_little("write beside a snapshot", write_at_position);
    print_file(argv[1]);
    return 0;
}

/* A mapper cuts a part off a read-only snapshot and stores into it while a writer is stopped in the middle of preserving a page of that
 * part: what the mapper stored stays. The writer preserves such a page by storing the byte that it has read there; a tracer holds it in
 * between. */
#include "check.h"

#include <poll.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>

enum { PAGES = 16, SIZE = PAGES * 4096, PART = 8 * 4096 };

static int go[2], done[2];

static void __attribute__((noreturn)) map_and_store(void (*divide)(unsigned char *at))
{
    char byte = 0;
    unsigned char *at = snapshot(open("file", O_RDONLY), 0, SIZE, PROT_READ);
    CHECK(write(done[1], &byte, 1) == 1 && read(go[0], &byte, 1) == 1);
    divide(at);
    at[PART] = 0xfe;
    CHECK(write(done[1], &byte, 1) == 1 && read(go[0], &byte, 1) == 1);
    CHECK(at[PART] == 0xfe && shows(at + PART + 1, PART + 1, PAGE - 1, 0));
    CHECK(shows(at, 0, PART, 0) && shows(at + PART + PAGE, PART + PAGE, SIZE - PART - PAGE, 0));
    _exit(0);
}

static void open_a_page(unsigned char *at)
{
    CHECK(mprotect(at + PART, PAGE, PROT_READ | PROT_WRITE) == 0);
}

static void close_then_open_a_page(unsigned char *at)
{
    CHECK(mprotect(at + PART, PAGE, PROT_NONE) == 0);
    CHECK(mprotect(at + PART, PAGE, PROT_READ | PROT_WRITE) == 0);
}

/* Lets the writer run to where it is about to store one byte. Returns 0 if it ends before: it preserves in another way. */
static int run_to_store(pid_t writer)
{
    struct user_regs_struct registers;
    int status;
    do {
        CHECK(ptrace(PTRACE_SYSCALL, writer, 0, 0) == 0 && waitpid(writer, &status, 0) == writer);
        if (WIFEXITED(status))
            return 0;
        CHECK(WIFSTOPPED(status) && ptrace(PTRACE_GETREGS, writer, 0, &registers) == 0);
    } while (registers.orig_rax != SYS_pwrite64 || registers.rdx != 1);
    return 1;
}

static sigjmp_buf out;

static void jump_out(int number)
{
    (void)number;
    siglongjmp(out, 1);
}

static void __attribute__((noreturn)) write_when_traced(int fd)
{
    struct sigaction action = {.sa_handler = jump_out};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    if (sigsetjmp(out, 1) != 0)
        for (;;)
            pause();
    overwrite(fd, PART, PAGE, 1);
    _exit(0);
}

/* With `jumps`, a handler of the writer leaves what it was held in. */
static void keeps_what_it_stores(void (*divide)(unsigned char *at), int jumps)
{
    int fd = make_file("file", SIZE), status;
    char byte = 0;
    CHECK(fd >= 0 && pipe(go) == 0 && pipe(done) == 0);
    pid_t mapper = fork();
    if (mapper == 0)
        map_and_store(divide);
    CHECK(read(done[0], &byte, 1) == 1);
    pid_t writer = fork();
    if (writer == 0)
        write_when_traced(fd);
    CHECK(waitpid(writer, &status, 0) == writer && WIFSTOPPED(status));
    int is_held = run_to_store(writer);
    if (is_held && jumps) {
        CHECK(kill(writer, SIGUSR1) == 0 && ptrace(PTRACE_DETACH, writer, 0, 0) == 0);
        await_asleep(writer);
    }
    CHECK(write(go[1], &byte, 1) == 1);
    /* A mapper that waits for the writer is not done before that goes on. */
    struct pollfd watched = {.fd = done[0], .events = POLLIN};
    (void)poll(&watched, 1, 300);
    if (is_held && !jumps) {
        CHECK(ptrace(PTRACE_DETACH, writer, 0, 0) == 0);
        CHECK(waitpid(writer, &status, 0) == writer && status == 0);
    }
    CHECK(read(done[0], &byte, 1) == 1 && write(go[1], &byte, 1) == 1);
    CHECK(waitpid(mapper, &status, 0) == mapper && status == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    alarm(150);
    if (strcmp(argv[1], "a_page_opened_beside_a_push_keeps_its_stores") == 0)
        keeps_what_it_stores(open_a_page, 0);
    else if (strcmp(argv[1], "a_page_closed_then_opened_beside_a_push_keeps_its_stores") == 0)
        keeps_what_it_stores(close_then_open_a_page, 0);
    else if (strcmp(argv[1], "a_push_that_was_left_by_a_jump_holds_nobody_up") == 0)
        keeps_what_it_stores(open_a_page, 1);
    else
        return 2;
    return 0;
}

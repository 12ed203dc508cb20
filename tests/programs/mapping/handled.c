/* A mapper changes a snapshot, and so waits for the writer that is in the middle of making its pages private; a handler interrupts
 * that writer right there, and writes as well. Nothing waits for what waits for it. */
#include "check.h"
#include <pthread.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#define SIZE (16 * PAGE)

static int file;

static void write_too(int number)
{
    (void)number;
    overwrite(file, 0, PAGE, 2);
}

static void __attribute__((noreturn)) write_when_told(int to_writer)
{
    char byte;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    CHECK(signal(SIGUSR1, write_too) != SIG_ERR && read(to_writer, &byte, 1) == 1);
    overwrite(file, 0, SIZE, 1);
    _exit(0);
}

/* Whether the writer has come to the entry of the call by which it stores what a page of the snapshot shows: its own write has a
 * page's length. */
static int is_at_entry(pid_t writer)
{
    struct __ptrace_syscall_info information = {0};
    CHECK(ptrace(PTRACE_GET_SYSCALL_INFO, writer, sizeof information, &information) > 0);
    return information.op == PTRACE_SYSCALL_INFO_ENTRY && information.entry.nr == SYS_pwrite64 && information.entry.args[2] < PAGE;
}

/* Tells the writer, which is stopped before it is told, and stops it there. 0: it has ended without. */
static int go_on_to_entry(pid_t writer, int to_writer)
{
    int status;
    CHECK(ptrace(PTRACE_INTERRUPT, writer, 0, 0) == 0 && waitpid(writer, &status, 0) == writer && WIFSTOPPED(status));
    CHECK(write(to_writer, "", 1) == 1 && ptrace(PTRACE_SYSCALL, writer, 0, 0) == 0);
    while (waitpid(writer, &status, 0) == writer && WIFSTOPPED(status)) {
        if (WSTOPSIG(status) == (SIGTRAP | 0x80) && is_at_entry(writer))
            return 1;
        CHECK(ptrace(PTRACE_SYSCALL, writer, 0, 0) == 0);
    }
    return 0;
}

static void *give_half_up(void *at)
{
    CHECK(munmap((unsigned char *)at + SIZE / 2, SIZE / 2) == 0);
    return NULL;
}

int main(void)
{
    int to_writer[2], status;
    file = make_file("file", SIZE);
    CHECK(pipe(to_writer) == 0);
    pid_t writer = fork();
    CHECK(writer >= 0);
    if (writer == 0)
        write_when_told(to_writer[0]);
    unsigned char *at = snapshot(file, 0, SIZE, PROT_READ);
    if (ptrace(PTRACE_SEIZE, writer, 0, PTRACE_O_TRACESYSGOOD) != 0) {
        puts("SKIPPED ptrace(2) is refused");
        return 0;
    }
    CHECK(go_on_to_entry(writer, to_writer[1]));
    pthread_t giving_up;
    CHECK(pthread_create(&giving_up, NULL, give_half_up, at) == 0);
    usleep(200000); /* until it waits; if it does not yet, nothing is shown, and nothing fails */
    CHECK(kill(writer, SIGUSR1) == 0 && ptrace(PTRACE_DETACH, writer, 0, 0) == 0);
    CHECK(pthread_join(giving_up, NULL) == 0);
    CHECK(waitpid(writer, &status, 0) == writer && status == 0);
    CHECK(shows(at, 0, SIZE / 2, 0) && stat_of(at).state == SNAPSHIM_EXACT);
    return 0;
}

/* A mapper that ends has given its snapshots back, and its last thread is kept from ending it: by a tracer here, by a busy machine
 * elsewhere. Its agent goes on meanwhile, and looks at the table now and then. The snapshots of others stay exact. */
#include "check.h"

#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>

enum { SIZE = 4 * 4096, ROUNDS_OF_THE_AGENT = 3 };

static void __attribute__((noreturn)) end_as_mapper(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    CHECK(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0 && raise(SIGSTOP) == 0);
    _exit(0);
}

/* To where the process is about to make its last call. */
static void run_to_end(pid_t pid)
{
    for (int status;;) {
        struct user_regs_struct registers;
        CHECK(ptrace(PTRACE_SYSCALL, pid, 0, 0) == 0 && waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
        CHECK(ptrace(PTRACE_GETREGS, pid, 0, &registers) == 0);
        if (registers.orig_rax == SYS_exit_group)
            return;
    }
}

int main(void)
{
    int fd = make_file("file", SIZE), status;
    unsigned char *at = snapshot(fd, 0, SIZE, PROT_READ);
    pid_t mapper = fork();
    CHECK(mapper >= 0);
    if (mapper == 0)
        end_as_mapper();
    CHECK(waitpid(mapper, &status, 0) == mapper && WIFSTOPPED(status));
    run_to_end(mapper);
    sleep(ROUNDS_OF_THE_AGENT);
    overwrite(fd, 0, SIZE, 1);
    CHECK(stat_of(at).state == SNAPSHIM_EXACT && shows(at, 0, SIZE, 0));
    CHECK(ptrace(PTRACE_CONT, mapper, 0, 0) == 0);
    CHECK(waitpid(mapper, &status, 0) == mapper && status == 0);
    CHECK(stat_of(at).state == SNAPSHIM_EXACT && shows(at, 0, SIZE, 0));
    return 0;
}

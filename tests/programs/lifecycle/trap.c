#include "trap.h"

int file;
int forks_at;
void (*before)(int number, unsigned char *bytes);
int is_forked, is_child;
int flags;

long call(long number, long long *r)
{
    register long r10 __asm__("r10") = (long)r[REG_R10];
    register long r8 __asm__("r8") = (long)r[REG_R8];
    register long r9 __asm__("r9") = PASS;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(r[REG_RDI]), "S"(r[REG_RSI]), "d"(r[REG_RDX]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static void on_trap(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    long long *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (info->si_syscall == forks_at && !is_forked) {
        is_forked = 1;
        pid_t pid = fork();
        CHECK(pid >= 0);
        is_child = pid == 0;
        if (is_child)
            prctl(PR_SET_PDEATHSIG, SIGKILL);
    }
    before(info->si_syscall, info->si_syscall == SYS_pwrite64 ? (unsigned char *)registers[REG_RSI] : NULL);
    registers[REG_RAX] = call(info->si_syscall, registers);
}

void install_unseen(const struct sock_fprog *program)
{
    long result;
    register long no_flags __asm__("r10") = 0;
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(SYS_seccomp), "D"(SECCOMP_SET_MODE_FILTER), "S"(0L), "d"(program), "r"(no_flags)
                     : "rcx", "r11", "memory");
    CHECK(result == 0);
}

void trap(void)
{
    struct sock_filter filter[] = {
        LOAD(args[5]), SKIP_IF(PASS, 8),
        LOAD(args[0]), SKIP_UNLESS((unsigned)file, 6),
        LOAD(nr), SKIP_IF(SYS_statx, 3),
        SKIP_UNLESS(SYS_pwrite64, 3),
        LOAD(args[3]), BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, TRAPPED, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    install(filter, sizeof filter / sizeof *filter);
}

void install(struct sock_filter *filter, unsigned short count)
{
    struct sock_fprog program = {count, filter};
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | flags};
    CHECK(sigaction(SIGSYS, &action, NULL) == 0);
    install_unseen(&program);
}

int to_parent[2], to_child[2], from_both[2];

void tell(const int *pipe)
{
    CHECK(write(pipe[1], "", 1) == 1);
}

void await(const int *pipe)
{
    char byte;
    CHECK(read(pipe[0], &byte, 1) == 1);
}

void open_pipes(void)
{
    CHECK(pipe(to_parent) == 0 && pipe(to_child) == 0 && pipe(from_both) == 0);
}

unsigned char *snapshot_beside_call(int protection)
{
    unsigned char *at = mmap(NULL, SIZE, protection, MAP_PRIVATE | MAP_SNAPSHOT, file, 0);
    CHECK(at != MAP_FAILED || errno == ETIMEDOUT);
    tell(to_child);
    return at;
}

void check_call_came_between(const unsigned char *before_it, int protection)
{
    if (before_it != MAP_FAILED)
        CHECK(shows(before_it + TRAPPED, TRAPPED, PAGE, 0));
    const unsigned char *after = snapshot(file, 0, SIZE, protection);
    CHECK(shows(after + TRAPPED, TRAPPED, PAGE, 1));
}

void __attribute__((noreturn)) run_below(void *(*body)(void *memory))
{
    pthread_t thread;
    pthread_attr_t attributes;
    unsigned char *memory = mmap(NULL, 2 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    CHECK(memory != MAP_FAILED && pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstack(&attributes, memory, STACK) == 0);
    CHECK(pthread_create(&thread, &attributes, body, memory) == 0 && pthread_join(thread, NULL) == 0);
    _exit(0);
}

/* A call that a handler interrupted while its thread goes on elsewhere: on another stack, from which it comes back, or for good. */
#include "trap.h"
#include <sys/resource.h>
#ifdef BOOST
typedef void *boost_context;
struct boost_transfer {
    boost_context from;
    void *data;
};
struct boost_transfer jump_fcontext(boost_context to, void *data);
boost_context make_fcontext(void *top, size_t size, void (*main)(struct boost_transfer));
#endif

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

static int other;
static unsigned char *stack_above;

/* What the thread does while its call waits: it writes, and jumps within the stack that it is on. */
static void be_elsewhere(void)
{
    static volatile int round;
    sigjmp_buf here;
    for (round = 0; round < 20; round++)
        if (sigsetjmp(here, 1) == 0) {
            overwrite(other, 0, PAGE, round);
            siglongjmp(here, 1);
        }
    tell(from_both);
    await(to_child);
}

/* A switch of stacks as libco's: what a call must keep is pushed, and the stack pointer changed. */
void switch_stacks(void **from, void *to);
__asm__(".text\n"
        "switch_stacks:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\n"
        "ret\n");

static void *interrupted, *fiber;

static void __attribute__((noreturn)) run_fiber(void)
{
    void *unused;
    for (;;) {
        be_elsewhere();
        switch_stacks(&unused, interrupted);
    }
}

static void prepare_fiber(unsigned char *top)
{
    void **at = (void **)((uintptr_t)top & ~(uintptr_t)15) - 8;
    memset(at, 0, 8 * sizeof *at);
    at[6] = (void *)run_fiber;
    fiber = at;
}

static ucontext_t context, back;

static void run_context(void)
{
    be_elsewhere();
    swapcontext(&context, &back);
}

#ifdef BOOST
static boost_context boost;

static void run_boost(struct boost_transfer transfer)
{
    be_elsewhere();
    jump_fcontext(transfer.from, NULL);
}
#endif

/* As a runtime that preempts its threads by a signal: the handler returns to another stack, and no handler runs any more. */
static gregset_t preempted;

static void __attribute__((noreturn, force_align_arg_pointer)) run_preempted(void)
{
    be_elsewhere();
    long long registers[NGREG];
    memcpy(registers, preempted, sizeof registers);
    preempted[REG_RAX] = call(SYS_pwrite64, registers);
    raise(SIGUSR2);
    abort();
}

static void resume(int number, siginfo_t *info, void *interrupted_context)
{
    (void)number, (void)info;
    memcpy(((ucontext_t *)interrupted_context)->uc_mcontext.gregs, preempted, sizeof preempted);
}

static void preempt(int number, siginfo_t *info, void *interrupted_context)
{
    (void)number;
    long long *registers = ((ucontext_t *)interrupted_context)->uc_mcontext.gregs;
    if (info->si_syscall != SYS_pwrite64) {
        registers[REG_RAX] = call(info->si_syscall, registers);
        return;
    }
    memcpy(preempted, registers, sizeof preempted);
    registers[REG_RIP] = (long long)run_preempted;
    registers[REG_RSP] = (long long)(stack_above + STACK - 64);
}

enum way { DISARMED, CONTEXT, SWITCHED, PREEMPTED, WITHIN, BOOSTED, ALTERNATE };
static enum way way;
static void write_trapped(void);

/* A thread of the program's own on the alternate signal stack, as GNU Pth makes them; the stack stays the alternate one. */
static sigjmp_buf on_alternate, on_own, in_call;

static void begin_on_alternate(int number)
{
    (void)number;
    if (sigsetjmp(on_alternate, 1) == 0)
        return;
    write_trapped();
    siglongjmp(on_own, 2);
}

static void __attribute__((noinline)) make_on_alternate(void)
{
    stack_t above = {.ss_sp = stack_above, .ss_size = STACK};
    struct sigaction action = {.sa_handler = begin_on_alternate, .sa_flags = SA_ONSTACK};
    CHECK(sigaltstack(&above, NULL) == 0 && sigaction(SIGUSR2, &action, NULL) == 0 && raise(SIGUSR2) == 0);
}

static void run_on_alternate(void)
{
    make_on_alternate();
    switch (sigsetjmp(on_own, 1)) {
    case 0:
        siglongjmp(on_alternate, 1);
    case 1:
        be_elsewhere();
        siglongjmp(in_call, 1);
    }
}

static void go_elsewhere(int number, unsigned char *bytes)
{
    (void)bytes;
    if (number != SYS_pwrite64)
        return;
    switch (way) {
    case DISARMED:
        be_elsewhere();
        return;
    case CONTEXT:
        swapcontext(&back, &context);
        return;
    case ALTERNATE:
        if (sigsetjmp(in_call, 1) == 0)
            siglongjmp(on_own, 1);
        return;
#ifdef BOOST
    case BOOSTED:
        jump_fcontext(boost, NULL);
        return;
#endif
    default:
        switch_stacks(&interrupted, fiber);
    }
}

static void __attribute__((noinline)) write_trapped(void)
{
    trap();
    if (way == PREEMPTED) {
        struct sigaction action = {.sa_sigaction = preempt, .sa_flags = SA_SIGINFO};
        CHECK(sigaction(SIGSYS, &action, NULL) == 0);
    }
    overwrite(file, TRAPPED, PAGE, 1);
}

static void *write_and_switch(void *memory)
{
    /* The part of its own stack that another thread of the program's runs on. */
    static __thread unsigned char *volatile kept;
    unsigned char within[1 << 15];
    kept = within;
    stack_above = (unsigned char *)memory + STACK;
    /* Before the filter, without which it has slots and pages to itself. */
    overwrite(other, 0, PAGE, 1);
    switch (way) {
    case DISARMED: {
        stack_t above = {.ss_sp = stack_above, .ss_size = STACK, .ss_flags = (int)SS_AUTODISARM};
        CHECK(sigaltstack(&above, NULL) == 0);
        flags = SA_ONSTACK;
        break;
    }
    case CONTEXT:
        CHECK(getcontext(&context) == 0);
        context.uc_stack = (stack_t){.ss_sp = stack_above, .ss_size = STACK};
        makecontext(&context, run_context, 0);
        break;
    case ALTERNATE:
        run_on_alternate();
        return memory;
    case PREEMPTED: {
        struct sigaction action = {.sa_sigaction = resume, .sa_flags = SA_SIGINFO};
        CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
        break;
    }
#ifdef BOOST
    case BOOSTED:
        boost = make_fcontext(stack_above + STACK, STACK, run_boost);
        break;
#endif
    default:
        prepare_fiber(way == WITHIN ? kept + sizeof within : stack_above + STACK);
    }
    write_trapped();
    return memory;
}

/* The snapshot is refused, or it came before the call; the next has it. */
static void is_waited_for(enum way by, int protection)
{
    way = by;
    other = make_file("other", PAGE);
    file = make_file("file", SIZE);
    open_pipes();
    before = go_elsewhere;
    pid_t writer = fork();
    if (writer == 0)
        run_below(write_and_switch);
    CHECK(writer > 0);
    await(from_both);
    unsigned char *at = snapshot_beside_call(protection);
    int status;
    CHECK(waitpid(writer, &status, 0) == writer && status == 0);
    check_call_came_between(at, protection);
}

#define WAITED_FOR(name, by)                  \
    static void name(int protection, enum who who) \
    {                                         \
        (void)who;                            \
        is_waited_for(by, protection);        \
    }

WAITED_FOR(a_call_below_an_autodisarmed_stack_is_waited_for, DISARMED)
WAITED_FOR(a_call_below_a_swapped_context_is_waited_for, CONTEXT)
WAITED_FOR(a_call_below_a_switch_of_stacks_is_waited_for, SWITCHED)
WAITED_FOR(a_call_on_the_alternate_stack_is_waited_for, ALTERNATE)
WAITED_FOR(a_call_of_a_preempted_thread_is_waited_for, PREEMPTED)
WAITED_FOR(a_call_below_a_stack_within_the_stack_is_waited_for, WITHIN)
#ifdef BOOST
WAITED_FOR(a_call_below_a_boost_context_is_waited_for, BOOSTED)
#endif

/* Leaving for good. */
enum { LEFT = 300, LEFT_WITHOUT_PROOF = 20 };
static sigjmp_buf out;
static ucontext_t out_by_context;
static int jumps;
void __longjmp_chk(sigjmp_buf, int) __attribute__((noreturn));

static void leave(int number)
{
    (void)number;
    switch (jumps % 4) {
    case 0:
        siglongjmp(out, 1);
    case 1:
        longjmp(out, 1);
    case 2:
        _longjmp(out, 1);
    default:
        __longjmp_chk(out, 1);
    }
}

static void leave_by_context(int number)
{
    (void)number;
    setcontext(&out_by_context);
}

/* So far down its stack, beyond the end that files may have (setrlimit(2)): the signal comes in the call. */
static void __attribute__((noinline)) write_too_far(size_t depth)
{
    volatile unsigned char below[depth];
    below[0] = below[depth - 1] = 1;
    (void)!pwrite(file, (const void *)below, 1, (off_t)SIZE);
}

static void leave_with(void (*handler)(int), int handler_flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = handler_flags};
    struct rlimit limit = {SIZE, RLIM_INFINITY};
    CHECK(sigaction(SIGXFSZ, &action, NULL) == 0 && setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

static void leave_calls(void)
{
    for (jumps = 0; jumps < LEFT; jumps++) {
        if (sigsetjmp(out, 1) == 0) {
            write_too_far(1 + (size_t)(jumps * 97 % 5000));
            CHECK(!"left");
        }
        sigset_t mask;
        CHECK(sigprocmask(SIG_SETMASK, NULL, &mask) == 0);
        CHECK(sigismember(&mask, SIGXFSZ) == 0 && sigismember(&mask, SIGUSR2) == 1);
    }
}

static void *leave_calls_in_thread(void *unused)
{
    leave_calls();
    tell(from_both);
    await(to_child);
    overwrite(file, 0, SIZE, 2);
    tell(from_both);
    for (;;)
        pause();
    return unused;
}

/* A thread that has left many calls, by each kind of jump, holds no creation up, writes on, and is waited for then. */
static void calls_that_are_left_by_jumps_hold_nobody_up(int protection, enum who who)
{
    (void)who;
    static unsigned char alternate[1 << 16];
    for (int kind = 0; kind < 6; kind++) {
        file = make_file("file", SIZE);
        open_pipes();
        pid_t writer = fork();
        if (writer == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate, .ss_flags = kind / 2 == 2 ? (int)SS_AUTODISARM : 0};
            pthread_t thread;
            sigset_t mask;
            sigemptyset(&mask), sigaddset(&mask, SIGUSR2);
            CHECK(sigprocmask(SIG_SETMASK, &mask, NULL) == 0);
            leave_with(leave, kind / 2 ? SA_ONSTACK : 0);
            if (kind / 2)
                CHECK(sigaltstack(&stack, NULL) == 0);
            if (kind % 2) {
                leave_calls_in_thread(NULL);
            } else {
                /* Which has no alternate stack. */
                CHECK(pthread_create(&thread, NULL, leave_calls_in_thread, NULL) == 0);
                pthread_join(thread, NULL);
            }
        }
        CHECK(writer > 0);
        await(from_both);
        unsigned char *at = snapshot(file, 0, SIZE, protection);
        tell(to_child);
        await(from_both);
        CHECK(shows(at, 0, SIZE, 0) && stat_of(at).state == SNAPSHIM_EXACT);
        unsigned char *after = snapshot(file, 0, SIZE, protection);
        CHECK(shows(after, 0, SIZE, 2));
        int status;
        CHECK(kill(writer, SIGKILL) == 0 && waitpid(writer, &status, 0) == writer);
        close(file);
    }
}

static void *leave_without_proof(void *unused)
{
    static volatile int round;
    round = 0;
    CHECK(getcontext(&out_by_context) == 0);
    if (round++ < LEFT_WITHOUT_PROOF)
        write_too_far(100);
    overwrite(file, 0, SIZE, 1);
    overwrite(other, 0, PAGE, 1);
    tell(from_both);
    await(to_child);
    overwrite(other, 0, PAGE, 2);
    return unused;
}

/* No process knows whether it comes back: the file it wrote to has no snapshot until it ends, and it writes on. */
static void a_call_that_is_left_without_proof_counts_until_its_thread_ends(int protection, enum who who)
{
    (void)who;
    file = make_file("file", SIZE);
    other = make_file("other", PAGE);
    open_pipes();
    pid_t writer = fork();
    if (writer == 0) {
        pthread_t thread;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        leave_with(leave_by_context, 0);
        CHECK(pthread_create(&thread, NULL, leave_without_proof, NULL) == 0 && pthread_join(thread, NULL) == 0);
        tell(from_both);
        for (;;)
            pause();
    }
    CHECK(writer > 0);
    await(from_both);
    CHECK_ERRNO(mmap(NULL, SIZE, protection, MAP_PRIVATE | MAP_SNAPSHOT, file, 0), MAP_FAILED, ETIMEDOUT);
    unsigned char *elsewhere = snapshot(other, 0, PAGE, protection);
    tell(to_child);
    await(from_both);
    CHECK(shows(elsewhere, 0, PAGE, 1) && stat_of(elsewhere).state == SNAPSHIM_EXACT);
    unsigned char *at = snapshot(file, 0, SIZE, protection);
    CHECK(shows(at, 0, SIZE, 1));
    int status;
    CHECK(kill(writer, SIGKILL) == 0 && waitpid(writer, &status, 0) == writer);
}

static const struct scenario scenarios[] = {
    ONCE(a_call_below_an_autodisarmed_stack_is_waited_for),
    ONCE(a_call_below_a_swapped_context_is_waited_for),
    ONCE(a_call_below_a_switch_of_stacks_is_waited_for),
    ONCE(a_call_on_the_alternate_stack_is_waited_for),
    ONCE(a_call_of_a_preempted_thread_is_waited_for),
    ONCE(a_call_below_a_stack_within_the_stack_is_waited_for),
#ifdef BOOST
    ONCE(a_call_below_a_boost_context_is_waited_for),
#endif
    ONCE(calls_that_are_left_by_jumps_hold_nobody_up),
    ONCE(a_call_that_is_left_without_proof_counts_until_its_thread_ends),
};
MAIN(scenarios)

/* Instructions that fault, for the program's own reasons. */
#include "scenes.h"

#include <ucontext.h>

static volatile int handled;
static sigjmp_buf out;

/* A store to `at` of one instruction, which a handler can skip. What xmm5 holds has to survive. */
extern char store_there[], behind_store[];
static double store(volatile int *at, double kept)
{
    __asm__ volatile("movsd %[kept], %%xmm5\n"
                     ".globl store_there\nstore_there: movl $7, (%[at])\n.globl behind_store\nbehind_store:\n"
                     "movsd %%xmm5, %[kept]\n"
                     : [kept] "+m"(kept)
                     : [at] "r"(at)
                     : "xmm5", "memory");
    return kept;
}

static void clobber(void)
{
    __asm__ volatile("pcmpeqd %%xmm5, %%xmm5\nfldpi\nfstp %%st(0)" ::: "xmm5");
}

static void skip(int number, siginfo_t *info, void *context)
{
    ucontext_t *at = context;
    handled++;
    say("signal %ld code %ld address %#lx\n", number + 100 * info->si_signo, info->si_code, (long)info->si_addr);
    say("errno %ld at the store %ld uc_link %ld\n", info->si_errno, at->uc_mcontext.gregs[REG_RIP] == (long)store_there,
        (long)at->uc_link);
    at->uc_mcontext.gregs[REG_RIP] = (long)behind_store;
    clobber();
}

static void jump(int number)
{
    say("signal %ld, jump %ld\n", number, ++handled, 0);
    siglongjmp(out, 1);
}

static void context_is_edited(void)
{
    act(SIGSEGV, skip, SA_SIGINFO, NULL);
    now_late();
    volatile int *readable = mmap((void *)0x20000000, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    printf("%g\n", store(NOWHERE, 2.5));
    printf("%g\n", store(readable + 3, 3.5));
    printf("%g\n", store((volatile int *)0x8000000000000000, 4.5));
}

static void handler_jumps_out(void)
{
    act(SIGSEGV, jump, 0, (int[]){SIGUSR1, 0});
    now_late();
    for (int i = 0; i < 3; i++)
        if (sigsetjmp(out, 1) == 0)
            *NOWHERE = 1;
    say_mask("after");
}

static void handler_jumps_out_without_the_mask(void)
{
    act(SIGSEGV, jump, 0, (int[]){SIGUSR1, 0});
    now_late();
    if (sigsetjmp(out, 0) == 0)
        *NOWHERE = 1;
    say_mask("after");
    *(NOWHERE + 4) = 1;
}

static void tell_mask(int number, siginfo_t *info, void *context)
{
    say_mask("inside");
    skip(number, info, context);
}

static void mask_inside(void)
{
    block(SIG_SETMASK, (int[]){SIGUSR2, 0});
    act(SIGSEGV, tell_mask, SA_SIGINFO, (int[]){SIGUSR1, SIGTERM, 0});
    now_late();
    store(NOWHERE, 1);
    say_mask("after");
    act(SIGSEGV, tell_mask, SA_SIGINFO | SA_NODEFER, (int[]){SIGUSR1, 0});
    store(NOWHERE, 1);
    say_mask("after");
}

static void deeper(int number)
{
    say("signal %ld depth %ld\n", number, ++handled, 0);
    if (handled == 4)
        siglongjmp(out, 1);
    *(NOWHERE + handled) = 1;
}

static void handler_faults_with_nodefer(void)
{
    act(SIGSEGV, deeper, SA_NODEFER, NULL);
    now_late();
    if (sigsetjmp(out, 1) == 0)
        *NOWHERE = 1;
    say_mask("after");
}

static void handler_faults(void)
{
    act(SIGSEGV, deeper, 0, NULL);
    now_late();
    *NOWHERE = 1;
}

static void handler_faults_with_itself_masked(void)
{
    act(SIGSEGV, deeper, SA_NODEFER, (int[]){SIGSEGV, 0});
    now_late();
    *NOWHERE = 1;
}

static void handler_is_for_once(void)
{
    struct sigaction now;
    act(SIGSEGV, skip, SA_SIGINFO | SA_RESETHAND, (int[]){SIGUSR1, 0});
    now_late();
    store(NOWHERE, 1);
    CHECK(sigaction(SIGSEGV, NULL, &now) == 0);
    printf("now %p flags %#x mask %#lx\n", (void *)now.sa_handler, (unsigned)now.sa_flags, word_of(&now.sa_mask));
    fflush(NULL);
    store(NOWHERE + 1, 1);
}

static void default_action(void)
{
    now_late();
    *(NOWHERE + 2) = 1;
}

static void default_action_on_a_bad_address(void)
{
    now_late();
    *(volatile int *)0x8000000000000000 = 1;
}

static void ignored(void)
{
    signal(SIGSEGV, SIG_IGN);
    now_late();
    *(NOWHERE + 3) = 1;
}

static void default_set_inside(int number)
{
    say("signal %ld\n", number, 0, 0);
    signal(SIGSEGV, SIG_DFL);
}

static void handler_gives_up(void)
{
    act(SIGSEGV, default_set_inside, 0, NULL);
    now_late();
    *(NOWHERE + 5) = 1;
}

static void raise_again(int number)
{
    default_set_inside(number);
    raise(SIGSEGV);
    say("still there\n", 0, 0, 0);
}

static void handler_raises_again(void)
{
    act(SIGSEGV, raise_again, 0, NULL);
    now_late();
    *NOWHERE = 1;
}

static void blocked(void)
{
    act(SIGSEGV, jump, 0, NULL);
    block(SIG_BLOCK, (int[]){SIGSEGV, 0});
    now_late();
    say_mask("before");
    *(NOWHERE + 6) = 1;
}

static void fault_inside(int number)
{
    say("signal %ld\n", number, 0, 0);
    say_mask("inside");
    *(NOWHERE + 7) = 1;
}

static void blocked_by_another_handler(void)
{
    act(SIGSEGV, jump, 0, NULL);
    act(SIGUSR1, fault_inside, 0, (int[]){SIGSEGV, 0});
    now_late();
    raise(SIGUSR1);
}

static void inside_another_handler(void)
{
    act(SIGSEGV, jump, 0, NULL);
    act(SIGUSR1, fault_inside, 0, (int[]){SIGTERM, 0});
    now_late();
    if (sigsetjmp(out, 1) == 0)
        raise(SIGUSR1);
    say_mask("after");
}

static unsigned char *barrier;

static void open_page(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    handled++;
    CHECK(mprotect((void *)((uintptr_t)info->si_addr & ~(PAGE - 1)), PAGE, PROT_READ | PROT_WRITE) == 0);
}

static void touch_guarded(int number)
{
    (void)number;
    for (size_t i = 0; i < 64; i++)
        barrier[i * PAGE] = (unsigned char)i;
}

/* The write barrier of a garbage collector, also from inside a handler. */
static void pages_are_opened_by_the_handler(void)
{
    barrier = mmap(NULL, 64 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(barrier != MAP_FAILED);
    act(SIGSEGV, open_page, SA_SIGINFO, NULL);
    act(SIGUSR1, touch_guarded, 0, NULL);
    now_late();
    touch_guarded(0);
    CHECK(mprotect(barrier, 64 * PAGE, PROT_READ) == 0);
    raise(SIGUSR1);
    printf("%d opened, %d\n", handled, barrier[63 * PAGE]);
}

static void in_a_forked_child(void)
{
    act(SIGSEGV, skip, SA_SIGINFO, NULL);
    now_late();
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        store(NOWHERE, 1);
        signal(SIGSEGV, SIG_DFL);
        *NOWHERE = 1;
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    printf("child %#x\n", (unsigned)status);
    fflush(NULL);
    store(NOWHERE + 1, 1);
}

static void *fault_in_thread(void *argument)
{
    for (int i = 0; i < 1000; i++)
        store(NOWHERE + (long)argument, 1);
    return NULL;
}

static void count_and_skip(int number, siginfo_t *info, void *context)
{
    (void)number;
    CHECK(info->si_addr >= (void *)NOWHERE && info->si_addr < (void *)(NOWHERE + 4));
    __atomic_fetch_add(&handled, 1, __ATOMIC_RELAXED);
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] = (long)behind_store;
}

static void in_many_threads(void)
{
    act(SIGSEGV, count_and_skip, SA_SIGINFO, NULL);
    now_late();
    pthread_t threads[4];
    for (long i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, fault_in_thread, (void *)i) == 0);
    for (int i = 0; i < 100; i++)
        act(SIGSEGV, count_and_skip, SA_SIGINFO | (i % 2 ? SA_NODEFER : 0), NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    printf("%d handled\n", handled);
}

static void default_action_in_a_thread(void)
{
    pthread_t thread;
    now_late();
    CHECK(pthread_create(&thread, NULL, fault_in_thread, (void *)2) == 0);
    pthread_join(thread, NULL);
}

/* Stacks. */
enum { ALTERNATE = 1 << 16 };
static char *alternate;

static void with_alternate_stack(void)
{
    alternate = malloc(ALTERNATE);
    stack_t stack = {.ss_sp = alternate, .ss_size = ALTERNATE};
    CHECK(alternate && sigaltstack(&stack, NULL) == 0);
}

static void where(int number, siginfo_t *info, void *context)
{
    char here;
    stack_t now;
    CHECK(sigaltstack(NULL, &now) == 0);
    ucontext_t *at = context;
    long distance = at->uc_mcontext.gregs[REG_RSP] - (long)context;
    say("on the alternate stack %ld, flags %ld, aligned %ld\n", &here >= alternate && &here < alternate + ALTERNATE, now.ss_flags,
        ((long)context - 8) % 16);
    say("saved: on the alternate stack %ld, near %ld, state %ld\n", (char *)context >= alternate && (char *)context < alternate + ALTERNATE,
        distance > 0 && distance < 1 << 14, (char *)at->uc_mcontext.fpregs > (char *)context);
    say("stack %ld size %ld flags %ld\n", (char *)at->uc_stack.ss_sp == alternate, (long)at->uc_stack.ss_size, at->uc_stack.ss_flags);
    skip(number, info, context);
}

static void stacks(void)
{
    with_alternate_stack();
    act(SIGSEGV, where, SA_SIGINFO, NULL);
    now_late();
    printf("%g\n", store(NOWHERE, 1.25));
    fflush(NULL);
    act(SIGSEGV, where, SA_SIGINFO | SA_ONSTACK, NULL);
    printf("%g\n", store(NOWHERE, 2.25));
    fflush(NULL);
    stack_t none = {.ss_flags = SS_DISABLE};
    CHECK(sigaltstack(&none, NULL) == 0);
    printf("%g\n", store(NOWHERE, 3.25));
}

static void store_inside(int number)
{
    (void)number;
    store(NOWHERE, 1);
}

static void stacks_inside_a_handler(void)
{
    with_alternate_stack();
    act(SIGUSR1, store_inside, SA_ONSTACK, NULL);
    act(SIGSEGV, where, SA_SIGINFO, NULL);
    now_late();
    raise(SIGUSR1);
    act(SIGSEGV, where, SA_SIGINFO | SA_ONSTACK, NULL);
    raise(SIGUSR1);
    act(SIGUSR1, store_inside, 0, NULL);
    raise(SIGUSR1);
}

static void a_stack_that_disarms_itself(void)
{
    alternate = malloc(ALTERNATE);
    stack_t stack = {.ss_sp = alternate, .ss_size = ALTERNATE, .ss_flags = (int)(1u << 31)};
    CHECK(alternate && sigaltstack(&stack, NULL) == 0);
    act(SIGSEGV, where, SA_SIGINFO | SA_ONSTACK, NULL);
    now_late();
    store(NOWHERE, 1);
    act(SIGSEGV, where, SA_SIGINFO, NULL);
    store(NOWHERE, 1);
    stack_t now;
    CHECK(sigaltstack(NULL, &now) == 0);
    printf("flags %#x size %zu\n", (unsigned)now.ss_flags, now.ss_size);
}

__attribute__((noinline)) static int overflow(int depth)
{
    volatile char much[4096];
    much[0] = (char)depth;
    return depth < 0 ? 0 : overflow(depth + 1) + much[0];
}

static void *overflow_in_thread(void *handler_flags)
{
    with_alternate_stack();
    if (handler_flags)
        act(SIGSEGV, jump, *(int *)handler_flags, NULL);
    now_late();
    if (sigsetjmp(out, 1) == 0)
        overflow(0);
    say_mask("after");
    return NULL;
}

static void overflows(int flags)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, overflow_in_thread, &flags) == 0);
    pthread_join(thread, NULL);
}

static void overflow_with_alternate_stack(void)
{
    overflows(SA_ONSTACK);
    overflows(SA_ONSTACK);
}

static void overflow_with_the_handler_on_the_same_stack(void)
{
    overflows(0);
}

static void a_full_stack(void)
{
    act(SIGSEGV, jump, 0, NULL);
    now_late();
    struct rlimit limit = {1 << 20, 1 << 20};
    CHECK(setrlimit(RLIMIT_STACK, &limit) == 0);
    overflow(0);
}

static const struct scene scenes[] = {
    SCENE(context_is_edited),
    SCENE(handler_jumps_out),
    SCENE(handler_jumps_out_without_the_mask),
    SCENE(mask_inside),
    SCENE(handler_faults_with_nodefer),
    SCENE(handler_faults),
    SCENE(handler_faults_with_itself_masked),
    SCENE(handler_is_for_once),
    SCENE(default_action),
    SCENE(default_action_on_a_bad_address),
    SCENE(default_action_in_a_thread),
    SCENE(ignored),
    SCENE(handler_gives_up),
    SCENE(handler_raises_again),
    SCENE(blocked),
    SCENE(blocked_by_another_handler),
    SCENE(inside_another_handler),
    SCENE(pages_are_opened_by_the_handler),
    SCENE(in_a_forked_child),
    SCENE(in_many_threads),
    SCENE(stacks),
    SCENE(stacks_inside_a_handler),
    SCENE(a_stack_that_disarms_itself),
    SCENE(overflow_with_alternate_stack),
    SCENE(overflow_with_the_handler_on_the_same_stack),
    SCENE(a_full_stack),
};

SCENES(scenes)

/* Children that act in the memory of their parent: of vfork(2), of posix_spawn(3), and of clone(2) with CLONE_VM. */
#include "trap.h"
#include <poll.h>
#include <sched.h>
#include <spawn.h>
#include <sys/ioctl.h>

/* How the child comes about: its parent is stopped meanwhile, or goes on beside it. */
enum way { STOPS, GOES_ON, WAYS };

static int is_trapped;

static void waits(int number, unsigned char *bytes)
{
    (void)bytes;
    if (number != SYS_pwrite64)
        return;
    __atomic_store_n(&is_trapped, 1, __ATOMIC_SEQ_CST);
    tell(from_both);
    await(to_child);
}

static int write_trapped(void *unused)
{
    static unsigned char bytes[PAGE];
    (void)unused;
    memset(bytes, stamp(TRAPPED / PAGE, 1), PAGE);
    return pwrite(file, bytes, PAGE, TRAPPED) != PAGE;
}

static pid_t start_beside_on(unsigned char *stack, int (*body)(void *))
{
    pid_t pid = clone(body, stack + STACK, CLONE_VM | SIGCHLD, NULL);
    CHECK(pid > 0);
    return pid;
}

static pid_t start_beside(int (*body)(void *))
{
    static unsigned char stack[STACK] __attribute__((aligned(16)));
    return start_beside_on(stack, body);
}

/* The parent writes itself while the child that goes on beside it is in its call. */
static void __attribute__((noreturn)) lend_memory(enum way way, int is_known)
{
    int status;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (is_known)
        overwrite(file, 0, PAGE, 1);
    trap();
    pid_t pid;
    if (way == STOPS) {
        pid = vfork();
        if (pid == 0)
            _exit(write_trapped(NULL));
    } else {
        pid = start_beside(write_trapped);
        while (!__atomic_load_n(&is_trapped, __ATOMIC_SEQ_CST))
            usleep(1000);
        overwrite(file, PAGE, PAGE, 1);
        tell(from_both);
    }
    _exit(waitpid(pid, &status, 0) != pid || status != 0);
}

/* A process shares its memory with a child, and the thread that the table knows. */
static void a_call_of_a_vfork_child_is_waited_for(int protection, enum who who)
{
    (void)who;
    for (int round = 0; round < 2 * WAYS; round++) {
        enum way way = round / 2;
        file = make_file("file", SIZE);
        open_pipes();
        before = waits;
        pid_t writer = fork();
        if (writer == 0)
            lend_memory(way, round % 2);
        CHECK(writer > 0);
        await(from_both);
        if (way == GOES_ON)
            await(from_both);
        unsigned char *at = snapshot_beside_call(protection);
        int status;
        CHECK(waitpid(writer, &status, 0) == writer && status == 0);
        check_call_came_between(at, protection);
    }
}

static int poll_above(void *unused)
{
    const struct timespec moment = {0};
    sigset_t none;
    (void)unused;
    sigemptyset(&none);
    while (!__atomic_load_n(&is_trapped, __ATOMIC_SEQ_CST))
        usleep(1000);
    CHECK(ppoll(NULL, 0, &moment, &none) == 0);
    tell(from_both);
    return 0;
}

/* The child has the thread-local storage of this thread, and a stack further up. */
static void *write_below(void *memory)
{
    int status;
    pid_t pid = start_beside_on((unsigned char *)memory + STACK, poll_above);
    trap();
    CHECK(write_trapped(NULL) == 0);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    return NULL;
}

/* What the child does ends no call of the thread that made it. */
static void a_call_beside_a_child_is_waited_for(int protection, enum who who)
{
    (void)who;
    int status;
    file = make_file("file", SIZE);
    open_pipes();
    before = waits;
    pid_t writer = fork();
    if (writer == 0)
        run_below(write_below);
    CHECK(writer > 0);
    await(from_both), await(from_both);
    unsigned char *at = snapshot_beside_call(protection);
    CHECK(waitpid(writer, &status, 0) == writer && status == 0);
    check_call_came_between(at, protection);
}

/* How the parent of a child of vfork(2) ends while the child writes. */
enum end { REAPED, ZOMBIE, REPLACED, ENDS };

static void *replace_image(void *nothing)
{
    await(to_parent);
    execlp("sleep", "sleep", "1000", NULL);
    return nothing;
}

static void __attribute__((noreturn)) lend_memory_and_end(enum end end, int is_known)
{
    pthread_t thread;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (is_known)
        overwrite(file, 0, PAGE, 0);
    /* Only root may look into it. */
    CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
    trap();
    if (end == REPLACED)
        CHECK(pthread_create(&thread, NULL, replace_image, NULL) == 0);
    pid_t pid = vfork();
    CHECK(pid == 0);
    if (write_trapped(NULL) == 0)
        tell(from_both);
    _exit(0);
}

static void await_image(pid_t pid, const char *name)
{
    char path[64], found[64] = "";
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    while (strncmp(found, name, strlen(name)) != 0) {
        FILE *comm = fopen(path, "r");
        CHECK(comm && fgets(found, sizeof found, comm));
        fclose(comm);
    }
}

static void a_call_of_a_vfork_child_is_waited_for_when_its_parent_is_gone(int protection, enum who who)
{
    (void)who;
    for (int round = 0; round < 2 * ENDS; round++) {
        enum end end = round / 2;
        file = make_file("file", SIZE);
        open_pipes();
        before = waits;
        pid_t writer = fork();
        if (writer == 0)
            lend_memory_and_end(end, round % 2);
        CHECK(writer > 0);
        await(from_both);
        siginfo_t info;
        if (end == REPLACED)
            tell(to_parent), await_image(writer, "sleep");
        else
            CHECK(kill(writer, SIGKILL) == 0 && waitid(P_PID, writer, &info, WEXITED | (end == ZOMBIE ? WNOWAIT : 0)) == 0);
        unsigned char *at = snapshot_beside_call(protection);
        await(from_both);
        check_call_came_between(at, protection);
        if (end == REPLACED)
            CHECK(kill(writer, SIGKILL) == 0);
        if (end != REAPED)
            CHECK(waitid(P_PID, writer, &info, WEXITED) == 0);
    }
}

enum { LARGE = 64 << 20 };

static volatile int is_over;

/* Stores ever higher numbers into page after page; none may become lower again. */
static void *store_on(void *at)
{
    static uint64_t stored[LARGE / 4096];
    memset(stored, 0, sizeof stored);
    for (uint64_t number = 1; !is_over; number++) {
        size_t page = number * 7919 % (LARGE / PAGE);
        volatile uint64_t *word = (volatile uint64_t *)((unsigned char *)at + page * PAGE + 8);
        CHECK(!stored[page] || *word == stored[page]);
        *word = stored[page] = number;
    }
    return NULL;
}

/* A child that posix_spawn makes empties the file in its parent's memory, whose other threads store on. */
static void a_spawned_child_that_cuts_keeps_the_stores_of_threads(int protection, enum who who)
{
    (void)protection, (void)who;
    for (int round = 0; round < 4; round++) {
        file = make_file("file", LARGE);
        unsigned char *at = snapshot(file, 0, LARGE, PROT_READ | PROT_WRITE);
        pthread_t thread;
        is_over = 0;
        CHECK(pthread_create(&thread, NULL, store_on, at) == 0);
        posix_spawn_file_actions_t actions;
        char *arguments[] = {"true", NULL};
        int status;
        pid_t pid;
        CHECK(posix_spawn_file_actions_init(&actions) == 0);
        CHECK(posix_spawn_file_actions_addopen(&actions, 9, "file", O_WRONLY | O_TRUNC, 0) == 0);
        CHECK(posix_spawnp(&pid, "true", &actions, NULL, arguments, environ) == 0);
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
        is_over = 1;
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK(stat_of(at).state == SNAPSHIM_EXACT && at[LARGE - 1] == stamp(LARGE / PAGE - 1, 0));
        CHECK(munmap(at, LARGE) == 0 && close(file) == 0);
        posix_spawn_file_actions_destroy(&actions);
    }
}

static void *spawn_and_block(void *full)
{
    posix_spawn_file_actions_t actions;
    char *arguments[] = {"true", NULL}, bytes[4096] = {0};
    int status;
    pid_t pid;
    CHECK(posix_spawn_file_actions_init(&actions) == 0);
    CHECK(posix_spawn_file_actions_addopen(&actions, 9, "other", O_WRONLY | O_TRUNC, 0) == 0);
    CHECK(posix_spawnp(&pid, "true", &actions, NULL, arguments, environ) == 0);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    for (;;)
        CHECK(write(((int *)full)[1], bytes, sizeof bytes) > 0);
    return NULL;
}

/* The child made the first call that the table knows of the thread. */
static void a_thread_that_spawned_before_it_wrote_holds_nobody_up(int protection, enum who who)
{
    (void)who;
    int full[2], filled = 0, size;
    pthread_t thread;
    file = make_file("file", SIZE);
    close(make_file("other", SIZE));
    CHECK(pipe(full) == 0 && (size = fcntl(full[0], F_GETPIPE_SZ)) > 0);
    pid_t writer = fork();
    if (writer == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        CHECK(pthread_create(&thread, NULL, spawn_and_block, full) == 0 && pthread_join(thread, NULL) == 0);
    }
    while (filled < size) {
        usleep(1000);
        CHECK(ioctl(full[0], FIONREAD, &filled) == 0);
    }
    unsigned char *at = snapshot(file, 0, SIZE, protection);
    overwrite(file, 0, SIZE, 1);
    CHECK(shows(at, 0, SIZE, 0));
    CHECK(kill(writer, SIGKILL) == 0);
}

static unsigned char *inherited;

/* What the child forks has a copy of the memory that is shared. */
static int fork_and_look(void *unused)
{
    (void)unused;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        await(to_child);
        unsigned char first = stamp(0, 0);
        _exit(fault_of_reading(inherited) == 0 && inherited[0] != first);
    }
    tell(from_both);
    int status;
    return waitpid(pid, &status, 0) != pid || status != 0;
}

static void what_a_borrower_forks_is_exact_or_faults(int protection, enum who who)
{
    (void)who;
    file = make_file("file", SIZE);
    inherited = snapshot(file, 0, SIZE, protection);
    open_pipes();
    pid_t pid = start_beside(fork_and_look);
    await(from_both);
    overwrite(file, 0, SIZE, 1);
    tell(to_child);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    CHECK(shows(inherited, 0, SIZE, 0) && stat_of(inherited).state == SNAPSHIM_EXACT);
}

static volatile sig_atomic_t looks;

static void note_look(int signal)
{
    (void)signal;
    looks++;
}

/* From now on it is noted that the memory of `pid` is read. */
static void watch_reading_of(pid_t pid)
{
    struct sock_filter filter[] = {
        LOAD(nr), SKIP_UNLESS(SYS_process_vm_readv, 3),
        LOAD(args[0]), SKIP_UNLESS((unsigned)pid, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    CHECK(signal(SIGSYS, note_look) != SIG_ERR);
    install_unseen(&program);
}

/* A process that is wedged would wedge a process that reads its memory. */
static void the_memory_of_strangers_is_left_alone(int protection, enum who who)
{
    (void)who;
    int status;
    for (int has_lent = 0; has_lent < 2; has_lent++) {
        file = make_file("file", SIZE);
        open_pipes();
        pid_t stranger = fork();
        if (stranger == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            execlp("sleep", "sleep", "1000", NULL);
        }
        await_image(stranger, "sleep");
        pid_t mapper = fork();
        if (mapper == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            snapshot(file, 0, SIZE, protection);
            if (has_lent && vfork() == 0)
                _exit(0);
            tell(from_both);
            for (;;)
                pause();
        }
        await(from_both);
        CHECK(kill(mapper, SIGKILL) == 0 && waitpid(mapper, &status, 0) == mapper);
        pid_t writer = fork();
        if (writer == 0) {
            watch_reading_of(stranger);
            overwrite(file, 0, SIZE, 1);
            unsigned char *at = snapshot(file, 0, SIZE, protection);
            _exit(looks != 0 || !shows(at, 0, SIZE, 1));
        }
        CHECK(waitpid(writer, &status, 0) == writer && status == 0);
        CHECK(kill(stranger, SIGKILL) == 0 && waitpid(stranger, &status, 0) == stranger);
    }
    CHECK(snapshim_active());
}

static const struct scenario scenarios[] = {
    ONCE(a_call_of_a_vfork_child_is_waited_for),
    ONCE(a_call_beside_a_child_is_waited_for),
    ONCE(a_call_of_a_vfork_child_is_waited_for_when_its_parent_is_gone),
    ONCE(a_spawned_child_that_cuts_keeps_the_stores_of_threads),
    ONCE(a_thread_that_spawned_before_it_wrote_holds_nobody_up),
    ONCE(what_a_borrower_forks_is_exact_or_faults),
    ONCE(the_memory_of_strangers_is_left_alone),
};
MAIN(scenarios)

/* A truncation by path, of which the kernel does not say to which file it goes: a snapshot that is made meanwhile waits for it. */
#include "trap.h"

static void waits(int number, unsigned char *bytes)
{
    (void)bytes;
    if (number != SYS_truncate)
        return;
    tell(from_both);
    await(to_child);
}

/* Every way to find out which file it is fails, as with no descriptor left and under a filter that refuses the rest. */
static void __attribute__((noreturn)) truncate_unknown(void)
{
    struct sock_filter filter[] = {
        LOAD(args[5]), SKIP_IF(PASS, 9),
        LOAD(nr), SKIP_IF(SYS_truncate, 6),
        SKIP_IF(SYS_openat, 4), SKIP_IF(SYS_statx, 3), SKIP_IF(SYS_newfstatat, 2), SKIP_IF(SYS_fstat, 1),
        BPF_STMT(BPF_JMP | BPF_JA, 2),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    forks_at = -1, before = waits;
    install(filter, sizeof filter / sizeof *filter);
    CHECK(truncate("file", PAGE) == 0);
    tell(from_both);
    _exit(0);
}

static void a_call_by_a_path_that_leads_nowhere_known_is_waited_for(int protection, enum who who)
{
    (void)who;
    int status;
    /* So that the call takes the long way, beside snapshots. */
    unsigned char *held = snapshot(make_file("other", PAGE), 0, PAGE, PROT_READ);
    file = make_file("file", SIZE);
    open_pipes();
    pid_t writer = fork();
    CHECK(writer >= 0);
    if (writer == 0)
        truncate_unknown();
    await(from_both);
    unsigned char *at = snapshot_beside_call(protection);
    await(from_both);
    if (at != MAP_FAILED)
        CHECK(shows(at, 0, SIZE, 0));
    CHECK(shows(held, 0, PAGE, 0) && waitpid(writer, &status, 0) == writer && status == 0);
}

static const struct scenario scenarios[] = {
    ONCE(a_call_by_a_path_that_leads_nowhere_known_is_waited_for),
};
MAIN(scenarios)

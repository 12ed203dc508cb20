/* threads MODE FILE: threads that come and go, and main threads that go first. */
#include "blocked.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/resource.h>

enum { THREADS = 6000 };

static const char *path;
static int file;
static pthread_t main_thread;

static void *write_once(void *argument)
{
    uint32_t number = (uint32_t)(uintptr_t)argument;
    CHECK(pwrite(file, &number, sizeof number, (off_t)number * 4) == sizeof number);
    return NULL;
}

static void many(void)
{
    for (uintptr_t number = 0; number < THREADS; number++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, write_once, (void *)number) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    snapshot_is_prompt(path);
    print_file(path);
}

/* Outlives the main thread. */
static void *last_one(void *argument)
{
    CHECK(pthread_join(main_thread, NULL) == 0);
    CHECK(pwrite(file, "main is gone", 12, 5000) == 12);
    snapshot_is_prompt(path);
    print_file(path);
    if (argument)
        exit(23);
    return NULL;
}

static void main_goes_first(int exits)
{
    pthread_t thread;
    main_thread = pthread_self();
    CHECK(pthread_create(&thread, NULL, last_one, exits ? &file : NULL) == 0);
    pthread_exit(NULL);
}

static unsigned char *mapped;
static unsigned char content[16 * 4096];

static void *last_mapper(void *argument)
{
    CHECK(pthread_join(main_thread, NULL) == 0);
    IN_CHILD(CHECK(pwrite(file, "child", 5, 4 * 4096) == 5));
    CHECK(pwrite(file, "main is gone", 12, 5000) == 12);
    if (snapshim_active())
        CHECK(memcmp(mapped, content, sizeof content) == 0);
    print_file(path);
    if (argument)
        exit(24);
    return NULL;
}

static void mapper_goes_first(int exits)
{
    CHECK(pread(file, content, sizeof content, 0) == sizeof content);
    mapped = snapshot(file, 0, sizeof content, PROT_READ);
    pthread_t thread;
    main_thread = pthread_self();
    CHECK(pthread_create(&thread, NULL, last_mapper, exits ? &file : NULL) == 0);
    pthread_exit(NULL);
}

enum { SPLICED = 4000 };

static int pipe_ends[2];

/* Each waits for what the other may take. */
static void *splice_half(void *argument)
{
    (void)argument;
    for (loff_t at = 0; at < SPLICED / 2; at++) {
        loff_t to = at;
        errno = 4242;
        CHECK(splice(pipe_ends[0], NULL, file, &to, 1, 0) == 1);
        CHECK(errno == 4242);
    }
    return NULL;
}

static void splice_one_pipe(void)
{
    pthread_t threads[2];
    CHECK(pipe(pipe_ends) == 0);
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, splice_half, NULL) == 0);
    for (int i = 0; i < SPLICED; i++)
        CHECK(write(pipe_ends[1], "x", 1) == 1);
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    print_file(path);
}

/* The only thread ends by pthread_exit: the status of the process is 0. */
static void alone(void)
{
    mapped = snapshot(file, 0, sizeof content, PROT_READ);
    print_file(path);
    pthread_exit((void *)5);
}

/* exit(2) by an instruction of the program's own, which no hook sees. */
static void end_unseen(long status)
{
    __asm__ volatile("syscall" : : "a"(SYS_exit), "D"(status) : "rcx", "r11", "memory");
}

/* The kernel ends one thread for a call that the filter does not like. */
static void end_by_filter(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_THREAD),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = sizeof code / sizeof code[0], .filter = code};
    struct rlimit no_core = {0, 0};
    CHECK(setrlimit(RLIMIT_CORE, &no_core) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
    syscall(SYS_getppid);
}

static void *end_by_number(void *argument)
{
    syscall(SYS_exit, argument);
    return NULL;
}

static void *join_main(void *argument)
{
    CHECK(pthread_join(main_thread, NULL) == 0);
    exit((int)(uintptr_t)argument);
}

static void share(void)
{
    unsigned char *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(shared != MAP_FAILED);
    shared[1] = 1;
}

static void take_snapshot(void)
{
    snapshot(file, 0, sizeof content, PROT_READ);
}

static void end_by_asm(void)
{
    end_unseen(7);
}

static void end_after_another(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, end_by_number, (void *)5) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    usleep(50000);
    end_unseen(7);
}

static void end_while_joined(void)
{
    pthread_t thread;
    main_thread = pthread_self();
    CHECK(pthread_create(&thread, NULL, join_main, (void *)8) == 0);
    usleep(50000);
    end_unseen(7);
}

/* How a child ends that has done `before`, if it does so within a second or two. */
static void ends(const char *name, void (*before)(void), void (*end)(void))
{
    int status = 0, looks = 0;
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        before();
        usleep(20000);
        end();
        _exit(99);
    }
    while (waitpid(child, &status, WNOHANG) == 0)
        if (usleep(10000), looks++ == 300) {
            printf("%s: does not end, ", name);
            kill(child, SIGKILL);
            CHECK(waitpid(child, &status, 0) == child);
            break;
        }
    if (WIFEXITED(status))
        printf("%s: ends with %d\n", name, WEXITSTATUS(status));
    else
        printf("%s: ends by signal %d\n", name, WTERMSIG(status));
}

static void end_in_many_ways(void)
{
    static void (*const befores[])(void) = {take_snapshot, share};
    for (int i = 0; i < 2; i++) {
        ends("by an instruction", befores[i], end_by_asm);
        ends("by a filter", befores[i], end_by_filter);
        ends("after another thread", befores[i], end_after_another);
        ends("while another thread waits for it", befores[i], end_while_joined);
    }
    print_file(path);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    const char *mode = argv[1];
    path = argv[2];
    file = open(path, O_RDWR);
    CHECK(file >= 0);
    if (strcmp(mode, "many") == 0)
        many();
    else if (strcmp(mode, "main-goes-first") == 0)
        main_goes_first(0);
    else if (strcmp(mode, "main-goes-first-exit") == 0)
        main_goes_first(1);
    else if (strcmp(mode, "mapper-goes-first") == 0)
        mapper_goes_first(0);
    else if (strcmp(mode, "mapper-goes-first-exit") == 0)
        mapper_goes_first(1);
    else if (strcmp(mode, "splice") == 0)
        splice_one_pipe();
    else if (strcmp(mode, "ends-unseen") == 0)
        end_in_many_ways();
    else if (strcmp(mode, "alone") == 0)
        alone();
    else
        CHECK(!"a known mode");
    return 0;
}

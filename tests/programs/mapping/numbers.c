/* The shim keeps files of a mapper's process open among the numbers of a writer's. A program that closes numbers which it has not opened, or
 * puts a file of its own there, gets no byte into that file, whenever it does so: while a page is preserved, too. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <time.h>

enum { PAGES = 8, SIZE = PAGES * 4096, LOWEST = 128, HIGHEST = 1100, SECONDS = 1 };

/* What the processes tell each other. */
static struct {
    _Atomic int thread, may_write, number, is_taken, is_over, rounds;
} *told;

static void take_by_dup2(int own, int number)
{
    (void)!dup2(own, number);
}

static void take_by_dup3(int own, int number)
{
    (void)!syscall(SYS_dup3, own, number, 0);
}

static void take_after_close(int own, int number)
{
    close(number);
    (void)!fcntl(own, F_DUPFD, number);
}

static void take_after_close_by_number(int own, int number)
{
    syscall(SYS_close, number);
    (void)!fcntl(own, F_DUPFD, number);
}

static void take_after_close_range(int own, int number)
{
    CHECK(close_range((unsigned)number - 1, (unsigned)number + 1, 0) == 0);
    (void)!fcntl(own, F_DUPFD, number);
}

static void (*const ways_to_take[])(int own, int number) = {
    take_by_dup2, take_by_dup3, take_after_close, take_after_close_by_number, take_after_close_range,
};

static int make_own_file(void)
{
    int own = open("own", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(own >= 0);
    return own;
}

static void nothing_has_come_into(const char *path)
{
    struct stat found;
    CHECK(stat(path, &found) == 0 && found.st_size == 0 && found.st_blocks == 0);
}

static void *write_two_pages(void *file)
{
    int fd = (int)(intptr_t)file;
    atomic_store(&told->thread, (int)syscall(SYS_gettid));
    while (!atomic_load(&told->may_write))
        usleep(200);
    CHECK(try_overwrite(fd, 0, PAGE, 1) == 0);
    CHECK(try_overwrite(fd, 4 * PAGE, PAGE, 1) == 0);
    return NULL;
}

static void __attribute__((noreturn)) write_and_take(void (*take)(int own, int number))
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int fd = open("file", O_RDWR), own = make_own_file();
    pthread_t writer;
    CHECK(fd >= 0 && pthread_create(&writer, NULL, write_two_pages, (void *)(intptr_t)fd) == 0);
    while (!atomic_load(&told->number) && !atomic_load(&told->is_over))
        usleep(200);
    if (!atomic_load(&told->is_over))
        take(own, atomic_load(&told->number));
    atomic_store(&told->is_taken, 1);
    CHECK(pthread_join(writer, NULL) == 0);
    nothing_has_come_into("own");
    _exit(0);
}

/* Lets the writer run to where it stores a byte into the snapshot for the `uses`-th time; the number that it does so by, 0 if it ends
 * before. */
static int run_to_store(pid_t thread, int uses)
{
    for (int status;;) {
        struct user_regs_struct registers;
        CHECK(ptrace(PTRACE_SYSCALL, thread, 0, 0) == 0 && waitpid(thread, &status, __WALL) == thread);
        if (!WIFSTOPPED(status))
            return 0;
        CHECK(ptrace(PTRACE_GETREGS, thread, 0, &registers) == 0);
        int is_store = registers.orig_rax == SYS_pwrite64 && registers.rdx <= 2 && (long)registers.rax == -ENOSYS;
        if (is_store && --uses == 0)
            return (int)registers.rdi;
    }
}

static void is_taken_in_a_use(void (*take)(int own, int number), int uses)
{
    int fd = make_file("file", SIZE), status;
    told = shared_page();
    pid_t writer = fork();
    if (writer == 0)
        write_and_take(take);
    const unsigned char *at = snapshot(fd, 0, SIZE, PROT_READ);
    while (!atomic_load(&told->thread))
        usleep(200);
    pid_t thread = atomic_load(&told->thread);
    CHECK(ptrace(PTRACE_SEIZE, thread, 0, 0) == 0 && ptrace(PTRACE_INTERRUPT, thread, 0, 0) == 0);
    CHECK(waitpid(thread, &status, __WALL) == thread && WIFSTOPPED(status));
    atomic_store(&told->may_write, 1);
    int number = run_to_store(thread, uses);
    if (number == 0) {
        /* It preserves in another way. */
        atomic_store(&told->is_over, 1);
    } else {
        atomic_store(&told->number, number);
        /* What waits for the writer is not done before that goes on. */
        for (int turn = 0; turn < 300 && !atomic_load(&told->is_taken); turn++)
            usleep(1000);
        CHECK(ptrace(PTRACE_DETACH, thread, 0, 0) == 0);
    }
    CHECK(waitpid(writer, &status, 0) == writer && status == 0);
    CHECK(shows(at, 0, SIZE, 0));
    CHECK(munmap((void *)at, SIZE) == 0 && munmap(told, PAGE) == 0);
}

static void a_number_that_is_taken_in_a_use_gets_no_byte(int protection, enum who who)
{
    (void)protection;
    (void)who;
    for (size_t way = 0; way < sizeof ways_to_take / sizeof ways_to_take[0]; way++)
        for (int uses = 1; uses <= 2; uses++)
            is_taken_in_a_use(ways_to_take[way], uses);
}

static void *write_over_and_over(void *file)
{
    for (int version = 1; !atomic_load(&told->is_over); version++) {
        while (atomic_load(&told->rounds) < version)
            if (atomic_load(&told->is_over))
                return NULL;
            else
                usleep(100);
        overwrite((int)(intptr_t)file, 0, SIZE, version % 200);
        atomic_store(&told->may_write, version);
    }
    return NULL;
}

static void __attribute__((noreturn)) write_beside_takers(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int fd = open("file", O_RDWR), own = make_own_file();
    pthread_t writer;
    CHECK(fd >= 0 && own < LOWEST && pthread_create(&writer, NULL, write_over_and_over, (void *)(intptr_t)fd) == 0);
    while (!atomic_load(&told->is_over)) {
        for (int number = LOWEST; number < HIGHEST; number++) {
            close(number);
            (void)!dup2(own, number);
            close(number);
        }
        CHECK(close_range(LOWEST, HIGHEST, 0) == 0);
        usleep(1000);
    }
    CHECK(pthread_join(writer, NULL) == 0);
    nothing_has_come_into("own");
    _exit(0);
}

static void a_program_that_takes_all_numbers_gets_no_byte(int protection, enum who who)
{
    (void)protection;
    (void)who;
    int fd = make_file("file", SIZE), status;
    told = shared_page();
    pid_t writer = fork();
    if (writer == 0)
        write_beside_takers();
    int round = 0;
    for (time_t end = time(NULL) + SECONDS; time(NULL) < end;) {
        const unsigned char *at = snapshot(fd, 0, SIZE, PROT_READ);
        atomic_store(&told->rounds, ++round);
        while (atomic_load(&told->may_write) < round)
            usleep(100);
        CHECK(shows(at, 0, SIZE, (round - 1) % 200));
        CHECK(munmap((void *)at, SIZE) == 0);
    }
    atomic_store(&told->is_over, 1);
    CHECK(waitpid(writer, &status, 0) == writer && status == 0);
}

static const struct scenario scenarios[] = {
    ONCE(a_number_that_is_taken_in_a_use_gets_no_byte),
    ONCE(a_program_that_takes_all_numbers_gets_no_byte),
};

MAIN(scenarios)

/* stopped_writer terminal|stop [part|between|confined|halves|refused|kept]: a writer is stopped while it makes pages of a snapshot
 * private. The mapper gives its snapshot, or a part of it, or it and the shared mappings around it in one call, up meanwhile, without
 * failing or waiting, and uses the addresses for what it likes. Its other snapshots stay exact, and it can have new ones. "confined":
 * it confines itself by a filter of seccomp(2) meanwhile, and its snapshot shows what it showed.
 *
 * A terminal stops no writer in the middle of a push, which has no handlers (SIGTSTP). SIGSTOP may: then the writer stores a byte
 * of a page when it goes on.
 *
 * "halves": it gives the halves up one by one, and the library has no descriptor for that file in the end.
 *
 * "refused" and "kept" are at the kernel's limit of mappings. "refused": the mapper gives two snapshots up in one call, and one of
 * them cannot be. "kept": addresses that it has given up are still reserved when the writer is through, and go when there is room.
 *
 * MUNMAP_MS is how long that call may take. */
#include "check.h"

#include <dirent.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>

#define SIZE ((size_t)32 << 20)

static int file;

static void __attribute__((noreturn)) write_when_told(int to_writer, int from_writer)
{
    char byte, *bytes = malloc(SIZE);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    CHECK(bytes && memset(bytes, 'w', SIZE) && setpgid(0, 0) == 0);
    while (read(to_writer, &byte, 1) == 1) {
        CHECK(write(from_writer, "", 1) == 1);
        CHECK(pwrite(file, bytes, SIZE, 0) == (ssize_t)SIZE);
        CHECK(write(from_writer, "", 1) == 1);
    }
    _exit(0);
}

static double seconds(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Memory of the program's own, at the addresses that it has given up if it can be had there, is not stored into. */
static unsigned char *fill_memory(unsigned char *hint)
{
    unsigned char *memory = mmap(hint, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memset(memory, 'q', SIZE);
}

static void is_unchanged(unsigned char *memory)
{
    CHECK(memory[0] == 'q' && memcmp(memory, memory + 1, SIZE - 1) == 0);
    CHECK(munmap(memory, SIZE) == 0);
}

/* The library compares the table with what it knows of the process's memory at both calls. */
static void can_have_another(int other)
{
    unsigned char *at = snapshot(other, 0, PAGE, PROT_READ);
    CHECK(stat_of(at).state == SNAPSHIM_EXACT && shows(at, 0, PAGE, 0));
    CHECK(munmap(at, PAGE) == 0);
}

/* A snapshot of the whole file, between a shared mapping before it and one behind it. */
static unsigned char *snapshot_between(int other)
{
    unsigned char *at = free_range(SIZE + 2 * PAGE) + PAGE;
    CHECK(mmap(at - PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, other, 0) != MAP_FAILED);
    CHECK(mmap(at, SIZE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT | MAP_FIXED, file, 0) == at);
    CHECK(mmap(at + SIZE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, other, 0) != MAP_FAILED);
    return at;
}

static struct writer_process {
    pid_t pid;
    int commands, answers;
} start_writer(void)
{
    int to_writer[2], from_writer[2];
    CHECK(pipe(to_writer) == 0 && pipe(from_writer) == 0);
    pid_t writer = fork();
    CHECK(writer >= 0);
    if (writer == 0) {
        close(to_writer[1]);
        write_when_told(to_writer[0], from_writer[1]);
    }
    return (struct writer_process){writer, to_writer[1], from_writer[0]};
}

/* Has the writer begin, and stops it. */
static void stop_writer(const struct writer_process *writer, int signal, int round)
{
    int status;
    char byte;
    CHECK(write(writer->commands, "", 1) == 1 && read(writer->answers, &byte, 1) == 1);
    usleep(1000 + 3000 * (useconds_t)round);
    CHECK(kill(writer->pid, signal) == 0);
    CHECK(waitpid(writer->pid, &status, WUNTRACED) == writer->pid && WIFSTOPPED(status));
}

/* A filter that kills for a call which the library makes. */
static void confine(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static void confined(int stop, int round, int other, double limit)
{
    char byte;
    struct writer_process writer = start_writer();
    overwrite(file, 0, SIZE, round);
    /* The writer preserves in the order of the records. */
    unsigned char *at = snapshot(file, 0, SIZE, PROT_READ), *another = snapshot(other, 0, PAGE, PROT_READ);
    stop_writer(&writer, stop, round);
    double begun = seconds();
    confine();
    CHECK(seconds() - begun < limit);
    overwrite(other, 0, PAGE, 1);
    CHECK(kill(writer.pid, SIGCONT) == 0 && read(writer.answers, &byte, 1) == 1);
    CHECK(shows(at, 0, SIZE, round) && shows(another, 0, PAGE, 0));
    CHECK(munmap(at, SIZE) == 0 && munmap(another, PAGE) == 0);
}

static void let_go_on(const struct writer_process *writer)
{
    char byte;
    CHECK(kill(writer->pid, SIGCONT) == 0 && read(writer->answers, &byte, 1) == 1);
}

/* The descriptors of this process that were opened by O_PATH, as the library's are. */
static int count_paths(void)
{
    int count = 0;
    DIR *numbers = opendir("/proc/self/fd");
    CHECK(numbers);
    for (struct dirent *entry; (entry = readdir(numbers)) != NULL;)
        count += (fcntl(atoi(entry->d_name), F_GETFL) & (O_PATH | 1 << 31)) == O_PATH;
    CHECK(closedir(numbers) == 0);
    return count;
}

/* The agent unmaps what is reserved. */
static void give_up_halves(const struct writer_process *writer, int round, int other)
{
    unsigned char in_core, *at = snapshot(file, 0, SIZE, PROT_READ);
    CHECK(count_paths() == 1);
    stop_writer(writer, SIGSTOP, round);
    CHECK(munmap(at, SIZE / 2) == 0 && munmap(at + SIZE / 2, SIZE / 2) == 0);
    let_go_on(writer);
    for (int tries = 0; tries < 1000 && mincore(at, PAGE, &in_core) == 0; tries++)
        usleep(10000);
    CHECK_ERRNO(mincore(at, PAGE, &in_core), -1, ENOMEM);
    can_have_another(other);
    CHECK(count_paths() == 0);
}

/* Mappings of one page each, as many as the kernel allows: two of them are one if nothing lies between them. */
enum { CROWD = 1 << 17 };

static unsigned char *crowd;

static int crowded(void)
{
    size_t at = 0;
    if (crowd == NULL)
        crowd = mmap(NULL, CROWD * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(crowd != MAP_FAILED);
    while (at < CROWD && mprotect(crowd + at * PAGE, PAGE, PROT_READ) == 0)
        at += 2;
    return at < CROWD;
}

static void disperse(void)
{
    CHECK(mprotect(crowd, CROWD * PAGE, PROT_NONE) == 0);
}

/* The one page is the middle of a mapping of the kernel's, which has to become three. */
static int refuses(const struct writer_process *writer, int round, int other)
{
    int three = make_file("three", 3 * PAGE);
    unsigned char *at = free_range(3 * PAGE + SIZE);
    CHECK(mmap(at, 3 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, three, 0) == at);
    CHECK(mmap(at + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT | MAP_FIXED, three, PAGE) == at + PAGE);
    CHECK(mmap(at + 3 * PAGE, SIZE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT | MAP_FIXED, file, 0) == at + 3 * PAGE);
    stop_writer(writer, SIGSTOP, round);
    int is_crowded = crowded();
    int is_made = munmap(at + PAGE, 2 * PAGE + SIZE) == 0;
    CHECK(is_made || errno == ENOMEM);
    disperse();
    unsigned char *memory = fill_memory(at + 3 * PAGE);
    can_have_another(other);
    let_go_on(writer);
    is_unchanged(memory);
    CHECK(is_made || munmap(at + PAGE, 2 * PAGE + SIZE) == 0);
    CHECK(munmap(at, PAGE) == 0 && close(three) == 0);
    return is_crowded;
}

/* What stays reserved joins what lies on both sides of it: to take it out makes two mappings of one. */
static int releases_later(const struct writer_process *writer, int round, int other)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    unsigned char *around = free_range(SIZE + 2 * PAGE), *at = around + PAGE, in_core;
    CHECK(mmap(around, SIZE + 2 * PAGE, PROT_NONE, flags, -1, 0) == around);
    CHECK(mmap(at, SIZE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT | MAP_FIXED, file, 0) == at);
    unsigned char *one = snapshot(other, 0, PAGE, PROT_READ), *two = snapshot(other, 0, PAGE, PROT_READ);
    stop_writer(writer, SIGSTOP, round);
    CHECK(munmap(at, SIZE) == 0);
    int is_crowded = crowded();
    let_go_on(writer);
    CHECK(munmap(one, PAGE) == 0);
    disperse();
    CHECK(munmap(two, PAGE) == 0);
    CHECK_ERRNO(mincore(at, PAGE, &in_core), -1, ENOMEM);
    CHECK(munmap(around, PAGE) == 0 && munmap(at + SIZE, PAGE) == 0);
    return is_crowded;
}

int main(int argc, char **argv)
{
    const char *limit_ms = getenv("MUNMAP_MS");
    CHECK(argc >= 2 && limit_ms);
    double limit = atof(limit_ms) * 1e-3;
    int stop = strcmp(argv[1], "stop") == 0 ? SIGSTOP : SIGTSTP;
    size_t kept = argc > 2 && strcmp(argv[2], "part") == 0 ? SIZE / 4 : 0;
    size_t around = argc > 2 && strcmp(argv[2], "between") == 0 ? PAGE : 0;
    int status;
    char byte;
    file = make_file("file", SIZE);
    int other = make_file("other", PAGE);
    if (argc > 2 && strcmp(argv[2], "confined") == 0) {
        for (int round = 0; round < 6; round++) {
            overwrite(other, 0, PAGE, 0);
            IN_CHILD(confined(stop, round, other, limit));
        }
        return 0;
    }
    struct writer_process writer = start_writer();
    for (int round = 0; round < 6; round++) {
        overwrite(file, 0, SIZE, round);
        if (argc > 2 && strcmp(argv[2], "halves") == 0) {
            give_up_halves(&writer, round, other);
            continue;
        }
        if (argc > 2 && (strcmp(argv[2], "refused") == 0 || strcmp(argv[2], "kept") == 0)) {
            if (!(*argv[2] == 'r' ? refuses : releases_later)(&writer, round, other))
                return puts("SKIPPED the kernel allows more mappings than the test makes") < 0;
            continue;
        }
        unsigned char *at = around ? snapshot_between(other) : snapshot(file, 0, SIZE, PROT_READ);
        stop_writer(&writer, stop, round);
        double begun = seconds();
        CHECK(munmap(at + kept - around, SIZE - kept + 2 * around) == 0);
        CHECK(seconds() - begun < limit);
        unsigned char *memory = fill_memory(at + kept);
        can_have_another(other);
        CHECK(kill(writer.pid, SIGCONT) == 0 && read(writer.answers, &byte, 1) == 1);
        is_unchanged(memory);
        CHECK(shows(at, 0, kept, round));
        CHECK(kept == 0 || munmap(at, kept) == 0);
        is_unchanged(fill_memory(at));
    }
    close(writer.commands);
    CHECK(waitpid(writer.pid, &status, 0) == writer.pid && status == 0);
    return 0;
}

#include "check.h"

static void __attribute__((noreturn)) say_failed_check(const char *file, int line, const char *condition)
{
    fprintf(stderr, "%s:%d: %s does not hold (errno %d: %s)\n", file, line, condition, errno, strerror(errno));
    exit(1);
}

void (*on_failed_check)(const char *file, int line, const char *condition) __attribute__((noreturn)) = say_failed_check;

unsigned char stamp(size_t page, int version)
{
    return (unsigned char)(1 + (page * 7 + (size_t)version * 31) % 255);
}

int make_file(const char *path, size_t size)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    for (size_t done = 0; done < size;) {
        unsigned char page[4096];
        size_t length = size - done < PAGE ? size - done : PAGE;
        memset(page, stamp(done / PAGE, 0), sizeof page);
        CHECK(pwrite(fd, page, length, (off_t)done) == (ssize_t)length);
        done += length;
    }
    return fd;
}

void overwrite(int fd, size_t offset, size_t length, int version)
{
    for (size_t at = offset; at < offset + length;) {
        unsigned char page[4096];
        size_t rest = PAGE - at % PAGE, left = offset + length - at;
        size_t now = rest < left ? rest : left;
        memset(page, stamp(at / PAGE, version), sizeof page);
        CHECK(pwrite(fd, page, now, (off_t)at) == (ssize_t)now);
        at += now;
    }
}

int shows(const unsigned char *at, size_t offset, size_t length, int version)
{
    for (size_t i = 0; i < length; i++)
        if (at[i] != stamp((offset + i) / PAGE, version))
            return 0;
    return 1;
}

sigjmp_buf fault_escape;
volatile sig_atomic_t fault_signal;

void on_fault(int number)
{
    fault_signal = number;
    siglongjmp(fault_escape, 1);
}

int fault_of_reading(const volatile unsigned char *at)
{
    struct sigaction action = {.sa_handler = on_fault}, old_segv, old_bus;
    sigaction(SIGSEGV, &action, &old_segv);
    sigaction(SIGBUS, &action, &old_bus);
    fault_signal = 0;
    if (sigsetjmp(fault_escape, 1) == 0)
        (void)*at;
    sigaction(SIGSEGV, &old_segv, NULL);
    sigaction(SIGBUS, &old_bus, NULL);
    return fault_signal;
}

unsigned char *snapshot(int fd, size_t offset, size_t length, int protection)
{
    unsigned char *at = mmap(NULL, length, protection, MAP_PRIVATE | MAP_SNAPSHOT, fd, (off_t)offset);
    CHECK(at != MAP_FAILED);
    return at;
}

int is_open(pid_t pid, const void *address)
{
    char path[64], line[512];
    int open = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *maps = fopen(path, "r");
    CHECK(maps);
    while (fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        char rights[5];
        if (sscanf(line, "%lx-%lx %4s", &start, &end, rights) == 3 && start <= (unsigned long)address && (unsigned long)address < end)
            open = rights[1] == 'w';
    }
    fclose(maps);
    return open;
}

void await_asleep(pid_t pid)
{
    char path[32], state = 'R';
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    while (state != 'S') {
        usleep(1000);
        FILE *stat = fopen(path, "r");
        CHECK(stat && fscanf(stat, "%*d (%*[^)]) %c", &state) == 1);
        fclose(stat);
    }
}

int try_overwrite(int fd, size_t offset, size_t length, int version)
{
    unsigned char *bytes = malloc(length);
    CHECK(bytes);
    for (size_t i = 0; i < length; i++)
        bytes[i] = stamp((offset + i) / PAGE, version);
    ssize_t written = pwrite(fd, bytes, length, (off_t)offset);
    int failure = written == (ssize_t)length ? 0 : written < 0 ? errno : EIO;
    free(bytes);
    return failure;
}

static void writer_fork(struct writer *writer)
{
    int commands[2], answers[2];
    CHECK(pipe(commands) == 0 && pipe(answers) == 0);
    writer->pid = fork();
    CHECK(writer->pid >= 0);
    if (writer->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(commands[1]);
        close(answers[0]);
        int fd = open(writer->path, O_WRONLY);
        CHECK(fd >= 0);
        struct command command;
        while (read(commands[0], &command, sizeof command) == sizeof command) {
            int failure = try_overwrite(fd, command.offset, command.length, command.version);
            CHECK(write(answers[1], &failure, sizeof failure) == sizeof failure);
        }
        _exit(0);
    }
    close(commands[0]);
    close(answers[1]);
    writer->commands = commands[1];
    writer->answers = answers[0];
}

struct writer writer_before(enum who who, const char *path)
{
    struct writer writer = {.who = who, .path = path};
    if (who == FORKED_BEFORE)
        writer_fork(&writer);
    return writer;
}

void writer_after(struct writer *writer)
{
    if (writer->who == FORKED_AFTER)
        writer_fork(writer);
}

int writer_tries(const struct writer *writer, size_t offset, size_t length, int version)
{
    int failure;
    if (writer->who == ITSELF) {
        int fd = open(writer->path, O_WRONLY);
        CHECK(fd >= 0);
        failure = try_overwrite(fd, offset, length, version);
        close(fd);
        return failure;
    }
    struct command command = {.offset = offset, .length = length, .version = version};
    CHECK(write(writer->commands, &command, sizeof command) == sizeof command);
    CHECK(read(writer->answers, &failure, sizeof failure) == sizeof failure);
    return failure;
}

void writer_writes(const struct writer *writer, size_t offset, size_t length, int version)
{
    errno = writer_tries(writer, offset, length, version);
    CHECK(errno == 0);
}

void writer_end(struct writer *writer)
{
    if (writer->pid == 0)
        return;
    close(writer->commands);
    close(writer->answers);
    int status;
    CHECK(waitpid(writer->pid, &status, 0) == writer->pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void *shared_page(void)
{
    void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

struct storm storm_begin(int fd, size_t size, _Atomic int *rounds)
{
    int ends[2];
    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    struct storm storm = {fork(), ends[1]};
    CHECK(storm.pid >= 0);
    if (storm.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ends[1]);
        CHECK(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
        char byte;
        for (int version = 1; read(ends[0], &byte, 1) != 0; version++) {
            overwrite(fd, 0, size, version % 200);
            if (rounds)
                ++*rounds;
        }
        _exit(0);
    }
    close(ends[0]);
    return storm;
}

void storm_end(const struct storm *storm)
{
    int status;
    close(storm->stop);
    CHECK(waitpid(storm->pid, &status, 0) == storm->pid && status == 0);
}

struct snapshim_stat stat_of(const void *at)
{
    struct snapshim_stat stat;
    CHECK(snapshim_stat(at, &stat) == 0);
    if (stat.state == SNAPSHIM_DOUBTFUL || stat.state == SNAPSHIM_BROKEN)
        CHECK(*why_of(at) && !strstr(why_of(at), "log says why"));
    return stat;
}

const char *why_of(const void *at)
{
    static __thread char why[1000], part[12];
    int length = snapshim_why(at, why, sizeof why);
    CHECK(length >= 0 && (size_t)length < sizeof why && strlen(why) == (size_t)length);
    /* As snprintf(3) does it. What the text names may have ended meanwhile. */
    memset(part, 'x', sizeof part);
    CHECK((snapshim_why(at, part, sizeof part - 1) > 0) == (length > 0) && part[sizeof part - 1] == 'x');
    CHECK(strncmp(part, why, sizeof part - 2) == 0 && strlen(part) == (length < 10 ? (size_t)length : 10));
    CHECK((snapshim_why(at, NULL, 0) > 0) == (length > 0));
    return why;
}

unsigned char *free_range(size_t length)
{
    unsigned char *at = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(at != MAP_FAILED && munmap(at, length) == 0);
    return at;
}

static void run_scenario(const struct scenario *scenario, int protection, enum who who)
{
    static const char *const names[] = {"itself", "forked before", "forked after"};
    const char *seconds = getenv("SCENARIO_SECONDS");
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(seconds ? (unsigned)atoi(seconds) : 200);
        unlink("file");
        scenario->run(protection, who);
        fflush(NULL);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    if (status == 0)
        return;
    fprintf(stderr, "%s: %s, writer %s: status %#x\n", scenario->name, protection & PROT_WRITE ? "rw" : "r", names[who],
            (unsigned)status);
    exit(1);
}

int run_scenarios(int argc, char **argv, const struct scenario *all, size_t count)
{
    CHECK(argc >= 2);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(all[i].name, argv[1]) != 0)
            continue;
        for (int who = ITSELF; who < (all[i].runs_for_each ? WRITERS : 1); who++)
            for (int rw = 0; rw < (all[i].runs_for_each ? 2 : 1); rw++)
                run_scenario(&all[i], rw ? PROT_READ | PROT_WRITE : PROT_READ, (enum who)who);
        return 0;
    }
    fprintf(stderr, "no scenario %s\n", argv[1]);
    return 2;
}

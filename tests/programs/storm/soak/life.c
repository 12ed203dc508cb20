#include "life.h"

/* Of a child that this process waits for. */
static void must_have_ended_well(int status)
{
    if (!(WIFEXITED(status) && WEXITSTATUS(status) == 0) && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL))
        fail("a child ended with status %#x", (unsigned)status);
}

static void wait_for(pid_t child)
{
    int status;
    pid_t ended;
    while ((ended = waitpid(child, &status, WNOHANG)) == 0) {
        lane()->since_us = now_us(); /* if it does not go on, it is the child that hangs */
        usleep(500);
    }
    CHECK(ended == child);
    must_have_ended_well(status);
}

/* Goes on with the snapshots of the thread that forked. */
static void __attribute__((noreturn)) live_as_child(size_t operations)
{
    const uint64_t parent = own_name();
    has_aio = 0;
    if (find_seat()) {
        forget_broken(parent);
        look_at_all();
        use(operations);
        step("ends", 0, 0);
        if (one_in(2))
            drop_all();
    }
    _exit(0);
}

static void fork_and_wait(void)
{
    if (seats_taken() >= MOST_PROCESSES)
        return;
    step("fork", 0, 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        live_as_child(below(20));
    step("forked", child, 0);
    wait_for(child);
    shared->forks++;
}

/* No process here waits for the grandchild. */
static void fork_away(void)
{
    if (seats_taken() >= MOST_PROCESSES)
        return;
    step("fork twice", 0, 0);
    pid_t child = is_alone() && one_in(2) ? (pid_t)syscall(SYS_fork) : fork();
    CHECK(child >= 0);
    if (child == 0) {
        pid_t grandchild = fork();
        if (grandchild == 0)
            live_as_child(below(600));
        _exit(grandchild < 0);
    }
    step("forked", child, 0);
    wait_for(child);
    shared->forks++;
}

void spawn(void)
{
    static char *const arguments[] = {"true", NULL};
    extern char **environ;
    pid_t child = -1;
    size_t how = below(3);
    step("spawn", (int64_t)how, 0);
    if (how == 0) {
        CHECK(posix_spawnp(&child, "true", NULL, NULL, arguments, environ) == 0);
    } else if (how == 1) {
        child = vfork();
        if (child == 0) {
            execvp("true", arguments);
            _exit(127);
        }
    } else {
        FILE *pipe = popen("true", "re");
        CHECK(pipe && fgetc(pipe) == EOF);
        must_have_ended_well(pclose(pipe));
        return;
    }
    CHECK(child > 0);
    wait_for(child);
}

/* Becomes another image: this program again, or as one that the shim is not in, which soon becomes this program again. */
static void execute(int is_plain)
{
    char id[24], seat[24];
    snprintf(id, sizeof id, "%d", shared_id);
    snprintf(seat, sizeof seat, "%zu", own_seat);
    step(is_plain ? "exec plain" : "exec", 0, 0);
    shared->execs++;
    char *arguments[] = {"soak", is_plain ? "plain" : "run", id, seat, NULL};
    extern char **environ;
    size_t count = 0;
    while (environ[count])
        count++;
    char *none[count + 1];
    count = 0;
    for (char **variable = environ; *variable; variable++)
        if (strncmp(*variable, "LD_PRELOAD=", 11) != 0)
            none[count++] = *variable;
    none[count] = NULL;
    execve("/proc/self/exe", arguments, is_plain ? none : environ);
    fail("exec");
}

void __attribute__((noreturn)) be_plain(const char *library)
{
    const size_t length = ARENA_SLOTS * ARENA_SLOT, used = 2 * ARENA_SLOT;
    unsigned char *at = mmap(ARENA, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(at == ARENA);
    for (size_t i = 0; i < length; i += 2 * used)
        memset(at + i, 0xb7, used);
    for (size_t turns = 1 + below(20); turns > 0 && !shared->stop; turns--) {
        step("is plain", (int64_t)turns, 0);
        usleep(10000);
        for (size_t i = 0; i < length; i += i % (2 * used) == used - 1 ? used + 1 : 1)
            if (at[i] != 0xb7)
                fail("memory of a program without the shim has changed at %p: %#x", (void *)(at + i), at[i]);
        for (size_t i = used; i < length; i += 2 * used) {
            unsigned char is_there[2 * ARENA_SLOT / PAGE];
            CHECK(mincore(at + i, used, is_there) == 0);
            for (size_t page = 0; page < sizeof is_there; page++)
                if (is_there[page] & 1)
                    fail("memory that a program without the shim has not used is there at %p", (void *)(at + i + page * PAGE));
        }
    }
    if (shared->stop)
        _exit(0);
    setenv("LD_PRELOAD", library, 1);
    execute(0);
    _exit(127);
}

static int handler_file = -1;
static _Thread_local sigjmp_buf escape;
static _Thread_local volatile sig_atomic_t may_escape;

static void write_in_handler(int number)
{
    static _Thread_local unsigned char cell[2048];
    int error = errno;
    (void)number;
    size_t index = (size_t)(mix(now_us()) % cells_of(0));
    uint64_t write = begin_write("handler", 0, index, 1, 1);
    fill_cell(cell, 0, index, write);
    CHECK(pwrite(handler_file, cell, sizeof cell, (off_t)(index * sizeof cell)) == sizeof cell);
    end_write(write);
    if (may_escape)
        siglongjmp(escape, 1);
    errno = error;
}

void handle_signals(void)
{
    if (handler_file < 0)
        handler_file = open(file_path(0), O_WRONLY | O_CLOEXEC);
    struct sigaction action = {.sa_handler = write_in_handler, .sa_flags = SA_RESTART};
    CHECK(handler_file >= 0 && sigaction(SIGURG, &action, NULL) == 0);
}

/* Writes to the file of calls until the handler leaves by longjmp, from wherever it came. */
static void write_until_signal(void)
{
    int fd = open(file_path(1), O_WRONLY | O_CLOEXEC);
    static _Thread_local unsigned char cell[2048];
    CHECK(fd >= 0);
    step("longjmp", 0, 0);
    volatile int turns = 0;
    if (sigsetjmp(escape, 1) == 0) {
        may_escape = 1;
        syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), one_in(3) ? SIGURG : 0);
        while (turns++ < 50) {
            size_t index = below(cells_of(1));
            uint64_t write = begin_write("longjmp", 1, index, 1, 1);
            fill_cell(cell, 1, index, write);
            CHECK(pwrite(fd, cell, sizeof cell, (off_t)(index * sizeof cell)) == sizeof cell);
            end_write(write);
        }
    }
    may_escape = 0;
    has_left_a_write = 1;
    close(fd);
}

static int write_forever(void)
{
    int fd = open(file_path(0), O_WRONLY | O_CLOEXEC);
    unsigned char cell[2048];
    CHECK(fd >= 0);
    while (!shared->stop) {
        size_t index = below(cells_of(0));
        uint64_t write = begin_write("cancelled", 0, index, 1, 1);
        fill_cell(cell, 0, index, write);
        CHECK(pwrite(fd, cell, sizeof cell, (off_t)(index * sizeof cell)) == sizeof cell);
        end_write(write);
    }
    return fd;
}

/* The kernel makes no thread while another one executes a program. */
static int create_thread(pthread_t *thread, void *(*run)(void *), size_t index)
{
    int failed = pthread_create(thread, NULL, run, (void *)index);
    CHECK(failed == 0 || failed == EAGAIN);
    return failed == 0;
}

/* Has the lane of the thread that made it. */
static void *be_cancelled(void *argument)
{
    own_lane = (size_t)argument;
    random_state = mix(now_us());
    return (void *)(intptr_t)write_forever();
}

static void cancel(void)
{
    pthread_t thread;
    step("cancel", 0, 0);
    if (!create_thread(&thread, be_cancelled, own_lane))
        return;
    usleep((useconds_t)below(3000));
    (void)pthread_cancel(thread);
    CHECK(pthread_join(thread, NULL) == 0);
}

static void *be_thread(void *argument)
{
    own_lane = (size_t)argument;
    random_state = mix(shared->seed ^ (uint64_t)own_life << 32 ^ tick());
    lane()->steps = 0;
    lane()->tid = (uint32_t)syscall(SYS_gettid);
    use(below(400));
    drop_all();
    for (size_t i = 0; i < 2; i++)
        if (stored[i])
            CHECK(munmap(stored[i], CELL_PAGES * PAGE) == 0);
    lane()->since_us = 0;
    return NULL;
}

static void start_thread(void)
{
    for (size_t index = 1; index < LANES; index++) {
        uint64_t none = 0;
        if (!atomic_compare_exchange_strong(&shared->seats[own_seat].lanes[index].since_us, &none, now_us()))
            continue;
        pthread_t thread;
        if (create_thread(&thread, be_thread, index))
            CHECK(pthread_detach(thread) == 0);
        else
            shared->seats[own_seat].lanes[index].since_us = 0;
        return;
    }
}

void use(size_t operations)
{
    while (operations-- > 0 && !shared->stop) {
        size_t which = below(1000);
        if (which < 300)
            use_a_snapshot();
        else if (which < 550)
            write_some_cells();
        else if (which < 750)
            store_some_words();
        else if (which < 940)
            change_a_state();
        else if (which < 950)
            fork_and_wait();
        else if (which < 955)
            fork_away();
        else if (which < 960)
            spawn();
        else if (which < 965)
            execute(one_in(3));
        else if (which < 975)
            start_thread();
        else if (which < 985)
            cancel();
        else if (which < 990)
            write_until_signal();
        else
            syscall(SYS_tgkill, getpid(), (pid_t)shared->seats[own_seat].lanes[below(LANES)].tid, SIGURG);
    }
}

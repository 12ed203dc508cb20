/* logs SCENARIO: has the library write lines of its log where they could do harm, and says what became of the program.
 *
 * What standard error is, is prepared first; then the program executes itself, because it counts what standard error is when a process
 * starts.
 */
#include "check.h"

#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* A snapshot of this file is refused, and the log says so. Without the library the mapping is refused by the kernel. */
static void provoke(void)
{
    int file = open("/proc/self/status", O_RDONLY);
    CHECK(file > 2);
    CHECK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, file, 0) == MAP_FAILED);
    close(file);
}

static void say_what_is_pending(void)
{
    sigset_t pending;
    CHECK(sigpending(&pending) == 0);
    printf("pending: SIGPIPE %d, SIGXFSZ %d, SIGTTOU %d\n", sigismember(&pending, SIGPIPE), sigismember(&pending, SIGXFSZ),
           sigismember(&pending, SIGTTOU));
}

static void provoke_quickly(void)
{
    double begun = now();
    provoke();
    printf("went on: %s\n", now() - begun < 1 ? "at once" : "late");
    say_what_is_pending();
}

/* Fills an open file whose number is 2 as far as it takes anything without waiting. */
static void fill(void)
{
    static char bytes[65536];
    int flags = fcntl(2, F_GETFL);
    CHECK(fcntl(2, F_SETFL, flags | O_NONBLOCK) == 0);
    while (write(2, bytes, sizeof bytes) > 0)
        ;
    while (write(2, bytes, 1) > 0)
        ;
    CHECK(errno == EAGAIN && fcntl(2, F_SETFL, flags) == 0);
}

static void pipe_without_reader(void)
{
    int ends[2];
    CHECK(pipe(ends) == 0 && dup2(ends[1], 2) == 2 && close(ends[0]) == 0 && close(ends[1]) == 0);
}

static void socket_without_reader(void)
{
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0 && dup2(ends[1], 2) == 2);
    CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
}

static void full_pipe(void)
{
    int ends[2];
    CHECK(pipe(ends) == 0 && dup2(ends[1], 2) == 2);
    fill();
}

static void full_socket(void)
{
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0 && dup2(ends[1], 2) == 2);
    fill();
}

static int terminal(void)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    CHECK(slave >= 0);
    return slave;
}

static void full_terminal(void)
{
    CHECK(dup2(terminal(), 2) == 2);
    fill();
}

static void stopped_terminal(void)
{
    CHECK(dup2(terminal(), 2) == 2 && tcflow(2, TCOOFF) == 0);
}

static void on_child(int number)
{
    (void)number;
}

/* The process is in the background of a terminal that stops a process that writes there. */
static void background(void)
{
    int slave = terminal();
    signal(SIGCHLD, on_child);
    pid_t leader = fork();
    CHECK(leader >= 0);
    if (leader > 0) {
        int status;
        CHECK(waitpid(leader, &status, 0) == leader);
        exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    }
    CHECK(setsid() >= 0 && ioctl(slave, TIOCSCTTY, 0) == 0);
    pid_t front = getpid(), back = fork();
    CHECK(back >= 0);
    if (back > 0) {
        int status;
        CHECK(waitpid(back, &status, WUNTRACED) == back);
        if (WIFSTOPPED(status)) {
            puts("stopped");
            fflush(stdout);
            kill(back, SIGKILL);
        }
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    }
    struct termios modes;
    CHECK(tcgetattr(slave, &modes) == 0);
    modes.c_lflag |= TOSTOP;
    CHECK(tcsetattr(slave, TCSANOW, &modes) == 0);
    CHECK(setpgid(0, 0) == 0 && tcgetpgrp(slave) == front && dup2(slave, 2) == 2);
}

static void limited_file(void)
{
    int file = open("limited", O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0644);
    struct rlimit none = {0, 0};
    CHECK(file >= 0 && dup2(file, 2) == 2 && setrlimit(RLIMIT_FSIZE, &none) == 0);
}

static void nothing(void)
{
}

/* Number 2 is the program's own now: `peer` reads what comes in there. */
static void write_around_a_line(int peer)
{
    CHECK(write(2, "AAAA", 4) == 4);
    provoke();
    CHECK(write(2, "BBBB", 4) == 4);
    char found[500] = {0};
    ssize_t length = read(peer, found, sizeof found - 1);
    printf("own: %zd bytes: %.40s\n", length, found);
}

/* The file that the log goes to becomes a FIFO while the program runs. */
static void replaced_log(void)
{
    unlink("log");
    CHECK(mkfifo("log", 0600) == 0);
    provoke_quickly();
    int reader = open("log", O_RDONLY | O_NONBLOCK);
    provoke_quickly();
    char byte;
    printf("in the FIFO: %zd bytes\n", read(reader, &byte, 1));
}

static void own_file(void)
{
    CHECK(close(2) == 0 && open("own", O_RDWR | O_CREAT | O_TRUNC, 0644) == 2);
    write_around_a_line(open("own", O_RDONLY));
}

/* A file at whose end all writes land is no better place. */
static void own_appended(void)
{
    CHECK(close(2) == 0 && open("own", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0644) == 2);
    write_around_a_line(open("own", O_RDONLY));
}

static void own_socket(void)
{
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0 && dup2(ends[0], 2) == 2);
    write_around_a_line(ends[1]);
}

static void own_pipe(void)
{
    int ends[2];
    CHECK(pipe(ends) == 0 && dup2(ends[1], 2) == 2);
    write_around_a_line(ends[0]);
}

/* Number 2 is a file that the parent put there, in a child that executes nothing. */
static void own_in_child(void)
{
    CHECK(close(2) == 0 && open("own", O_RDWR | O_CREAT | O_TRUNC, 0644) == 2);
    IN_CHILD(write_around_a_line(open("own", O_RDONLY)));
}

/* The agent finds a foreign change and says so where no process reads. Afterwards it has to answer another process, which takes a
 * snapshot of a file that this one has mapped shared. */
static void agent_goes_on(void)
{
    int file = make_file("file", 2 * PAGE), other = make_file("other", PAGE);
    CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, other, 0) != MAP_FAILED);
    snapshot(file, 0, 2 * PAGE, PROT_READ);
    IN_CHILD({
        long written;
        /* Not through libc: as a program without the library. */
        __asm__ volatile("syscall" : "=a"(written) : "a"(SYS_write), "D"(file), "S"("y"), "d"(1) : "rcx", "r11", "memory");
        CHECK(written == 1);
        syscall(SYS_exit_group, 0);
    });
    usleep(2500000);
    double begun = now();
    IN_CHILD({
        int again = open("other", O_RDWR);
        CHECK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, again, 0) != MAP_FAILED);
    });
    printf("other snapshot: %s\n", now() - begun < 1.5 ? "at once" : "late");
}

static void ignored_signal(void)
{
    signal(SIGPIPE, SIG_IGN);
    provoke_quickly();
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    provoke_quickly();
}

/* A signal that the program had pending before is still there afterwards. */
static void pending_signal(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0 && raise(SIGPIPE) == 0);
    provoke_quickly();
}

static const struct {
    const char *name;
    void (*prepare)(void);
    void (*act)(void);
} scenarios[] = {
    {"pipe without reader", pipe_without_reader, provoke_quickly},
    {"socket without reader", socket_without_reader, provoke_quickly},
    {"ignored signal", pipe_without_reader, ignored_signal},
    {"pending signal", pipe_without_reader, pending_signal},
    {"full pipe", full_pipe, provoke_quickly},
    {"full socket", full_socket, provoke_quickly},
    {"full terminal", full_terminal, provoke_quickly},
    {"stopped terminal", stopped_terminal, provoke_quickly},
    {"background", background, provoke_quickly},
    {"limited file", limited_file, provoke_quickly},
    {"replaced log", nothing, replaced_log},
    {"own file", nothing, own_file},
    {"own appended", nothing, own_appended},
    {"own socket", nothing, own_socket},
    {"own pipe", nothing, own_pipe},
    {"own in child", nothing, own_in_child},
    {"provoke", nothing, provoke},
    {"agent goes on", full_pipe, agent_goes_on},
};

/* `logs name NAME`: has the name, takes a snapshot of the file "named" and waits for a line. */
static void wait_under_name(const char *name)
{
    CHECK(prctl(PR_SET_NAME, name) == 0);
    snapshot(make_file("named", PAGE), 0, PAGE, PROT_READ);
    provoke();
    puts("ready");
    fflush(stdout);
    CHECK(getchar() == '\n');
}

int main(int argc, char **argv)
{
    CHECK(argc >= 2);
    if (strcmp(argv[1], "name") == 0) {
        wait_under_name(argv[2]);
        return 0;
    }
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        if (strcmp(argv[1], scenarios[i].name) != 0)
            continue;
        if (argc == 2) {
            scenarios[i].prepare();
            execl("/proc/self/exe", argv[0], argv[1], "prepared", NULL);
            CHECK(!"executed");
        }
        scenarios[i].act();
        fflush(stdout);
        return 0;
    }
    CHECK(!"a known scenario");
}

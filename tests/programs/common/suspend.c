#include "suspend.h"

/* The threads that are traced, all of them stopped. */
static pid_t traced[64];
static size_t traced_count;

static int is_traced(pid_t thread)
{
    for (size_t i = 0; i < traced_count; i++)
        if (traced[i] == thread)
            return 1;
    return 0;
}

/* Stops a thread. One that ends meanwhile needs no stop. */
static void attach(pid_t thread)
{
    int status;
    if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) != 0 || ptrace(PTRACE_INTERRUPT, thread, NULL, NULL) != 0) {
        /* EPERM: it is about to be gone (ptrace_attach, kernel/ptrace.c). */
        CHECK(errno == ESRCH || errno == EPERM);
        return;
    }
    CHECK(waitpid(thread, &status, __WALL) == thread);
    if (WIFSTOPPED(status)) {
        CHECK(traced_count < sizeof traced / sizeof *traced);
        traced[traced_count++] = thread;
    }
}

/* Stops the threads that the list has and that run still; how many that are. */
static size_t attach_listed(pid_t pid)
{
    size_t before = traced_count;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    CHECK(tasks);
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;)
        if (entry->d_name[0] != '.' && !is_traced(atoi(entry->d_name)))
            attach(atoi(entry->d_name));
    closedir(tasks);
    return traced_count - before;
}

/* A thread that still runs may start another one behind the place that the list was read to. */
static void attach_all(pid_t pid)
{
    while (attach_listed(pid) > 0)
        ;
}

/* Those that were stopped: a thread that goes on may start others, which no tracer has, before the last has been let go. */
static void detach_all(void)
{
    for (size_t i = 0; i < traced_count; i++)
        CHECK(ptrace(PTRACE_DETACH, traced[i], NULL, NULL) == 0);
    traced_count = 0;
}

static void put(const char *directory, const char *file, const char *text)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", directory, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static int says(const char *directory, const char *file, const char *text)
{
    char path[4200], found[200] = "";
    snprintf(path, sizeof path, "%s/%s", directory, file);
    FILE *open_file = fopen(path, "r");
    CHECK(open_file);
    size_t length = fread(found, 1, sizeof found - 1, open_file);
    fclose(open_file);
    found[length] = 0;
    return strstr(found, text) != NULL;
}

/* cgroup v1 has freezer.state, v2 cgroup.freeze and, in cgroup.events, whether it took effect. */
static void freeze(const char *directory, int is_frozen)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/freezer.state", directory);
    int is_first = access(path, F_OK) == 0;
    const char *file = is_first ? "freezer.state" : "cgroup.freeze", *events = is_first ? file : "cgroup.events";
    put(directory, file, is_first ? is_frozen ? "FROZEN" : "THAWED" : is_frozen ? "1" : "0");
    while (!says(directory, events, is_first ? is_frozen ? "FROZEN" : "THAWED" : is_frozen ? "frozen 1" : "frozen 0"))
        usleep(1000);
}

static const char *way_to_suspend(void)
{
    const char *way = getenv("SUSPEND");
    return way ? way : "stop";
}

/* However the program ends but by a signal, it leaves no process frozen: a frozen process would keep the program's output open. */
static void __attribute__((destructor)) thaw(void)
{
    static const char *const files[][2] = {{"freezer.state", "THAWED"}, {"cgroup.freeze", "0"}};
    for (size_t i = 0; i < 2 && *way_to_suspend() == '/'; i++) {
        char path[4200];
        snprintf(path, sizeof path, "%s/%s", way_to_suspend(), files[i][0]);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd >= 0)
            (void)!write(fd, files[i][1], strlen(files[i][1]));
    }
}

void suspend(pid_t pid)
{
    const char *way = way_to_suspend();
    int status;
    if (strcmp(way, "stop") == 0) {
        CHECK(kill(pid, SIGSTOP) == 0 && waitpid(pid, &status, WUNTRACED) == pid);
    } else if (strcmp(way, "trace") == 0) {
        attach_all(pid);
    } else {
        char number[24];
        snprintf(number, sizeof number, "%d", (int)pid);
        put(way, "cgroup.procs", number);
        freeze(way, 1);
    }
}

void resume(pid_t pid)
{
    const char *way = way_to_suspend();
    if (strcmp(way, "stop") == 0)
        CHECK(kill(pid, SIGCONT) == 0);
    else if (strcmp(way, "trace") == 0)
        detach_all();
    else
        freeze(way, 0);
}

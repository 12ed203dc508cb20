/* oracle SCRIPT RECORDS DIRECTORY DIRECTORY SECONDS OFFSET LENGTH
 *
 * Lives through the history that SCRIPT tells, with files in the two directories, and leaves in RECORDS what every thread did and
 * saw. SECONDS: a process that takes longer hangs. OFFSET, LENGTH: the part of the table that threads may have to wait for.
 *
 * tests/oracle.rs makes the history and judges the records. Exit status 3: a process hung, 4: one died. */
#include "script.h"
#include "snapshots.h"
#include "time.h"
#include "trace.h"

static char *directories[2];
/* Processes that are none of the history's. */
enum { FILLER = -1, TRACER = -2 };
/* So many threads meet. */
static int meeting;

static void run_child(int line, const int *a)
{
    struct actor *actor = &actors[CHILD];
    memset(actor->fds, 0, sizeof actor->fds);
    for (int turn = 0; turn < 2; turn++) {
        for (size_t i = 0; i < SLOTS; i++)
            look(&slots[i], actor->number, line);
        for (int i = 0; turn == 0 && i < a[1]; i++) {
            int from = (int)below(lane_words()), length = 1 + (int)below(lane_words());
            const int arguments[] = {a[0], (int)below(WAYS), (int)below(MOST_PAGES), from, length, 0};
            const int poke[] = {0, (int)below(MOST_PAGES), (int)below(PAGE_WORDS)};
            if (files[a[0]].kind == LANES)
                do_write(actor, line, arguments);
            do_poke(&slots[below(SLOTS)], poke);
        }
    }
    _exit(0);
}

static void do_fork(int actor, int line, const int *a)
{
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run_child(line, a);
    }
    HOPE(actor, line, child > 0);
    int status = 0;
    while (child > 0 && waitpid(child, &status, 0) == -1 && errno == EINTR)
        ;
    errno = status;
    HOPE(actor, line, status == 0);
}

/* Waits, not for long, for all threads that do so, so that they do what follows at once. */
static void meet(void)
{
    uint64_t arrived = atomic_fetch_add(&shared->arrived, 1), together = (uint64_t)meeting;
    uint64_t wanted = (arrived / together + 1) * together;
    for (int tries = 0; shared->arrived < wanted && tries < 2000; tries++)
        if (tries > 100)
            sched_yield();
}

static void operate(const struct thread *thread, const struct operation *one, unsigned char **mappings)
{
    struct actor *actor = &actors[ITSELF_];
    const int *a = one->arguments;
    const char *verb = one->verb;
    if (strcmp(verb, "write") == 0)
        do_write(actor, one->line, a);
    else if (strcmp(verb, "store") == 0)
        do_store(actor, one->line, a, mappings);
    else if (strcmp(verb, "resize") == 0)
        do_resize(actor, one->line, a);
    else if (strcmp(verb, "take") == 0)
        do_take(actor, one->line, a);
    else if (strcmp(verb, "look") == 0)
        look(&slots[a[0]], actor->number, one->line);
    else if (strcmp(verb, "drop") == 0)
        drop(&slots[a[0]], actor->number, one->line);
    else if (strcmp(verb, "poke") == 0)
        do_poke(&slots[a[0]], a);
    else if (strcmp(verb, "cut") == 0)
        do_cut(&slots[a[0]], actor->number, one->line, a, thread->process);
    else if (strcmp(verb, "fork") == 0)
        do_fork(actor->number, one->line, a);
    else if (strcmp(verb, "meet") == 0)
        meet();
    else if (strcmp(verb, "pause") == 0)
        usleep((useconds_t)a[0]);
    else
        CHECK(!"a known verb");
}

/* Not for long: another may wait for this thread. */
static void leave_alone(const struct thread *thread, const char *verb)
{
    static const char *const changing[] = {"write", "store", "resize", "fork"};
    for (size_t i = 0; i < sizeof changing / sizeof *changing; i++)
        for (int tries = 0; strcmp(verb, changing[i]) == 0 && tries < 400; tries++) {
            int alone = shared->alone;
            if (!alone || alone == thread->index + 1 || shared->stop)
                return;
            usleep(50);
        }
}

static void *run_thread(void *argument)
{
    const struct thread *thread = argument;
    unsigned char *mappings[FILES] = {NULL};
    uint64_t seen = 0;
    random_state = seed * 131 + (uint64_t)thread->index;
    slots = calloc(SLOTS, sizeof *slots);
    CHECK(slots);
    own_thread = thread->index;
    for (int role = 0; role < ROLES; role++)
        actors[role] = (struct actor){.number = actor_of(thread, role), .role = role, .buffer = anonymous(MOST_PAGES * PAGE)};
    be_interrupted(thread->signals, thread->handler_file, handler_stacks[thread->index]);
    shared->tids[thread->index] = (int)syscall(SYS_gettid);
    shared->ready++;
    while (!shared->go)
        usleep(500);
    while (!shared->stop && thread->count) {
        for (int i = 0; i < thread->count && !shared->stop; i++) {
            shared->lines[thread->index] = thread->operations[i].line;
            shared->turns[thread->index]++;
            leave_alone(thread, thread->operations[i].verb);
            operate(thread, &thread->operations[i], mappings);
        }
        if (shared->snapshots == seen && below(2)) /* what comes first after a snapshot matters */
            usleep((useconds_t)below(100));
        seen = shared->snapshots;
    }
    shared->lines[thread->index] = 0;
    shared->tids[thread->index] = 0;
    for (size_t i = 0; i < SLOTS; i++)
        drop(&slots[i], actors[ITSELF_].number, slots[i].line);
    handler_way = 0;
    end_thread(thread->index);
    return NULL;
}

static void __attribute__((noreturn)) run_process(int process)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    CHECK(snapshim_active());
    struct sigaction action = {.sa_handler = on_fault_here, .sa_flags = SA_NODEFER};
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0);
    install_handler();
    pthread_t running[THREADS], answering;
    int is_held = 0;
    for (int i = 0; i < thread_count; i++)
        is_held = is_held || (threads[i].process == process && threads[i].is_held);
    /* Snapshots of a process that answers faults itself are preserved by its agent alone: of others also from outside. */
    int has_faults = is_held && open_faults();
    for (int i = 0; i < thread_count; i++) {
        if (threads[i].process != process)
            continue;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        if (threads[i].signals & ABOVE) /* later mappings lie below */
            handler_stacks[i] = anonymous(STACK);
        if (has_faults)
            prepare_held_memory(i, threads[i].is_held);
        if (stacks[i])
            CHECK(pthread_attr_setstack(&attributes, stacks[i], STACK) == 0);
        CHECK(pthread_create(&running[i], &attributes, run_thread, &threads[i]) == 0);
    }
    if (has_faults && table_length)
        prepare_held_table();
    if (has_faults)
        CHECK(pthread_create(&answering, NULL, answer_late, NULL) == 0);
    /* Not before: a thread that forks holds malloc's locks while it waits for pages of the table. The thread that answers
     * could not be made any more. */
    shared->ready++;
    for (int i = 0; i < thread_count; i++)
        if (threads[i].process == process)
            pthread_join(running[i], NULL);
    _exit(0);
}

/* Holds so many snapshots of another file that a walk over all of them takes a while. */
static void __attribute__((noreturn)) run_filler(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    char path[300];
    snprintf(path, sizeof path, "%s/filler", directories[0]);
    int fd = make_file(path, PAGE);
    unsigned char *first[64];
    for (int i = 0; i < filling; i++) {
        unsigned char *at = snapshot(fd, 0, PAGE, PROT_READ);
        if (i < 64)
            first[i] = at;
    }
    for (int i = 0; i < holes && i < 64 && i < filling; i++)
        CHECK(munmap(first[i], PAGE) == 0);
    shared->ready++;
    while (!shared->stop)
        usleep(5000);
    _exit(0);
}

static void make_files(void)
{
    for (int i = 0; i < file_count; i++) {
        struct file *file = &files[i];
        int fd = open(file->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        size_t length = (size_t)file->pages * PAGE / (file->kind == SERIAL ? 2 : 1);
        unsigned char *bytes = malloc(length);
        struct actor nobody = {.number = 0};
        uint64_t change = next_change(0), begin = tick();
        CHECK(fd >= 0 && bytes);
        fill(bytes, 0, length, change);
        CHECK(pwrite(fd, bytes, length, 0) == (ssize_t)length);
        note_written(&nobody, 0, change, begin, i, 0, (ssize_t)length, 0);
        free(bytes);
        close(fd);
    }
    char path[300];
    snprintf(path, sizeof path, "%s/side", directories[0]);
    side = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(side >= 0);
}

static void write_records(const char *path)
{
    FILE *to = fopen(path, "we");
    CHECK(to);
    uint64_t counts[] = {shared->snapshots, shared->looks};
    CHECK(fwrite(counts, sizeof counts, 1, to) == 1);
    for (uint64_t actor = 0; actor < ACTORS; actor++) {
        const struct record *record = &shared->records[actor];
        uint64_t head[] = {actor, record->used};
        CHECK(fwrite(head, sizeof head, 1, to) == 1 && fwrite(record->words, 8, record->used, to) == record->used);
    }
    CHECK(fclose(to) == 0);
}

/* The driver passes it on. */
static void say_what_is_missing(void)
{
    if (shared->has_no_faults)
        printf("SKIPPED memory that the kernel waits for in the middle of a copy: userfaultfd: %s\n", strerror(shared->has_no_faults));
    if (shared->has_no_tracer)
        printf("SKIPPED threads that wait in the middle of a call: ptrace: %s\n", strerror(shared->has_no_tracer));
    fflush(stdout);
}

static void continue_all(void)
{
    for (int i = 0; i < PROCESSES; i++)
        if (shared->pids[i] > 0)
            kill(shared->pids[i], SIGCONT);
}

static void disturb(void)
{
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (size_t turn = 1; !shared->stop; turn++) {
        usleep((useconds_t)(stops_us ? below((size_t)stops_us * 2) : 5000));
        int pid = shared->pids[below(PROCESSES)];
        if (stops_us && pid > 0) {
            kill(pid, SIGSTOP);
            usleep((useconds_t)below((size_t)longest_us + 1));
            kill(pid, SIGCONT);
        }
        if (turn % 4 == 0)
            continue_all();
        clock_gettime(CLOCK_MONOTONIC, &now);
        if ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 >= duration_ms)
            shared->stop = 1;
    }
}

/* Where each thread is, those that hang included. */
static void report_hung(void)
{
    for (int i = 0; i < thread_count; i++)
        if (shared->lines[i])
            fprintf(stderr, "thread %d is in line %d of the script, its operation %lu\n", i, shared->lines[i],
                    (unsigned long)shared->turns[i]);
    fflush(stderr);
    for (int i = 0; i < PROCESSES; i++) {
        char command[300];
        if (shared->pids[i] <= 0)
            continue;
        snprintf(command, sizeof command,
                 "for t in /proc/%d/task/*; do"
                 " echo \"$t $(cat $t/comm) $(cut -d' ' -f3 $t/stat) $(cat $t/wchan) $(cat $t/syscall)\"; done >&2",
                 shared->pids[i]);
        if (system(command) != 0)
            fprintf(stderr, "process %d is gone\n", shared->pids[i]);
    }
}

/* 0, or the exit status that says what went wrong. */
static int wait_for_all(int count, int seconds)
{
    for (int waited_ms = 0; count > 0; waited_ms += 5) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid > 0) {
            count--;
            for (int i = 0; i < PROCESSES; i++)
                if (shared->pids[i] == pid)
                    shared->pids[i] = 0;
            if (status == 0)
                continue;
            fprintf(stderr, "process %d ended with status %#x\n", (int)pid, (unsigned)status);
            return 4;
        }
        if (waited_ms > seconds * 1000) {
            report_hung();
            return 3;
        }
        continue_all();
        usleep(5000);
    }
    return 0;
}

static pid_t start(int process)
{
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        if (process == FILLER)
            run_filler();
        if (process == TRACER)
            run_tracer();
        run_process(process);
    }
    return pid;
}

/* Until so many threads and processes are ready; a process that dies before that is found later. */
static void await_ready(uint64_t count)
{
    for (int tries = 0; shared->ready < count && tries < 20000; tries++)
        usleep(1000);
}

int main(int argc, char **argv)
{
    CHECK(argc == 8);
    table_offset = strtoull(argv[6], NULL, 0);
    table_length = strtoull(argv[7], NULL, 0);
    directories[0] = argv[3];
    directories[1] = argv[4];
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(shared != MAP_FAILED && sizeof threads / sizeof threads[0] * ROLES < ACTORS);
    read_script(argv[1], directories);
    random_state = seed;
    for (int i = 0; i < thread_count; i++) {
        int meets = 0;
        for (int j = 0; j < threads[i].count; j++)
            meets = meets || strcmp(threads[i].operations[j].verb, "meet") == 0;
        meeting += meets;
    }
    make_files();
    int count = 0, processes = 0;
    pid_t filler = 0;
    if (filling > 0) {
        filler = start(FILLER);
        await_ready(1);
        count++;
    }
    for (int process = 0; process < PROCESSES; process++)
        for (int i = 0; i < thread_count; i++)
            if (threads[i].process == process) {
                shared->pids[process] = start(process);
                processes++;
                break;
            }
    count += processes;
    await_ready((uint64_t)(thread_count + processes + (filling > 0)));
    pid_t tracer = is_traced ? start(TRACER) : 0;
    count += is_traced != 0;
    shared->go = 1;
    disturb();
    int failed = wait_for_all(count, atoi(argv[5]));
    for (int i = 0; failed && i < PROCESSES; i++)
        if (shared->pids[i] > 0)
            kill(shared->pids[i], SIGKILL);
    if (failed && filler)
        kill(filler, SIGKILL);
    if (failed && tracer)
        kill(tracer, SIGKILL);
    write_records(argv[2]);
    say_what_is_missing();
    return failed;
}

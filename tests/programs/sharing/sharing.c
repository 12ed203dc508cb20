#include "sharing.h"

int file, is_device;
enum keeper keeper;
static int keeper_protection;
struct moment moments[MOST_MOMENTS];
static size_t moments_taken;
static int witness_commands, witness_answers;
unsigned char *arena;

static size_t size_of_file(void)
{
    uint64_t size = 0;
    struct stat found;
    if (is_device)
        CHECK(ioctl(file, BLKGETSIZE64, &size) == 0);
    else
        CHECK(fstat(file, &found) == 0);
    return is_device ? (size_t)size : (size_t)found.st_size;
}

static uint64_t checksum(const unsigned char *bytes, size_t size)
{
    uint64_t sum = 0xcbf29ce484222325;
    for (size_t i = 0; i < size; i++)
        sum = (sum ^ bytes[i]) * 0x100000001b3;
    return sum;
}

static unsigned char *content(size_t size)
{
    unsigned char *bytes = malloc(size + 1);
    CHECK(bytes && pread(file, bytes, size, 0) == (ssize_t)size);
    return bytes;
}

/* Far from the arena: in what is unmapped there, a part may map something else. */
static unsigned char *snapshot_away(size_t length, size_t number)
{
    enum { AWAY = 1 << 30, APART = 1 << 20 };
    unsigned char *hint = arena ? arena - AWAY - number * APART : NULL;
    unsigned char *at = mmap(hint, length, keeper_protection, MAP_PRIVATE | MAP_SNAPSHOT, file, 0);
    CHECK(at != MAP_FAILED && (!hint || at == hint));
    return at;
}

static void take_moment(void)
{
    CHECK(moments_taken < MOST_MOMENTS);
    struct moment *moment = &moments[moments_taken++];
    moment->size = size_of_file();
    moment->copy = content(moment->size);
    moment->snapshot = snapshot_away(moment->size + PAGE, (size_t)(moment - moments));
}

static void check_moments(void)
{
    for (size_t i = 0; snapshim_active() && i < moments_taken; i++) {
        CHECK(memcmp(moments[i].snapshot, moments[i].copy, moments[i].size) == 0);
        CHECK(stat_of(moments[i].snapshot).state == SNAPSHIM_EXACT);
    }
}

/* The other process: 'm' takes a snapshot, 'l' looks. */
static void be_witness(int commands, int answers)
{
    char command;
    while (read(commands, &command, 1) == 1) {
        uint64_t sum = 0;
        if (command == 'm')
            take_moment();
        size_t size = size_of_file();
        if (size > 0) {
            unsigned char *view = mmap(NULL, size, PROT_READ, MAP_SHARED, file, 0);
            CHECK(view != MAP_FAILED);
            sum = checksum(view, size);
            CHECK(munmap(view, size) == 0);
        }
        check_moments();
        CHECK(write(answers, &sum, sizeof sum) == sizeof sum);
    }
    _exit(0);
}

static uint64_t ask_witness(char command)
{
    uint64_t sum;
    CHECK(write(witness_commands, &command, 1) == 1);
    CHECK(read(witness_answers, &sum, sizeof sum) == sizeof sum);
    return sum;
}

void moment(void)
{
    if (keeper == OWN)
        take_moment();
    else if (keeper == OTHER)
        ask_witness('m');
}

void look(const char *after)
{
    size_t size = size_of_file();
    unsigned char *bytes = content(size);
    uint64_t sum = size ? checksum(bytes, size) : 0;
    CHECK(ask_witness('l') == sum);
    check_moments();
    printf("%s: %zu bytes, %016llx\n", after, size, (unsigned long long)sum);
    free(bytes);
}

int end_of_child(volatile unsigned char *at, int stores)
{
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        prctl(PR_SET_DUMPABLE, 0);
        if (stores)
            *at = (unsigned char)(*at + 1);
        else
            (void)*at;
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

unsigned char *map_at(size_t page, size_t pages, int protection, size_t first)
{
    unsigned char *at = arena + page * PAGE;
    return mmap(at, pages * PAGE, protection, MAP_SHARED | MAP_FIXED, file, (off_t)(first * PAGE));
}

int run_part(int argc, char **argv, const struct part *parts, size_t count)
{
    CHECK(argc == 5);
    keeper = strcmp(argv[1], "own") == 0 ? OWN : strcmp(argv[1], "other") == 0 ? OTHER : NOBODY;
    keeper_protection = strcmp(argv[2], "rw") == 0 ? RW : PROT_READ;
    struct stat found;
    is_device = stat(argv[3], &found) == 0 && S_ISBLK(found.st_mode);
    alarm(150);
    if (strcmp(argv[3], "memfd") == 0) {
        file = memfd_create("file", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    } else if (strcmp(argv[3], "shm") == 0) {
        char name[64];
        snprintf(name, sizeof name, "/sharing-%d", (int)getpid());
        file = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
        CHECK(file >= 0 && shm_unlink(name) == 0);
    } else {
        file = open(argv[3], is_device ? O_RDWR : O_RDWR | O_CREAT | O_TRUNC, 0600);
    }
    CHECK(file >= 0);
    if (is_device)
        CHECK(size_of_file() == SIZE);
    overwrite(file, 0, SIZE, 0);

    int commands[2], answers[2];
    CHECK(pipe(commands) == 0 && pipe(answers) == 0);
    pid_t witness = fork();
    CHECK(witness >= 0);
    if (witness == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(commands[1]);
        be_witness(commands[0], answers[1]);
    }
    close(commands[0]);
    witness_commands = commands[1], witness_answers = answers[0];

    arena = mmap(NULL, ARENA * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(arena != MAP_FAILED);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(parts[i].name, argv[4]) != 0)
            continue;
        parts[i].run();
        look("at the end");
        fflush(NULL);
        close(witness_commands);
        int status;
        CHECK(waitpid(witness, &status, 0) == witness && status == 0);
        return 0;
    }
    fprintf(stderr, "no part %s\n", argv[4]);
    return 2;
}

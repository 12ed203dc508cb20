/* threads MODE FILE: threads that come and go, and main threads that go first. */
#include "blocked.h"

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

static int ends[2];

/* Each waits for what the other may take. */
static void *splice_half(void *argument)
{
    (void)argument;
    for (loff_t at = 0; at < SPLICED / 2; at++) {
        loff_t to = at;
        errno = 4242;
        CHECK(splice(ends[0], NULL, file, &to, 1, 0) == 1);
        CHECK(errno == 4242);
    }
    return NULL;
}

static void splice_one_pipe(void)
{
    pthread_t threads[2];
    CHECK(pipe(ends) == 0);
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], NULL, splice_half, NULL) == 0);
    for (int i = 0; i < SPLICED; i++)
        CHECK(write(ends[1], "x", 1) == 1);
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
    else if (strcmp(mode, "alone") == 0)
        alone();
    else
        CHECK(!"a known mode");
    return 0;
}

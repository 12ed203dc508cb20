/* cancel FILE: threads are cancelled in writes, and their cleanup handlers write. */
#include "blocked.h"

#include <semaphore.h>
#include <sys/uio.h>

enum { ROUNDS = 12 };

struct victim {
    int kind, vectored, file, round;
    int pipe[2];
    pid_t tid;
    sem_t started, go;
};

static void clean_up(void *argument)
{
    struct victim *victim = argument;
    char line[64];
    int length = snprintf(line, sizeof line, "cleanup %d of kind %d\n", victim->round, victim->kind);
    CHECK(write(victim->file, line, (size_t)length) == length);
    CHECK(pwrite(victim->file, "!", 1, victim->round) == 1);
}

/* Cancelled while the write blocks. */
static void *blocks(void *argument)
{
    struct victim *victim = argument;
    CHECK(pthread_setcanceltype(victim->kind, NULL) == 0);
    victim->tid = own_tid();
    pthread_cleanup_push(clean_up, victim);
    sem_post(&victim->started);
    struct iovec one = {"x", 1};
    if (victim->vectored)
        CHECK(writev(victim->pipe[1], &one, 1) == 1);
    else
        CHECK(write(victim->pipe[1], "x", 1) == 1);
    pthread_cleanup_pop(0);
    return NULL;
}

/* Cancelled before: the write of a file is where it finds out, and the bytes are not written. */
static void *finds_out(void *argument)
{
    struct victim *victim = argument;
    CHECK(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL) == 0);
    pthread_cleanup_push(clean_up, victim);
    sem_post(&victim->started);
    CHECK(sem_wait(&victim->go) == 0);
    CHECK(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL) == 0);
    CHECK(pwrite(victim->file, "not to be seen", 14, 100) == 14);
    pthread_cleanup_pop(0);
    return NULL;
}

/* Cancelled while a splice into the file waits for an empty pipe. */
static void *splices(void *argument)
{
    struct victim *victim = argument;
    int empty[2];
    CHECK(pipe2(empty, O_CLOEXEC) == 0);
    pthread_cleanup_push(clean_up, victim);
    sem_post(&victim->started);
    CHECK(splice(empty[0], NULL, victim->file, NULL, 10, 0) == 10);
    pthread_cleanup_pop(0);
    return NULL;
}

static void cancel(struct victim *victim, void *(*body)(void *))
{
    pthread_t thread;
    void *result;
    sem_init(&victim->started, 0, 0);
    sem_init(&victim->go, 0, 0);
    full_pipe(victim->pipe);
    CHECK(pthread_create(&thread, NULL, body, victim) == 0);
    CHECK(sem_wait(&victim->started) == 0);
    if (body == blocks)
        await_blocked(victim->tid, victim->vectored ? SYS_writev : SYS_write);
    if (body == splices)
        usleep(20000);
    CHECK(pthread_cancel(thread) == 0);
    sem_post(&victim->go);
    CHECK(pthread_join(thread, &result) == 0);
    printf("%s\n", result == PTHREAD_CANCELED ? "cancelled" : "went on");
    close(victim->pipe[0]);
    close(victim->pipe[1]);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    int file = open(argv[1], O_RDWR);
    CHECK(file >= 0);
    for (int round = 0; round < ROUNDS; round++) {
        struct victim victim = {
            .kind = round % 2 ? PTHREAD_CANCEL_ASYNCHRONOUS : PTHREAD_CANCEL_DEFERRED,
            .vectored = round / 2 % 2,
            .file = file,
            .round = round,
        };
        cancel(&victim, blocks);
        cancel(&victim, finds_out);
        CHECK(write(file, "after\n", 6) == 6);
        snapshot_is_prompt(argv[1]);
    }
    struct victim victim = {.file = file, .round = ROUNDS};
    cancel(&victim, splices);
    CHECK(write(file, "after\n", 6) == 6);
    snapshot_is_prompt(argv[1]);
    print_file(argv[1]);
    return 0;
}

/* What a debugger and its kin look at: a thread, a signal, a child, a program started by a shell, files written in three ways.
 * With an argument it ends by a fault at address 16. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int counter;

static void bump(int by)
{
    counter += by;
}

static void *work(void *unused)
{
    (void)unused;
    for (int i = 0; i < 10; i++)
        bump(1);
    int fd = open("written", O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (write(fd, "by a thread\n", 12) != 12)
        abort();
    close(fd);
    return NULL;
}

static void on_signal(int number)
{
    (void)number;
    bump(100);
}

static void crash(volatile char *place)
{
    *place = 1;
}

int main(int argc, char **argv)
{
    (void)argv;
    pthread_t thread;
    signal(SIGUSR1, on_signal);
    if (pthread_create(&thread, NULL, work, NULL) || pthread_join(thread, NULL))
        abort();
    raise(SIGUSR1);
    pid_t child = fork();
    if (child == 0) {
        FILE *file = fopen("written", "a");
        fprintf(file, "by a child\n");
        fclose(file);
        _exit(3);
    }
    int status;
    waitpid(child, &status, 0);
    if (system("echo by a shell >>written"))
        abort();
    printf("counter %d, child %d\n", counter, WEXITSTATUS(status));
    fflush(stdout);
    if (argc > 1)
        crash((volatile char *)16);
    return 5;
}

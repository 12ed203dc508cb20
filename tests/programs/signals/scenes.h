/* Scenes about SIGSEGV, each played in a traced process of its own: what it prints, how it ends, and the siginfo it ends with have to
 * be the same with and without the shim.
 *
 * Usage: PROGRAM early|late: the shim's handler comes before the scene's own actions and masks, or after. */
#ifndef SIGNAL_SCENES_H
#define SIGNAL_SCENES_H

#include "check.h"

#include <pthread.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>

extern int late;

void now_late(void);

struct scene {
    const char *name;
    void (*play)(void);
};

int play_all(int argc, char **argv, const struct scene *all, size_t count);

#define SCENE(function) {#function, function}
#define SCENES(scenes)                                                       \
    int main(int argc, char **argv)                                          \
    {                                                                        \
        return play_all(argc, argv, scenes, sizeof scenes / sizeof scenes[0]); \
    }

/* Output that a handler may make. */
void say(const char *format, long a, long b, long c);

/* The mask's signals that tests speak of, without a hook's help. */
unsigned long word_of(const sigset_t *set);

void say_mask(const char *where);

#define NOWHERE ((volatile int *)0x1230)

void act(int number, void *handler, int flags, const int *masked);

void block(int how, const int *numbers);

#endif

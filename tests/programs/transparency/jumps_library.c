/* A library with a longjmp(3) of its own, which goes on to the next. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <setjmp.h>

#define FORWARD(name)                                                       \
    void __attribute__((noreturn)) name(struct __jmp_buf_tag to[1], int value)\
    {                                                                       \
        void (*next)(struct __jmp_buf_tag *, int);                          \
        *(void **)&next = dlsym(RTLD_NEXT, #name);                          \
        next(to, value);                                                    \
        __builtin_unreachable();                                            \
    }

FORWARD(longjmp)
FORWARD(_longjmp)
FORWARD(siglongjmp)

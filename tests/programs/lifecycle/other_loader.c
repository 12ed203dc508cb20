/* other_loader: stands for the loader of another libc. It needs none itself: the kernel starts it in a program's place. It says which
 * variables begin with LD_PRELOAD, BEFORE and AFTER, and ends. */
static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

static int begins(const char *text, const char *part) {
    while (*part)
        if (*text++ != *part++)
            return 0;
    return 1;
}

__attribute__((used)) static void start(long *stack) {
    char **environment = (char **)(stack + stack[0] + 2);
    for (; *environment; environment++) {
        long length = 0;
        if (!begins(*environment, "LD_PRELOAD=") && !begins(*environment, "BEFORE=") && !begins(*environment, "AFTER="))
            continue;
        while ((*environment)[length])
            length++;
        call(1, 1, (long)*environment, length);
        call(1, 1, (long)"\n", 1);
    }
    call(1, 1, (long)"it runs\n", 8);
    call(231, 0, 0, 0);
}

__asm__(".globl _start\n_start: mov %rsp, %rdi\nand $-16, %rsp\ncall start\n");

/* ring [as-nobody] [no-new-privs]: makes io_uring_setup(2) through syscall(3) and by instructions of its own (64 bit, x32), and says how
 * each is answered; then what another system call made the same way answers. Executes itself after it became what the words say. */
#include "check.h"

#include <linux/io_uring.h>
#include <sys/syscall.h>

static long by_instruction(long number, long a, void *b)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(a), "S"(b) : "rcx", "r11", "memory");
    return result;
}

static const char *answer(long result)
{
    return result >= 0 ? "made" : result == -ENOSYS ? "ENOSYS" : result == -EPERM ? "EPERM" : "refused otherwise";
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        for (int i = 1; i < argc; i++)
            if (strcmp(argv[i], "as-nobody") == 0)
                CHECK(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
            else
                CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        execl("/proc/self/exe", "ring", NULL);
        return 3;
    }
    struct io_uring_params ours = {0}, theirs = {0}, other = {0};
    long result = syscall(SYS_io_uring_setup, 4, &ours);
    printf("syscall: %s\n", answer(result < 0 ? -errno : result));
    printf("instruction: %s\n", answer(by_instruction(SYS_io_uring_setup, 4, &theirs)));
    printf("x32: %s\n", answer(by_instruction(SYS_io_uring_setup | 0x40000000, 4, &other)));
    CHECK(by_instruction(SYS_getpid, 0, NULL) == getpid());
    printf("no_new_privs: %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    return 0;
}

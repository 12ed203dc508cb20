/* solitude FILE SIZE CALL: takes a snapshot of FILE, makes CALL, prints the names of its threads, then "ready"; when standard input ends it
 * compares the snapshot with a copy made before. */
#define _GNU_SOURCE
#include <dirent.h>
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>

#include "check.h"

enum { NOBODY = 65534, CALLERS = 4, ROUNDS = 50 };

static void show_users(void)
{
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks);
    for (struct dirent *entry; (entry = readdir(tasks));) {
        char path[300], line[200];
        snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
        FILE *status = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (!status)
            continue;
        while (fgets(line, sizeof line, status))
            if (!strncmp(line, "Uid:", 4) || !strncmp(line, "Groups:", 7) || !strncmp(line, "CapEff:", 7))
                fputs(line, stderr);
        fclose(status);
    }
    closedir(tasks);
}

static void *call_often(void *unused)
{
    for (int i = 0; i < ROUNDS; i++)
        CHECK(setegid(0) == 0);
    return unused;
}

int main(int argc, char **argv)
{
    CHECK(argc == 4);
    const char *call = argv[3];
    size_t size = strtoul(argv[2], NULL, 0);
    int fd = open(argv[1], O_RDONLY);
    CHECK(fd >= 0);
    unsigned char *copy = malloc(size);
    CHECK(copy && pread(fd, copy, size, 0) == (ssize_t)size);
    unsigned char *at = snapshot(fd, 0, size, PROT_READ | PROT_WRITE);
    if (!strcmp(call, "setresuid")) {
        CHECK(setgroups(0, NULL) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0);
        CHECK(setresuid(NOBODY, NOBODY, NOBODY) == 0);
    } else if (!strcmp(call, "by number")) {
        CHECK(syscall(SYS_setgroups, 0, NULL) == 0 && syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY) == 0);
    } else if (!strcmp(call, "unshare")) {
        CHECK(unshare(CLONE_NEWUSER) == 0);
    } else {
        pthread_t callers[CALLERS];
        for (int i = 0; i < CALLERS; i++)
            CHECK(pthread_create(&callers[i], NULL, call_often, NULL) == 0);
        for (int i = 0; i < CALLERS; i++)
            CHECK(pthread_join(callers[i], NULL) == 0);
    }
    show_users();
    puts("ready");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    struct snapshim_stat stat;
    CHECK(snapshim_stat(at, &stat) == 0);
    printf("state=%d preserved=%llu\n", stat.state, (unsigned long long)stat.preserved);
    puts(memcmp(copy, at, size) ? "DIFFERS" : "same");
    return 0;
}

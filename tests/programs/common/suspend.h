/* A process that is kept from running: by SIGSTOP, by a debugger, or frozen in a cgroup. SUSPEND says which: "stop" (or nothing), "trace",
 * or the cgroup's directory. */
#ifndef SUSPEND_H
#define SUSPEND_H

#include "check.h"

#include <dirent.h>
#include <sys/ptrace.h>

void suspend(pid_t pid);

void resume(pid_t pid);

#endif

#include "script.h"

static void read_file(const char *line, char **directories)
{
    int index, disk, owner, pages;
    char kind[12];
    CHECK(sscanf(line, "file %d %11s %d disk %d owner %d", &index, kind, &pages, &disk, &owner) == 5);
    CHECK(index >= 0 && index < FILES && pages > 0 && pages <= MOST_PAGES);
    struct file *file = &files[index];
    *file = (struct file){.pages = pages, .is_on_disk = disk, .owner = owner};
    file->kind = kind[0] == 'l' ? LANES : kind[0] == 'w' ? WHOLE : SERIAL;
    snprintf(file->path, sizeof file->path, "%s/%d", directories[disk != 0], index);
    file_count = index + 1 > file_count ? index + 1 : file_count;
}

static void read_thread(const char *line)
{
    struct thread one = {0};
    CHECK(sscanf(line, "thread %d process %d signals %d file %d held %d", &one.index, &one.process, &one.signals, &one.handler_file,
                 &one.is_held) == 5);
    CHECK(one.index >= 0 && one.index < THREADS && one.process >= 0 && one.process < PROCESSES);
    threads[one.index] = one;
    thread_count = one.index + 1 > thread_count ? one.index + 1 : thread_count;
}

static void read_operation(const char *line, int number)
{
    struct operation one = {.line = number};
    int index;
    int *a = one.arguments;
    int got = sscanf(line, "%d %11s %d %d %d %d %d %d", &index, one.verb, &a[0], &a[1], &a[2], &a[3], &a[4], &a[5]);
    CHECK(got >= 2 && index >= 0 && index < thread_count && threads[index].count < OPERATIONS);
    threads[index].operations[threads[index].count++] = one;
}

void read_script(const char *path, char **directories)
{
    FILE *script = fopen(path, "re");
    CHECK(script);
    char line[200];
    for (int number = 1; fgets(line, sizeof line, script); number++) {
        if (strchr("#-\n", line[0]))
            continue;
        if (strncmp(line, "file ", 5) == 0)
            read_file(line, directories);
        else if (strncmp(line, "thread ", 7) == 0)
            read_thread(line);
        else if (line[0] >= '0' && line[0] <= '9')
            read_operation(line, number);
        else
            CHECK(sscanf(line, "ms %d", &duration_ms) == 1 || sscanf(line, "seed %lu", &seed) == 1 ||
                  sscanf(line, "stops %d longest %d", &stops_us, &longest_us) == 2 ||
                  sscanf(line, "traced %d", &is_traced) == 1 || sscanf(line, "fill %d holes %d", &filling, &holes) == 2);
    }
    fclose(script);
}

/* soak make SEED DIRECTORY DIRECTORY   makes the files and the shared memory, prints its id and the size of a seat
 * soak run ID [SEAT]                   a process that does everything at random until it is told to stop
 * soak plain ID SEAT                   one without the shim, for a while
 * soak trace ID SEAT                   what the process in the seat did last
 * soak report ID                       what was done
 *
 * tests/soak.rs starts, kills, stops and judges the processes. */
#include "life.h"

static void attach_records(int is_new)
{
    size_t sizes[] = {sizeof *shared, sizeof *cells, sizeof *histories * STATE_FILES};
    if (is_new) {
        shared_id = shmget(IPC_PRIVATE, sizes[0] + sizes[1] + sizes[2], IPC_CREAT | 0600);
        CHECK(shared_id >= 0);
    }
    attach(shared_id);
    cells = (struct cells *)(void *)((char *)shared + sizes[0]);
    histories = (struct history *)(void *)((char *)cells + sizes[1]);
}

static void make(char **argv)
{
    attach_records(1);
    shared->seed = strtoull(argv[0], NULL, 0);
    shared->clock = 1;
    for (size_t i = 0; i < 2; i++)
        snprintf(shared->directories[i], sizeof shared->directories[i], "%s", argv[1 + i]);
    for (size_t file = 0; file < FILES; file++) {
        int fd = open(file_path(file), O_RDWR | O_CREAT | O_TRUNC, 0600);
        CHECK(fd >= 0);
        for (size_t cell = 0; is_cells_file(file) && cell < cells_of(file); cell++) {
            fill_cell(buffer, file, cell, 0);
            CHECK(write(fd, buffer, cell_size[file]) == (ssize_t)cell_size[file]);
        }
        close(fd);
        if (is_cells_file(file))
            continue;
        begin_state(file - CELL_FILES, 0);
        reach_state(file - CELL_FILES, file_path(file));
    }
    printf("%d %zu\n", shared_id, sizeof(struct seat));
}

static void __attribute__((noreturn)) run(void)
{
    CHECK(snapshim_active());
    handle_signals();
    use(SIZE_MAX);
    step("waits for threads", 0, 0);
    for (size_t index = 1; index < LANES; index++)
        while (shared->seats[own_seat].lanes[index].since_us) {
            lane()->since_us = now_us(); /* if one hangs, it is found by itself */
            usleep(1000);
        }
    drop_all();
    exit(0);
}

static void report(void)
{
    printf("%llu snapshots, %llu judged, looked at %llu times, changed %llu times; %llu writes, %llu stores; %llu forks, %llu execs\n",
           (unsigned long long)shared->snapshots, (unsigned long long)shared->judged, (unsigned long long)shared->looks,
           (unsigned long long)shared->changes, (unsigned long long)shared->writes, (unsigned long long)shared->stores,
           (unsigned long long)shared->forks, (unsigned long long)shared->execs);
    /* What never comes about proves nothing. */
    for (size_t way = 0; way < WAYS; way++)
        if (shared->ways[way] == 0 && shared->writes > 1000 * WAYS)
            printf("no write by %s\n", way_names[way]);
}

int main(int argc, char **argv)
{
    CHECK(argc >= 3);
    const char *mode = argv[1];
    if (strcmp(mode, "make") == 0) {
        CHECK(argc == 5);
        make(argv + 2);
        return 0;
    }
    shared_id = atoi(argv[2]);
    attach_records(0);
    size_t seat = argc > 3 ? (size_t)atoi(argv[3]) : SEATS;
    if (strcmp(mode, "report") == 0)
        report();
    else if (strcmp(mode, "trace") == 0)
        for (size_t i = 0; i < LANES; i++)
            print_trace(seat, i);
    if (strcmp(mode, "run") != 0 && strcmp(mode, "plain") != 0)
        return 0;
    if (seat < SEATS)
        sit_down(seat);
    else if (!find_seat())
        return 0;
    if (strcmp(mode, "run") == 0)
        run();
    else
        be_plain(getenv("SOAK_LIBRARY"));
}

/* device FILE VERB...: does what the verbs say, in order, and says how it went.
 *
 *   snapshot    takes a snapshot of all of FILE (64 KiB at the most)
 *   release     gives the last one back
 *   compare     is every snapshot what FILE was when it was taken?
 *   state       of the first snapshot
 *   doubtful    waits until the first snapshot is doubtful, a minute at the most
 *   group=FILE  takes snapshots of the file and of another one at one instant
 *   why         prints why the first snapshot is not exact
 *   close       closes every descriptor but the standard ones and FILE
 *   alone       the first snapshot is not inherited by a child
 *   fork        goes on in a child too; the parent waits for it and ends
 *   exec        becomes cat(1), and says "ready" before
 *   write       overwrites FILE's first page
 *   turn=OFFSET has FILE, a loop device, show what is behind it from OFFSET on
 *   below=PATH  the same for the loop device PATH, from 1 MiB on
 *   resume      asks the device mapper to resume FILE, which is none of its devices
 *   command=r, command=w   sends FILE a SCSI command that reads, or writes, which it does not understand
 *   open=PATH   opens PATH for writing and keeps it open
 *   wait        says "ready" and waits for a line on standard input
 *
 * With DEVICE_READ_ONLY set, FILE is opened for reading only.
 */
#include "check.h"

#include <linux/dm-ioctl.h>
#include <linux/loop.h>
#include <scsi/sg.h>
#include <sys/ioctl.h>

enum { MOST = 8, LONGEST = 1 << 16 };

static int file, taken, version;
static size_t length;
static unsigned char *held[MOST], *copies[MOST];

static void take(void)
{
    CHECK(taken < MOST);
    copies[taken] = malloc(length);
    CHECK(copies[taken] && pread(file, copies[taken], length, 0) == (ssize_t)length);
    held[taken] = mmap(NULL, length, PROT_READ, MAP_PRIVATE | MAP_SNAPSHOT, file, 0);
    if (held[taken] == MAP_FAILED)
        printf("snapshot: %s\n", strerrorname_np(errno));
    else {
        taken++;
        puts("snapshot: taken");
    }
}

/* With a snapshot of another file, at one instant. */
static void take_with(const char *name)
{
    int other = open(name, O_RDONLY);
    CHECK(other >= 0);
    struct snapshim_map maps[] = {{file, PROT_READ, 0, length, NULL, 0, 0}, {other, PROT_READ, 0, length, NULL, 0, 0}};
    printf("group: %s\n", snapshim_mapv(maps, 2) == 0 ? "taken" : strerrorname_np(errno));
    close(other);
}

static void compare(void)
{
    int good = 1;
    for (int i = 0; i < taken; i++)
        good &= memcmp(held[i], copies[i], length) == 0;
    puts(good ? "compare: same" : "compare: differs");
}

static const char *state(void)
{
    static const char *const names[] = {"exact", "doubtful", "broken"};
    return names[stat_of(held[0]).state];
}

static void await_doubt(void)
{
    for (int i = 0; i < 3000 && strcmp(state(), "exact") == 0; i++)
        usleep(20000);
}

static void wait_for_line(void)
{
    char byte = 0;
    puts("ready");
    fflush(stdout);
    while (byte != '\n' && read(0, &byte, 1) == 1)
        ;
}

static void become_two(void)
{
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        return;
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    exit(status != 0);
}

static void turn(int device, uint64_t offset)
{
    struct loop_info64 info;
    CHECK(ioctl(device, LOOP_GET_STATUS64, &info) == 0);
    info.lo_offset = offset;
    CHECK(ioctl(device, LOOP_SET_STATUS64, &info) == 0);
}

static void turn_other(const char *name)
{
    int device = open(name, O_RDONLY);
    CHECK(device >= 0);
    turn(device, 1 << 20);
    close(device);
}

static void resume(void)
{
    struct dm_ioctl wanted = {.version = {4, 0, 0}, .data_size = sizeof wanted};
    struct stat found;
    CHECK(fstat(file, &found) == 0);
    wanted.dev = found.st_rdev;
    wanted.flags = DM_SUSPEND_FLAG;
    CHECK(ioctl(file, DM_DEV_SUSPEND, &wanted) == -1);
    CHECK(strcmp(state(), "exact") == 0);
    wanted.flags = 0;
    CHECK(ioctl(file, DM_DEV_SUSPEND, &wanted) == -1);
}

static void command(int direction)
{
    unsigned char code[10] = {direction == SG_DXFER_TO_DEV ? 0x2a : 0x28};
    struct sg_io_hdr request = {.interface_id = 'S', .dxfer_direction = direction, .cmd_len = sizeof code, .cmdp = code};
    CHECK(ioctl(file, SG_IO, &request) == -1);
}

static void obey(const char *verb)
{
    if (strcmp(verb, "snapshot") == 0)
        take();
    else if (strcmp(verb, "release") == 0)
        CHECK(taken > 0 && munmap(held[--taken], length) == 0);
    else if (strcmp(verb, "compare") == 0)
        compare();
    else if (strcmp(verb, "state") == 0)
        printf("state: %s\n", state());
    else if (strcmp(verb, "doubtful") == 0)
        await_doubt();
    else if (strcmp(verb, "why") == 0)
        printf("why: %s\n", why_of(held[0]));
    else if (strcmp(verb, "close") == 0)
        CHECK(close_range((unsigned)file + 1, ~0U, 0) == 0);
    else if (strcmp(verb, "alone") == 0)
        CHECK(madvise(held[0], length, MADV_DONTFORK) == 0);
    else if (strcmp(verb, "fork") == 0)
        become_two();
    else if (strcmp(verb, "exec") == 0) {
        puts("ready");
        fflush(stdout);
        CHECK(execlp("cat", "cat", NULL) == 0);
    } else if (strcmp(verb, "write") == 0)
        overwrite(file, 0, PAGE, ++version);
    else if (strncmp(verb, "turn=", 5) == 0)
        turn(file, strtoull(verb + 5, NULL, 0));
    else if (strncmp(verb, "below=", 6) == 0)
        turn_other(verb + 6);
    else if (strcmp(verb, "resume") == 0)
        resume();
    else if (strcmp(verb, "command=r") == 0)
        command(SG_DXFER_FROM_DEV);
    else if (strcmp(verb, "command=w") == 0)
        command(SG_DXFER_TO_DEV);
    else if (strncmp(verb, "group=", 6) == 0)
        take_with(verb + 6);
    else if (strncmp(verb, "open=", 5) == 0)
        CHECK(open(verb + 5, O_RDWR) >= 0);
    else if (strcmp(verb, "wait") == 0)
        wait_for_line();
    else
        CHECK(!"a known verb");
}

int main(int argc, char **argv)
{
    CHECK(argc >= 2);
    file = open(argv[1], getenv("DEVICE_READ_ONLY") ? O_RDONLY : O_RDWR);
    CHECK(file >= 0);
    off_t size = lseek(file, 0, SEEK_END);
    CHECK(size > 0);
    length = size < LONGEST ? (size_t)size : LONGEST;
    for (int i = 2; i < argc; i++)
        obey(argv[i]);
    return 0;
}

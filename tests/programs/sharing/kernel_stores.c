/* kernel_stores FILE HOW: every call that has the kernel store into the program's memory, into a shared mapping of FILE. Prints what each
 * returned and what became of the memory around it, which is the same whether there are snapshots or not. HOW is
 *   none     no snapshot of its own,
 *   r or rw  each call is made while the program holds a snapshot that was taken when the mapping was there already,
 *   dropped  the same, but the snapshot is gone again. */
#include "check.h"

#include <arpa/inet.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <pty.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>

enum { PAGES = 64, AROUND = 2 };
#define REGION (PAGES * PAGE)
#define TAIL (at + REGION)
#define BAD (at + REGION + AROUND * PAGE)

static const char *how;
static int file;
static unsigned char *whole, *at, *held, *copy;
static unsigned char bytes[REGION], scratch[REGION];
/* What gcc must not see through. */
static void *volatile nowhere;
static volatile int less = -1;

/* [ordinary memory][the file][ordinary memory][nothing] */
static void begin(void)
{
    overwrite(file, 0, REGION, 0);
    whole = mmap(NULL, REGION + (2 * AROUND + 1) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(whole != MAP_FAILED);
    at = whole + AROUND * PAGE;
    CHECK(mmap(at, REGION, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == at);
    CHECK(mprotect(BAD, PAGE, PROT_NONE) == 0);
    held = NULL;
    if (*how == 'n')
        return;
    held = snapshot(file, 0, REGION, strcmp(how, "rw") == 0 ? PROT_READ | PROT_WRITE : PROT_READ);
    memcpy(copy, held, REGION);
    if (*how == 'd') {
        CHECK(munmap(held, REGION) == 0);
        held = NULL;
    }
}

static void end(void)
{
    if (held) {
        CHECK(memcmp(held, copy, REGION) == 0);
        CHECK(munmap(held, REGION) == 0);
    }
    CHECK(pread(file, scratch, REGION, 0) == (ssize_t)REGION);
    CHECK(memcmp(scratch, at, REGION) == 0);
    CHECK(munmap(whole, REGION + (2 * AROUND + 1) * PAGE) == 0);
}

static unsigned long sum(void)
{
    unsigned long sum = 0;
    for (unsigned char *byte = whole; byte < BAD; byte++)
        sum = sum * 1000003 + *byte;
    return sum;
}

static void say(const char *what, ssize_t result)
{
    int failure = result < 0 ? errno : 0;
    printf("%s: %zd %s %016lx\n", what, result, failure ? strerrorname_np(failure) : "-", sum());
}

#define SAY(call) say(#call, (call))

/* What a call that failed may have stored before. */
static void unspecified(void *start, size_t length)
{
    int failure = errno;
    memset(start, 1, length);
    errno = failure;
}

static void fill_bytes(void)
{
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(i * 2654435761u >> 13);
}

/* A pipe with `length` bytes in it. */
static int filled_pipe(size_t length)
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    CHECK(fcntl(ends[1], F_SETPIPE_SZ, 1 << 19) > 0);
    CHECK(write(ends[1], bytes, length) == (ssize_t)length);
    close(ends[1]);
    return ends[0];
}

static void rest_of(int fd)
{
    say("left", read(fd, scratch, sizeof scratch));
    close(fd);
}

static void pipes(void)
{
    int fd = filled_pipe(20 * PAGE);
    SAY(read(fd, at + 5, 1));
    SAY(read(fd, at + 3 * PAGE + 7, 2 * PAGE));
    SAY(read(fd, at - 100, 300));
    SAY(read(fd, at - PAGE - 1, 3 * PAGE));
    SAY(read(fd, TAIL - 50, 200));
    SAY(read(fd, at + 7, 0));
    SAY(read(fd, nowhere, 5));
    SAY(read(-1, at, 5));
    SAY(syscall(SYS_read, fd, at + 30 * PAGE, 100));
    rest_of(fd);
    fd = filled_pipe(3 * PAGE);
    SAY(read(fd, at + 40 * PAGE, REGION));
    SAY(read(fd, at + 40 * PAGE, REGION));
    close(fd);
}

static void bad_pointers(void)
{
    int fd = filled_pipe(10 * PAGE);
    SAY(read(fd, BAD, 10));
    SAY(read(fd, at + 60 * PAGE, 20 * PAGE));
    rest_of(fd);
    fd = filled_pipe(10 * PAGE);
    SAY(read(fd, at + 60 * PAGE, (size_t)1 << 62));
    SAY(read(fd, at + 60 * PAGE, (size_t)less));
    struct iovec vector[3] = {{at + 62 * PAGE, 100}, {BAD, 100}, {at + 63 * PAGE, 100}};
    ssize_t result = readv(fd, vector, 3);
    unspecified(at + 62 * PAGE, 100);
    say("readv, bad", result);
    SAY(readv(fd, (struct iovec *)BAD, 3));
    rest_of(fd);
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(send(ends[0], bytes + i, 8 * PAGE, 0) == 8 * (ssize_t)PAGE);
    result = recv(ends[1], at + 60 * PAGE, 20 * PAGE, 0);
    unspecified(at + 60 * PAGE, 6 * PAGE);
    say("recv, bad", result);
    SAY(recv(ends[1], at + 50 * PAGE, 20 * PAGE, 0));
    SAY(recv(ends[1], at + 20 * PAGE, 20 * PAGE, MSG_DONTWAIT));
    SAY(recv(ends[1], at + 20 * PAGE, 20 * PAGE, MSG_DONTWAIT));
    close(ends[0]);
    close(ends[1]);
}

static void files(void)
{
    int fd = open("source", O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, bytes, sizeof bytes) == sizeof bytes && lseek(fd, 0, SEEK_SET) == 0);
    SAY(read(fd, at + 3, 10 * PAGE));
    SAY(pread(fd, at + 20 * PAGE, 3 * PAGE, 77));
    SAY(pread(fd, at - 10, 3 * PAGE, (off_t)REGION - 500));
    SAY(pread(fd, at + 30 * PAGE, 3 * PAGE, REGION));
    SAY(pread(fd, at + 30 * PAGE, 3 * PAGE, -1));
    SAY(pread(fd, at + 60 * PAGE, 20 * PAGE, 3));
    SAY(syscall(SYS_pread64, fd, at + 34 * PAGE, PAGE, 99L));
    struct iovec vector[3] = {{at + 40 * PAGE + 1, 5000}, {whole, 30}, {at + 50 * PAGE - 1, 9000}};
    SAY(readv(fd, vector, 3));
    SAY(preadv(fd, vector, 3, 12345));
    SAY(preadv2(fd, vector, 3, -1, 0));
    SAY(preadv2(fd, vector, 3, 1234, 0));
    SAY(preadv2(fd, vector, 3, 1234, 1 << 30));
    SAY(lseek(fd, 0, SEEK_CUR));
    /* Bytes of the mapped file itself. */
    SAY(pread(file, at + 10 * PAGE, 5 * PAGE, 11 * PAGE));
    int direct = open("source", O_RDONLY | O_DIRECT);
    if (direct >= 0) {
        SAY(pread(direct, at + 2 * PAGE, 4 * PAGE, 8 * PAGE));
        SAY(pread(direct, at - PAGE, 4 * PAGE, 8 * PAGE));
        SAY(pread(direct, at + 512, 4 * PAGE, 8 * PAGE));
        close(direct);
    }
    FILE *stream = fdopen(fd, "r");
    CHECK(stream && fseek(stream, 5, SEEK_SET) == 0);
    SAY((ssize_t)fread(at + 16 * PAGE, 1, 9 * PAGE + 3, stream));
    fclose(stream);
    stream = fopen("source", "rc");
    CHECK(stream);
    SAY((ssize_t)fread(at + 26 * PAGE, 1, 9 * PAGE + 3, stream));
    fclose(stream);
}

static void asynchronous(void)
{
    int fd = open("source", O_RDWR | O_CREAT | O_TRUNC, 0600), direct = open("source", O_RDONLY | O_DIRECT);
    CHECK(fd >= 0 && write(fd, bytes, sizeof bytes) == sizeof bytes && fsync(fd) == 0);
    struct iocb reads[3] = {
        {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)fd, .aio_buf = (uintptr_t)at + 3, .aio_nbytes = 5000, .aio_offset = 7},
        {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)direct, .aio_buf = (uintptr_t)at + 9 * PAGE, .aio_nbytes = 3 * PAGE},
        {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)fd, .aio_buf = (uintptr_t)at - 50, .aio_nbytes = 100},
    };
    aio_context_t context = 0;
    CHECK(syscall(SYS_io_setup, 4, &context) == 0);
    for (int i = 0; i < 3; i++) {
        struct iocb *list[] = {&reads[i]};
        struct io_event event;
        if (reads[i].aio_fildes == (uint32_t)-1)
            continue;
        CHECK(syscall(SYS_io_submit, context, 1, list) == 1);
        CHECK(syscall(SYS_io_getevents, context, 1, 1, &event, NULL) == 1);
        say("io_submit", (ssize_t)event.res);
    }
    CHECK(syscall(SYS_io_destroy, context) == 0);
    close(direct);
    close(fd);
}

static void vectors(void)
{
    static struct iovec vector[1025];
    int fd = filled_pipe(40 * PAGE);
    for (size_t i = 0; i < 1025; i++)
        vector[i] = (struct iovec){i % 3 ? at + i * 200 : whole + i * 2, i % 3 ? 150 : 1};
    SAY(readv(fd, vector, 40));
    SAY(readv(fd, vector, 1024));
    SAY(readv(fd, vector, 1025));
    SAY(readv(fd, vector, less));
    SAY(readv(fd, vector, 0));
    SAY(preadv(fd, vector, 3, 0));
    vector[0] = (struct iovec){at - PAGE, REGION + 2 * PAGE};
    SAY(readv(fd, vector, 1));
    rest_of(fd);
    struct iovec here[2] = {{at + PAGE, 3 * PAGE}, {at - 5, 10}}, there = {bytes + 17, 2 * PAGE + 3000};
    SAY(process_vm_readv(getpid(), here, 2, &there, 1, 0));
    there.iov_len = REGION;
    SAY(process_vm_readv(getpid(), here, 2, &there, 1, 0));
    SAY(process_vm_readv(getpid(), here, 2, &there, 1, 1));
}

static void sockets(void)
{
    static const int kinds[] = {SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM};
    for (int i = 0; i < 3; i++) {
        int ends[2];
        CHECK(socketpair(AF_UNIX, kinds[i], 0, ends) == 0);
        int size = 1 << 20;
        CHECK(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size) == 0);
        CHECK(send(ends[0], bytes, 100 << 10, 0) == 100 << 10);
        SAY(recv(ends[1], at + 3, 120 << 10, MSG_PEEK));
        SAY(recv(ends[1], at + 30 * PAGE, 100, MSG_PEEK | MSG_TRUNC));
        SAY(recv(ends[1], at + 11, 120 << 10, 0));
        CHECK(send(ends[0], bytes + 9, 100 << 10, 0) == 100 << 10);
        SAY(recv(ends[1], at - 100, 5000, MSG_TRUNC));
        SAY(recv(ends[1], at + 20, 5000, MSG_DONTWAIT));
        CHECK(send(ends[0], bytes, 7, 0) == 7);
        SAY(recv(ends[1], at + 9, 0, MSG_DONTWAIT));
        CHECK(fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0);
        SAY(read(ends[1], at + 9, 3));
        SAY(recv(-1, at, 5, 0));
        close(ends[0]);
        SAY(recv(ends[1], at + 50 * PAGE, 5000, MSG_DONTWAIT));
        close(ends[1]);
    }
}

static void *send_in_pieces(void *end)
{
    for (int i = 0; i < 8; i++) {
        CHECK(send((int)(intptr_t)end, bytes + i, PAGE, 0) == (ssize_t)PAGE);
        usleep(1000);
    }
    return NULL;
}

static void tcp(void)
{
    int listener = socket(AF_INET, SOCK_STREAM, 0), sender = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    CHECK(bind(listener, (void *)&address, length) == 0 && listen(listener, 1) == 0);
    CHECK(getsockname(listener, (void *)&address, &length) == 0 && connect(sender, (void *)&address, length) == 0);
    int fd = accept(listener, NULL, NULL);
    CHECK(fd >= 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, send_in_pieces, (void *)(intptr_t)sender) == 0);
    SAY(recv(fd, at + 10, 6 * PAGE, MSG_WAITALL));
    pthread_join(thread, NULL);
    SAY(recv(fd, at + 20 * PAGE, PAGE, MSG_TRUNC | MSG_WAITALL));
    struct iovec vector[2] = {{at + 30 * PAGE, 100}, {whole, 10}};
    struct msghdr message = {.msg_iov = vector, .msg_iovlen = 2};
    SAY(recvmsg(fd, &message, MSG_TRUNC));
    socklen_t room = sizeof address;
    SAY(recvfrom(fd, at + 40 * PAGE, 200, 0, (void *)(at + 41 * PAGE), &room));
    SAY((ssize_t)room);
    close(fd);
    close(sender);
    close(listener);
}

extern ssize_t __read_chk(int, void *, size_t, size_t), __pread_chk(int, void *, size_t, off_t, size_t);
extern ssize_t __recv_chk(int, void *, size_t, size_t, int);
extern ssize_t __recvfrom_chk(int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *);
extern size_t __fread_chk(void *, size_t, size_t, size_t, FILE *);

static void checked(void)
{
    int fd = filled_pipe(5000), ends[2];
    SAY(__read_chk(fd, at + 100, 1000, 1000));
    FILE *stream = fdopen(fd, "r");
    SAY((ssize_t)__fread_chk(at + PAGE, 8000, 1, 8000, stream));
    fclose(stream);
    SAY(__pread_chk(file, at + 9 * PAGE, 1000, 3, 1000));
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0);
    CHECK(send(ends[0], bytes, 300, 0) == 300 && send(ends[0], bytes, 400, 0) == 400);
    SAY(__recv_chk(ends[1], at + 20 * PAGE, 300, 300, 0));
    SAY(__recvfrom_chk(ends[1], at + 30 * PAGE, 500, 500, 0, NULL, NULL));
    close(ends[0]);
    close(ends[1]);
}

/* A socket that receives from one with a name. */
static void named_pair(int ends[2])
{
    struct sockaddr_un names[2] = {{.sun_family = AF_UNIX, .sun_path = "sender"}, {.sun_family = AF_UNIX, .sun_path = "receiver"}};
    for (int i = 0; i < 2; i++) {
        unlink(names[i].sun_path);
        ends[i] = socket(AF_UNIX, SOCK_DGRAM, 0);
        CHECK(ends[i] >= 0 && bind(ends[i], (void *)&names[i], sizeof names[i]) == 0);
    }
    CHECK(connect(ends[0], (void *)&names[1], sizeof names[1]) == 0);
}

static void names(void)
{
    int ends[2];
    named_pair(ends);
    struct sockaddr_un name;
    socklen_t length = sizeof name;
    for (int i = 0; i < 9; i++)
        CHECK(send(ends[0], bytes + i, 6000, 0) == 6000);
    SAY(recvfrom(ends[1], at + 1, 9000, 0, (void *)&name, &length));
    SAY((ssize_t)length);
    SAY(recvfrom(ends[1], scratch, 9000, 0, (void *)(at + 10 * PAGE - 3), &length));
    length = 5;
    SAY(recvfrom(ends[1], at - 4, 9000, 0, (void *)(at + 11 * PAGE), &length));
    SAY((ssize_t)length);
    socklen_t *inside = (void *)(at + 12 * PAGE);
    *inside = sizeof name;
    SAY(recvfrom(ends[1], at + 20 * PAGE, 100, MSG_TRUNC, (void *)(at + 14 * PAGE), inside));
    SAY(syscall(SYS_recvfrom, ends[1], at + 21 * PAGE, 100, 0, NULL, NULL));
    SAY(recvfrom(ends[1], at + 22 * PAGE, 100, 0, NULL, (socklen_t *)BAD));
    ssize_t result = recvfrom(ends[1], at + 23 * PAGE, 100, 0, (void *)BAD, &length);
    unspecified(at + 23 * PAGE, 100);
    say("recvfrom, bad name", result);
    result = recvfrom(ends[1], at + 24 * PAGE, 100, 0, (void *)(at + 25 * PAGE), (socklen_t *)BAD);
    unspecified(at + 24 * PAGE, 100);
    say("recvfrom, bad length", result);
    SAY(recv(ends[1], at + 26 * PAGE, 10000, MSG_DONTWAIT));
    SAY(recv(ends[1], at + 26 * PAGE, 10000, MSG_DONTWAIT));
    close(ends[0]);
    close(ends[1]);
}

static void send_descriptor(int socket, int fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof fd)];
    } control = {0};
    struct iovec vector = {bytes, 5000};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    CHECK(sendmsg(socket, &message, 0) == 5000);
}

/* Says what the kernel put into the header, and takes addresses out of it. */
static void show(struct msghdr *message)
{
    printf("name %u, control %zu, flags %#x\n", message->msg_namelen, message->msg_controllen, (unsigned)message->msg_flags);
    struct cmsghdr *header = CMSG_FIRSTHDR(message);
    if (header && message->msg_controllen) {
        int fd;
        memcpy(&fd, CMSG_DATA(header), sizeof fd);
        CHECK(close(fd) == 0);
    }
    message->msg_name = message->msg_iov = message->msg_control = NULL;
}

static void messages(void)
{
    int ends[2];
    named_pair(ends);
    for (int i = 0; i < 9; i++)
        send_descriptor(ends[0], 1);
    for (int inside = 0; inside < 2; inside++) {
        struct iovec vector[3] = {{whole, 7}, {at - 3, 3000}, {at + 5 * PAGE, 3000}};
        struct msghdr outside, *message = inside ? (void *)(at + 9 * PAGE) : &outside;
        *message = (struct msghdr){.msg_iov = vector, .msg_iovlen = 3, .msg_name = at + 10 * PAGE - 5, .msg_namelen = 110, .msg_control = at + 12 * PAGE, .msg_controllen = 100};
        ssize_t result = recvmsg(ends[1], message, 0);
        show(message);
        say("recvmsg", result);
        *message = (struct msghdr){.msg_iov = vector + 1, .msg_iovlen = 1, .msg_name = whole, .msg_namelen = 5, .msg_control = scratch, .msg_controllen = 3};
        result = recvmsg(ends[1], message, MSG_TRUNC);
        show(message);
        say("recvmsg, cut", result);
        struct iovec bad[2] = {{at + 20 * PAGE, 100}, {BAD, 100}};
        *message = (struct msghdr){.msg_iov = bad, .msg_iovlen = 2};
        result = recvmsg(ends[1], message, 0);
        show(message);
        unspecified(bad[0].iov_base, 100);
        say("recvmsg, bad", result);
    }
    SAY(recvmsg(ends[1], (void *)BAD, 0));
    struct iovec vectors[4] = {{at + 30 * PAGE, 4000}, {at + 40 * PAGE, PAGE * 2}, {at - 3, 10}, {at, 10}};
    struct mmsghdr *many = (void *)(at + 50 * PAGE - 10);
    memset(many, 0, 4 * sizeof *many);
    for (int i = 0; i < 4; i++)
        many[i].msg_hdr = (struct msghdr){.msg_iov = vectors + i, .msg_iovlen = 1, .msg_name = at + (52 + i) * PAGE, .msg_namelen = 100};
    int result = recvmmsg(ends[1], many, 4, MSG_DONTWAIT, NULL);
    for (int i = 0; i < 4; i++) {
        printf("message %d: %u\n", i, many[i].msg_len);
        show(&many[i].msg_hdr);
    }
    say("recvmmsg", result);
    for (int i = 0; i < 4; i++)
        many[i].msg_hdr = (struct msghdr){.msg_iov = vectors + i, .msg_iovlen = 1};
    result = recvmmsg(ends[1], many, 4, MSG_DONTWAIT, NULL);
    memset(many, 0, 4 * sizeof *many);
    say("recvmmsg of none", result);
    close(ends[0]);
    close(ends[1]);
}

static void randomness(void)
{
    memset(at + PAGE, 0, 4 * PAGE);
    ssize_t inside = getrandom(at + PAGE, 100, 0), across = getrandom(at - 100, 200, 0);
    ssize_t number = syscall(SYS_getrandom, at + 3 * PAGE, 100, 0);
    unsigned char zeros[100] = {0};
    printf("getrandom %zd %zd %zd\n", inside, across, number);
    CHECK(memcmp(at + PAGE, zeros, 100) != 0 && memcmp(at + 3 * PAGE, zeros, 100) != 0);
    CHECK(memcmp(at + PAGE + 100, zeros, 100) == 0);
    memset(at - 100, 1, 4 * PAGE);
    SAY(getrandom(at + 10 * PAGE, 100, 1 << 30));
    /* By number: from glibc 2.41 on its function may store by itself (vdso(7)), and dies of such an address. */
    SAY(syscall(SYS_getrandom, BAD, 100, 0));
}

static void terminal(void)
{
    int ends[2];
    CHECK(openpty(&ends[0], &ends[1], NULL, NULL, NULL) == 0);
    CHECK(write(ends[0], "one line\nand the next\n", 22) == 22);
    SAY(read(ends[1], at + 5, 100));
    SAY(read(ends[1], at - 3, 100));
    close(ends[0]);
    close(ends[1]);
}

/* Pages behind the end of the file. */
static void behind_the_end(void)
{
    int short_file = make_file("short", PAGE + 100);
    unsigned char *part = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, short_file, 0), *snapped = NULL;
    CHECK(part != MAP_FAILED);
    if (*how != 'n')
        snapped = snapshot(short_file, 0, 2 * PAGE, PROT_READ);
    int fd = filled_pipe(3 * PAGE);
    SAY(read(fd, part + 100, 3 * PAGE));
    SAY(read(fd, part + 2 * PAGE, 3 * PAGE));
    rest_of(fd);
    CHECK(memcmp(part + 100, bytes, 2 * PAGE - 100) == 0 || memcmp(part + 100, bytes, PAGE) == 0);
    if (snapped)
        CHECK(shows(snapped, 0, PAGE + 100, 0));
    CHECK(munmap(part, 4 * PAGE) == 0);
    if (snapped)
        CHECK(munmap(snapped, 2 * PAGE) == 0);
    close(short_file);
}

static volatile pid_t waiting;
static int waited_for;
static pthread_t waiter;

static void *wait_for_bytes(void *result)
{
    waiting = (pid_t)syscall(SYS_gettid);
    *(ssize_t *)result = read(waited_for, at + 7 * PAGE, 5 * PAGE);
    return NULL;
}

static int is_asleep(pid_t tid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
    int fd = open(path, O_RDONLY);
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    text[length > 0 ? length : 0] = 0;
    const char *state = strrchr(text, ')');
    return state && state[2] == 'S';
}

/* Has a thread wait in read(). */
static void start_waiter(int fd, ssize_t *result)
{
    waited_for = fd;
    waiting = 0;
    CHECK(pthread_create(&waiter, NULL, wait_for_bytes, result) == 0);
    while (!waiting || !is_asleep(waiting))
        usleep(100);
}

/* A snapshot is taken while a thread waits in read(). */
static void meanwhile(void)
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    ssize_t result = 0;
    start_waiter(ends[0], &result);
    unsigned char *later = snapshot(file, 0, REGION, PROT_READ);
    memcpy(scratch, later, REGION);
    CHECK(write(ends[1], bytes, 3 * PAGE) == 3 * (ssize_t)PAGE);
    pthread_join(waiter, NULL);
    say("read, waiting", result);
    if (snapshim_active())
        CHECK(memcmp(scratch, later, REGION) == 0);
    CHECK(munmap(later, REGION) == 0);
    close(ends[0]);
    close(ends[1]);
}

/* Nothing is left behind by a thread that is cancelled there: neither are bytes lost, nor does a snapshot wait for it. */
static void cancelled(void)
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    ssize_t result = 0;
    void *end;
    start_waiter(ends[0], &result);
    CHECK(pthread_cancel(waiter) == 0 && pthread_join(waiter, &end) == 0 && end == PTHREAD_CANCELED);
    CHECK(munmap(snapshot(file, 0, REGION, PROT_READ), REGION) == 0);
    CHECK(write(ends[1], bytes, 100) == 100);
    SAY(read(ends[0], at + 3, 200));
    close(ends[0]);
    close(ends[1]);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    how = argv[2];
    alarm(150);
    file = open(argv[1], O_RDWR);
    copy = malloc(REGION);
    CHECK(file >= 0 && copy);
    fill_bytes();
    static void (*const all[])(void) = {pipes, bad_pointers, files, asynchronous, vectors, sockets, tcp, checked, names, messages, randomness, terminal, behind_the_end, meanwhile, cancelled};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        begin();
        all[i]();
        end();
    }
    return 0;
}

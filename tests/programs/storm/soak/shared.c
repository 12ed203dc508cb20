#include "shared.h"

const char *const way_names[] = {"pwrite", "write", "pwritev", "pwritev2", "writev", "aio_write", "stdio", "copy_file_range", "sendfile", "splice"};

struct shared *shared;
int shared_id;
size_t own_seat;
uint32_t own_life;
_Thread_local size_t own_lane;
_Thread_local uint64_t random_state;

uint64_t mix(uint64_t word)
{
    word += 0x9e3779b97f4a7c15;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9;
    word = (word ^ word >> 27) * 0x94d049bb133111eb;
    return word ^ word >> 31;
}

size_t below(size_t bound)
{
    return mix(++random_state) % bound;
}

int one_in(size_t count)
{
    return below(count) == 0;
}

uint64_t now_us(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_nsec / 1000;
}

uint64_t tick(void)
{
    return atomic_fetch_add(&shared->clock, 1);
}

struct lane *lane(void)
{
    return &shared->seats[own_seat].lanes[own_lane];
}

void step(const char *what, int64_t first, int64_t second)
{
    struct lane *own = lane();
    struct step *step = &own->trace[own->steps++ % STEPS];
    *step = (struct step){.tick = shared->clock, .at_us = now_us(), .first = first, .second = second};
    memcpy(step->what, what, strnlen(what, sizeof step->what - 1));
    own->since_us = step->at_us;
}

void print_trace(size_t seat, size_t index)
{
    const struct lane *lane = &shared->seats[seat].lanes[index];
    uint32_t end = lane->steps, first = end > STEPS ? end - STEPS : 0;
    uint64_t holder = shared->seats[seat].holder;
    fprintf(stderr, "trace of pid %u (life %u), thread %u, to now (%llu us):\n", (unsigned)holder, (unsigned)(holder >> 32), lane->tid,
            (unsigned long long)now_us());
    for (uint32_t i = first; i < end; i++) {
        const struct step *step = &lane->trace[i % STEPS];
        fprintf(stderr, "  %12llu us, event %10llu  %-16s %lld %lld\n", (unsigned long long)step->at_us, (unsigned long long)step->tick,
                step->what, (long long)step->first, (long long)step->second);
    }
}

void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...)
{
    char said[2000];
    int error = errno;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(said, sizeof said, format, arguments);
    va_end(arguments);
    fprintf(stderr, "FAILED (seed %llu): pid %d life %u thread %ld: %s (errno %d: %s)\n", (unsigned long long)shared->seed, (int)getpid(),
            own_life, syscall(SYS_gettid), said, error, strerror(error));
    for (size_t i = 0; i < LANES; i++)
        if (shared->seats[own_seat].lanes[i].since_us)
            print_trace(own_seat, i);
    shared->failed = 1;
    _exit(1);
}

static void __attribute__((noreturn)) fail_check(const char *file, int line, const char *condition)
{
    fail("%s:%d: %s does not hold", file, line, condition);
}

void attach(int id)
{
    shared_id = id;
    shared = shmat(id, NULL, 0);
    CHECK(shared != (void *)-1);
}

void sit_down(size_t seat)
{
    own_seat = seat, own_lane = 0;
    on_failed_check = fail_check;
    own_life = ++shared->lives;
    for (size_t i = 0; i < LANES; i++)
        shared->seats[seat].lanes[i].since_us = 0;
    lane()->steps = 0;
    lane()->tid = (uint32_t)getpid();
    shared->seats[seat].holder = (uint64_t)own_life << 32 | (uint32_t)getpid();
    random_state = mix(shared->seed ^ (uint64_t)own_life << 32);
    step("sits down", own_life, (int64_t)seat);
}

int is_alone(void)
{
    for (size_t i = 0; i < LANES; i++)
        if (i != own_lane && shared->seats[own_seat].lanes[i].since_us)
            return 0;
    return 1;
}

int find_seat(void)
{
    uint32_t pid = (uint32_t)getpid();
    for (size_t seat = 0; seat < SEATS; seat++) {
        uint64_t free = 0;
        if (atomic_compare_exchange_strong(&shared->seats[seat].holder, &free, pid)) {
            sit_down(seat);
            return 1;
        }
    }
    return 0;
}

size_t seats_taken(void)
{
    size_t taken = 0;
    for (size_t seat = 0; seat < SEATS; seat++)
        taken += shared->seats[seat].holder != 0;
    return taken;
}

uint64_t own_name(void)
{
    return (uint64_t)own_life << 32 | own_seat << 8 | (own_lane + 1);
}

int is_over(uint64_t name)
{
    uint64_t holder = shared->seats[name >> 8 & 0xffffff].holder;
    return holder >> 32 != name >> 32 || (kill((pid_t)(uint32_t)holder, 0) == -1 && errno == ESRCH);
}

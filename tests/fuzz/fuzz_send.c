/* Sending for Python (send.c and the files below it) as a state machine on the harness's own kernel: jobs of every shape,
 * single
 * datagrams, full buffers, errors, routes that refuse trains, late notifications, signals, helpers, abandoned jobs, closed
 * sockets,
 * closes with pending sends; all tiers.
 *
 * Oracles (send_jobs.c): a datagram is sent at most once, unchanged, to its destination, after earlier ones to that
 * destination. Its
 * result says whether it was sent. Each job ends once, and its memory is not touched afterwards (it is freed). The counters
 * agree, and
 * no slot is lost. Without faults everything is sent, also for a program that waits in an event loop. */
#include <netinet/in.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model_ring.h"
#include "model_threads.h"
#include "model_uring.h"
#include "send_model.h"
#include "udp/tx_tier.h"
#include "uring/abi.h"
#include "uring/graveyard.h"

enum { TURNS_MOST = 20000 };

/* ---- calls that the linker redirects here (send.wrap) ---- */

static int zero_copy;

uint32_t __wrap_udp_tx_segments_max(void);
int32_t __wrap_udpring_zero_copy(struct udpring_reason *why);

uint32_t __wrap_udp_tx_segments_max(void)
{
    return kernel.segments;
}

int32_t __wrap_udpring_zero_copy(struct udpring_reason *why)
{
    return zero_copy;
}

/* ---- faults of the kernel ---- */

static bool helpful;    /* pending conditions become true */

static bool clear_the_way(void)
{
    bool moved = uring_notify(0, true);
    struct kernel_file *file = kernel_file(send_model.fd);
    if (file && (file->full || file->charged)) {
        file->full = false;
        file->charged = 0;
        moved = true;
    }
    return moved;
}

static bool idle(void)
{
    return helpful && clear_the_way();
}

static void set_errors(struct input *input)
{
    static const int errors[] = {ENETUNREACH, EPERM, ECONNREFUSED, ENOMEM, EINVAL, EADDRNOTAVAIL, EMSGSIZE, EIO, ENODEV, EHOSTUNREACH};
    static const int refusals[] = {EINVAL, EOPNOTSUPP, EFAULT, EMSGSIZE, ENOMEM, ENOBUFS};
    uint8_t choice = input_u8(input), count = input_u8(input);
    const struct kernel_file *file = kernel_file(send_model.fd);
    if (choice & 0x80) {
        send_model.zero_copy_error = refusals[choice % 6];
        send_model.zero_copy_errors = count;
        uring_notifies_failures = choice & 0x40;
        return;
    }
    send_model.cuts = (choice & 0x70) == 0x70;
    send_model.error = errors[choice % 10];
    send_model.errors = count & 63;
    /* Answers that the kernel gives only with IP_RECVERR, and only to interruptible calls. */
    if (file && file->asks_for_errors && choice & 0x20)
        send_model.error = ENOBUFS;
    if (send_model.tier == UDPRING_TIER_MMSG && (choice & 0x30) == 0x10)
        send_model.error = EINTR;
}

static void set_buffer(struct input *input)
{
    struct kernel_file *file = kernel_file(send_model.fd);
    uint8_t choice = input_u8(input);
    if (!file)
        return;
    file->full = (choice & 7) == 7;
    file->room = choice & 8 ? 1000u * (1 + (choice >> 4)) : 0;
    send_model.drains = choice & 1 ? 700 : 0;
    kernel.charge = choice & 2 ? 2000 : 300;
}

/* ---- calls ---- */

static void run(struct input *input)
{
    uint8_t choice = input_u8(input);
    const struct job *job = &send_model.job[choice % JOBS];
    int64_t timeout = choice & 64 ? (int64_t)(choice >> 3) * 1000000 : 0;
    helpful = choice & 128;
    uint64_t wanted = send_model.ended + (choice & 8 ? 1 : 0);
    int code = job->live && choice & 16 ? udpring_send_run(send_model.send, &job->face, 0, timeout)
                                        : udpring_send_run(send_model.send, NULL, wanted, timeout);
    helpful = false;
    CLAIM(code == 0 || code == -ETIME || code == -EINTR || code == -ECANCELED || code == -EBADF || code == -ENOMEM || code == -EPERM,
          "run answers %d", code);
}

/* One turn of an event loop. True if there was something to do. */
static bool turn(void)
{
    int fd = udpring_send_fileno(send_model.send);
    if (fd < 0)
        return false;
    if (!kernel_events(kernel_file(fd), 1))
        return false;
    int code = udpring_send_run(send_model.send, NULL, send_model.submitted, 0);
    CLAIM(code != -EINVAL, "run answers %d", code);
    return true;
}

static void abandon(uint8_t which)
{
    struct job *job = &send_model.job[which % JOBS];
    if (!job->live)
        return;
    int code = udpring_send_abandon(send_model.send, &job->face);
    if (send_model.send->tx)
        CLAIM(code == (job->face.ended == job->face.count ? 0 : -EBUSY), "abandoning answers %d", code);
}

/* A thread that does not own the ring is refused and changes nothing. */
static void intrude(uint8_t choice)
{
    struct udpring_send_job face = {.count = 1, .length = 1, .bytes = 1, .data = &choice};
    bool fork = choice & 1;
    uint64_t pending = udpring_send_pending(send_model.send);
    ring_forks += fork;
    ring_thread += !fork;
    CLAIM(udpring_send_check(send_model.send) == -EXDEV, "a stranger may send");
    CLAIM(udpring_send_submit(send_model.send, &face) == -EXDEV && !face.taken, "a stranger's job is taken");
    CLAIM(udpring_send_run(send_model.send, NULL, 1, 0) == -EXDEV, "a stranger may run");
    CLAIM(udpring_send_one(send_model.send, &choice, 1, NULL) == 1, "a stranger sends");
    CLAIM(udpring_send_abandon(send_model.send, &face) == -EXDEV, "a stranger abandons");
    CLAIM(fork || udpring_send_close(send_model.send) == -EXDEV, "a stranger closes");
    CLAIM(udpring_send_pending(send_model.send) == pending, "a stranger changed something");
    ring_forks -= fork;
    ring_thread -= !fork;
}

static void close_socket(uint8_t choice)
{
    if (send_model.gone || choice < 0xd0)
        return;
    close(send_model.fd);
    send_model.gone = true;
    if (choice & 1) {   /* another file has its number now, and is not connected */
        CLAIM(kernel_open(KERNEL_UDP, send_model.family) == send_model.fd, "another number");
        kernel_file(send_model.fd)->reused = true;
    }
}

/* Memory that remains allocated when the kernel does not release it. */
static struct {
    void *slots;
    size_t bytes;
    struct send_piece *piece;
    uint32_t pieces;
    uint64_t graves;
} left;

static void free_left(void)
{
    munmap(left.slots, left.bytes);
    for (uint32_t i = 0; i < left.pieces; i++) {
        struct send_job *job = left.piece[i].job;
        for (uint32_t k = i + 1; k < left.pieces; k++)
            if (left.piece[k].job == job)
                left.piece[k].job = NULL;
        if (job)
            send_job_free(job);
    }
    free(left.piece);
}

static void end_ring(bool by_free, bool by_another)
{
    struct udpring_send *send = send_model.send;
    if (!send->tx)
        return;
    left.slots = send->tx->slots.base;
    left.bytes = send->tx->slots.bytes;
    left.piece = send->piece;
    left.pieces = send->pieces;
    left.graves = ur_graveyard_blocks();
    for (uint32_t i = 0; i < JOBS; i++)
        send_model.job[i].closed = true;
    kernel.owner_ended = by_another;
    ring_thread += by_another;
    if (!by_free) {
        int code = udpring_send_close(send);
        CLAIM(code == 0 || code == 1, "closing answers %d", code);
        CLAIM(udpring_send_close(send) == 0 && (!send->tx || udp_tx_parked(send->tx) == -1), "a second close");
        send_model.kept |= code == 1;
        jobs_check();
        for (uint32_t i = 0; i < JOBS; i++)
            CLAIM(!send_model.job[i].live, "a job did not end with its ring");
    }
    ring_thread -= by_another;
}

static void reroute(void)
{
    send_model.rerouted = true;
    for (uint32_t i = 0; i < DESTINATIONS; i++)
        send_model.refuses[i] = send_model.refuses[i] ? 0 : 1 + i % 2 * 99;
}

/* A waiting program requests a descriptor, and the kernel has none, or no memory. */
static void sleep_short(uint8_t more)
{
    kernel.fault.memory_only = false;
    kernel.fault.after = 1 + more;
    kernel.fault.error = EMFILE;
    (void)turn();
    kernel.fault.after = 0;
    kernel.fault.hit = false;
}

static void step(struct input *input)
{
    uint8_t operation = input_u8(input), more = operation >> 5;
    switch (operation & 31) {
    case 0: case 1: case 2: case 3: case 4: case 5: case 6: jobs_submit(input); break;
    case 7: case 8: jobs_send_one(input); break;
    case 9: case 10: case 11: run(input); break;
    case 12: abandon(input_u8(input)); break;
    case 13: case 14: set_buffer(input); break;
    case 15: set_errors(input); break;
    case 16: uring_notify(more, operation & 32); break;
    case 17: udpring_send_wake(send_model.send); break;
    case 18: case 19: (void)turn(); break;
    case 20: threads_now_ns += 61000000000u; break;   /* knowledge about routes expires */
    case 21: close_socket(input_u8(input)); break;
    case 22: kernel.interrupts = more; break;
    case 23: uring_failing = (struct uring_failing){(int[]){EAGAIN, EBUSY, EINTR, ENOMEM, EPERM, EBADR, EAGAIN, EAGAIN}[more], 1 + more * 3u, more & 1}; break;
    case 24: intrude(more); break;
    case 25: kernel.fault.memory_only = true; kernel.fault.after = 1 + more; kernel.fault.error = ENOMEM; break;
    case 26: more == 7 ? end_ring(false, false) : more == 6 ? reroute() : (void)0; break;
    case 28: sleep_short(more); break;
    case 27: threads_switches = input_u8(input); break;
    default: clear_the_way(); break;
    }
    jobs_check();
}

/* ---- a run ---- */

/* Without faults everything is sent, also for a program that waits for the descriptor. */
static void finish(bool sleeping)
{
    send_model.errors = send_model.zero_copy_errors = 0;
    uring_failing.enters = kernel.interrupts = kernel.fault.after = 0;
    sleeping = sleeping && udpring_send_fileno(send_model.send) >= 0 && !send_model.gone;
    for (uint32_t i = 0; udpring_send_pending(send_model.send); i++) {
        CLAIM(i < TURNS_MOST, "%lu datagrams wait for ever", (unsigned long)udpring_send_pending(send_model.send));
        (void)clear_the_way();
        if (sleeping) {
            CLAIM(turn(), "%lu datagrams could be sent, and the descriptor is not readable", (unsigned long)udpring_send_pending(send_model.send));
        } else {
            int code = udpring_send_run(send_model.send, NULL, send_model.submitted, 1000000);
            CLAIM(code == 0 || code == -ETIME || code == -ECANCELED || code == -EBADF, "run answers %d", code);
        }
        jobs_check();
    }
}

/* Destinations that collide in the tables of the core: 1 and 0 in the table of paths, 8 and the next one in the grouping of a
 * batch. The seed is the model's. */
static void make_destinations(int family)
{
    static struct udpring_address made[2][DESTINATIONS];
    static bool known[2];
    struct udpring_address *to = made[family == AF_INET6];
    uint64_t seed = send_model.send->plan.seed;
    for (uint32_t n = 0; n < DESTINATIONS && !known[family == AF_INET6]; n++) {
        bool six = family == AF_INET6 ? n % 3 : n == 7;   /* 7: not of an IPv4 socket */
        to[n] = (struct udpring_address){.family = six ? AF_INET6 : AF_INET, .port = (uint16_t)(1000 + n), .ip = {10}};
        uint64_t mask = n == 1 ? SEND_PATHS - 1 : 2 * SEND_WINDOW - 1, like = n == 1 ? 0 : 8;
        for (uint32_t i = 0; n == 1 || n > 8; i++) {
            memcpy(to[n].ip + 1, &i, 3);
            if (!((send_address_hash(&to[n], seed) ^ send_address_hash(&to[like], seed)) & mask))
                break;
        }
    }
    known[family == AF_INET6] = true;
    memcpy(send_model.destination, to, sizeof(made[0]));
}

static bool open_ring(struct input *input)
{
    static const uint8_t tiers[] = {UDPRING_TIER_MMSG, UDPRING_TIER_URING_MULTISHOT, UDPRING_TIER_URING_POOL, UDPRING_TIER_AUTO};
    static const uint8_t copies[] = {UDPRING_ZC_TRUE, UDPRING_ZC_COPIES, UDPRING_ZC_UNSUPPORTED, UDPRING_ZC_TRUE};
    static const int errors[] = {ENOMEM, EMFILE, EPERM, EINVAL};
    uint8_t choice = input_u8(input), more = input_u8(input), fault = input_u8(input), refused = input_u8(input);
    send_model.family = choice & 4 ? AF_INET6 : AF_INET;
    send_model.fd = kernel_open(KERNEL_UDP, send_model.family);
    kernel_file(send_model.fd)->asks_for_errors = choice & 64;
    kernel.segments = more & 1 ? 128 : 64;
    kernel.has_uring = (more & 6) != 6;
    uring_unknown_flags = more & 8 ? IORING_SETUP_DEFER_TASKRUN : 0;
    uring_cancels_one = more & 16;
    ring_tiers = more & 32 ? 0xf : 8;
    zero_copy = copies[more >> 6];
    struct udpring_send_options options = {.fd = send_model.fd, .tier = tiers[choice & 3], .slots = choice & 128 ? 40 : 4, .gso = !(choice & 8),
                                           .zero_copy = choice & 16, .helpers = choice & 32 ? 2 : 0};
    if ((fault & 0xc0) == 0xc0) {
        kernel.fault.after = 1 + (fault & 63);
        kernel.fault.error = errors[refused & 3];
    } else if ((fault & 0xc0) == 0x80) {
        switch (fault & 7) {
        case 0: options.slots = 5000; break;
        case 1: options.helpers = 16; break;
        case 2: options.fd = 9; break;
        case 3: options.tier = 7; break;
        case 4: ring_tiers = 0; break;
        case 5: options.fd = kernel_open(KERNEL_OTHER, AF_UNIX); break;
        default: break;
        }
    }
    struct udpring_reason why = {""};
    int code = udpring_send_open(&send_model.send, &options, &why);
    CLAIM(!code == !!send_model.send && (!code || why.text[0]), "opening answers %d: %s", code, why.text);
    kernel.fault.after = 0;
    kernel.fault.hit = false;
    CLAIM(code || udp_tx_parked(send_model.send->tx) == -1, "it waits, and nothing was sent");
    if (options.fd != send_model.fd && options.fd != 9)
        close(options.fd);
    if (code)
        return false;
    make_destinations(send_model.family);
    send_model.tier = (int)udpring_send_tier(send_model.send);
    CLAIM(!udpring_send_reason(send_model.send)[0] == (options.tier != UDPRING_TIER_AUTO || send_model.tier == UDPRING_TIER_URING_MULTISHOT),
          "a tier for the reason \"%s\"", udpring_send_reason(send_model.send));
    CLAIM(udpring_send_zero_copy(send_model.send) == UDPRING_ZC_OFF || options.zero_copy, "zero copy that was not requested");
    send_model.refusal = refused & 4 ? EIO : EINVAL;
    for (uint32_t i = 0; i < DESTINATIONS; i++)
        if (refused >> 3 & 1 << i % 4)
            send_model.refuses[i] = refused & 128 ? 1 : 50;
    if (refused & 2)
        kernel_file(send_model.fd)->peer = send_model.destination[PEER];
    return true;
}

static void close_all(uint8_t how)
{
    struct udpring_send *send = send_model.send;
    bool open = send->tx, by_free = open && (how & 12) == 12;
    if (open && how & 1)
        finish(how & 2);
    bool by_child = by_free && send_model.tier == UDPRING_TIER_MMSG && !send->fan && how & 64;
    end_ring(by_free, !by_free && (how & 0x30) == 0x30);
    if (by_free && !by_child && how & 128) {   /* by a thread that may not: everything stays until the owner closes */
        ring_thread++;
        udpring_send_free(send);
        ring_thread--;
    }
    ring_forks += by_child;
    udpring_send_free(send);
    ring_forks -= by_child;
    uring_reset();   /* the kernel releases the last payload, which is checked once more */
    if (left.slots && ur_graveyard_blocks() != left.graves)
        free_left();
    left.slots = NULL;
    while (send_model.payloads)
        free(send_model.payload[--send_model.payloads]);
    jobs_forget();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {.bytes = bytes, .length = length};
    memset(&send_model, 0, offsetof(struct send_model, item));
    memset((uint8_t *)&send_model + offsetof(struct send_model, items), 0, sizeof(send_model) - offsetof(struct send_model, items));
    kernel_reset();
    uring_reset();
    kernel.active = threads_active = true;
    kernel.send = jobs_sent;
    threads_now_ns = 1000000000000u;
    threads_idle = idle;
    threads_switches = 0;
    helpful = false;
    if (open_ring(&input)) {
        uint8_t how = input_u8(&input);
        while (input_left(&input, 1))
            step(&input);
        close_all(how);
    }
    if (kernel_file(send_model.fd))
        close(send_model.fd);
    threads_idle = NULL;
    threads_reset();
    threads_active = false;
    kernel_reset();
    uring_reset();
    return 0;
}

/* Receiving for Python (recv.c, batches.c and the files below them) as a state machine on the harness's own kernel: datagrams
 * and
 * trains of every size, batches held and released in any order and beyond the limit, errors, shortage of memory, signals,
 * waiting
 * event loops, sockets that are shut down or closed, closes with held batches; all tiers.
 *
 * Oracles: batches contain the kernel's datagrams in order, complete, with their addresses, once. A held batch does not change,
 * even
 * after the ring is closed. Kept memory stays within its limits. The counters agree. Without faults everything is received,
 * also by
 * a program that waits for the descriptor. */
#include <netinet/in.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model_kernel.h"
#include "model_ring.h"
#include "model_threads.h"
#include "model_uring.h"
#include "recv_model.h"

enum { TURNS_MOST = 3000, GRAVES = 8 };

/* ---- calls that the linker redirects here (recv.wrap) ---- */

static uint32_t graves;
static struct { void *memory; size_t bytes; } grave[GRAVES];

void __wrap_ur_graveyard_leak(void *memory, size_t bytes);

/* Memory that the kernel may still write to is kept until the end of the run. */
void __wrap_ur_graveyard_leak(void *memory, size_t bytes)
{
    CLAIM(graves < GRAVES, "%u graves", graves);
    grave[graves].memory = memory;
    grave[graves++].bytes = bytes;
}

/* ---- calls ---- */

static void check_code(int code)
{
    static const int right[] = {0, -ETIME, -EINTR, -ECANCELED, -ENOBUFS, -ESHUTDOWN, -EBADF, -ENOMEM, -EPERM, -EMFILE};
    bool known = false;
    for (uint32_t i = 0; i < UR_ARRAY_LENGTH(right); i++)
        known |= code == right[i];
    CLAIM(known, "receiving answers %d", code);
    model.dead |= code == -ESHUTDOWN || code == -EBADF;
}

static int receive(uint32_t max, int64_t timeout_ns)
{
    if (model.held_count == HELD)
        return -ENOBUFS;
    model.call->max = max;
    model.call->timeout_ns = timeout_ns;
    int code = udpring_recv_batch(model.call);
    check_code(code);
    if (!code)
        take_batch();
    return code;
}

static struct udpring_alone alone;        /* of single datagrams */
static struct udpring_address known;      /* their last source */

/* A batch that was not taken, because a signal handler raised, is returned again. */
static void receive_again(void)
{
    if (model.held_count == HELD || model.closed)
        return;
    model.call->max = 3;
    model.call->timeout_ns = 0;
    if (udpring_recv_batch(model.call))
        return;
    const struct udpring_batch *first = model.call->batch;
    CLAIM(udpring_recv_one(&alone) == -EAGAIN, "a datagram overtakes a batch");
    CLAIM(udpring_recv_batch(model.call) == 0 && model.call->batch == first, "a batch is lost");
    take_batch();
}

static void receive_one(void)
{
    int code = udpring_recv_one(&alone);
    if (code == -EAGAIN)
        return;
    CLAIM(code >= 0, "one datagram: %d", code);
    uint32_t length = (uint32_t)code % UDPRING_ONE_MORE;
    CLAIM(!memcmp(&alone.source, &front()->source, sizeof(alone.source)), "another source");
    CLAIM(alone.other == (memcmp(&alone.source, &known, sizeof(known)) != 0) && alone.other == !!(code & UDPRING_ONE_OTHER),
          "a change of the source is not reported");
    known = alone.source;
    alone.other = false;
    CLAIM(model.at + 1 == front()->count, "a train is not one datagram");   /* a remaining part of a train may be one */
    take_one(alone.payload, length);
}

static void release(uint32_t which)
{
    if (!model.held_count)
        return;
    struct held *held = &model.held[which % model.held_count];
    CLAIM(sum_of(held->batch) == held->sum, "a batch changed while it was held");
    udpring_batch_release(held->batch, held->base);
    *held = model.held[--model.held_count];
}

/* ---- waiting programs ---- */

static bool readable(void)
{
    int fd = udpring_recv_fileno(model.recv);
    return fd >= 0 && kernel_events(kernel_file(fd), 1);
}

static void turn(void)
{
    if (readable() && model.held_count < HELD)
        (void)receive(64, 0);
}

/* ---- other events ---- */

static void intrude(bool fork)
{
    ring_thread += !fork;
    ring_forks += fork;
    CLAIM(udpring_recv_batch(model.call) == -EXDEV, "a stranger receives");
    CLAIM(udpring_recv_one(&alone) == -EAGAIN, "a stranger receives one");
    CLAIM(fork || udpring_recv_close(model.recv) == -EXDEV, "a stranger closes");
    ring_thread -= !fork;
    ring_forks -= fork;
}

static void close_socket(uint8_t choice)
{
    if (model.gone || choice < 0xd0)
        return;
    close(model.fd);
    model.gone = model.dead = true;
    if (choice & 1)   /* another file has its number now */
        CLAIM(kernel_open(KERNEL_UDP, model.family) == model.fd, "another number");
}

static void shut_down(uint8_t choice)
{
    if (choice < 0xe0 || model.gone)
        return;
    kernel_file(model.fd)->shut = model.dead = true;
    uring_poke();
}

static void close_ring(bool by_another)
{
    kernel.owner_ended = by_another;
    ring_thread += by_another;
    CLAIM(udpring_recv_close(model.recv) == 0, "it does not close");
    CLAIM(udpring_recv_close(model.recv) == 0, "it does not close twice");
    ring_thread -= by_another;
    CLAIM(udpring_recv_batch(model.call) == -ECANCELED, "it is closed, and receives");
    model.closed = true;
}

static void check_usage(void)
{
    struct udpring_recv_usage usage;
    udpring_recv_usage(model.recv, &usage);
    CLAIM(usage.copied <= model.datagrams, "%lu datagrams copied", (unsigned long)usage.copied);
    struct udpring_rx_stats stats;
    udpring_recv_stats(model.recv, &stats);
    CLAIM(stats.packets <= model.datagrams && stats.bytes <= model.bytes, "%lu datagrams counted, %lu came", (unsigned long)stats.packets,
          (unsigned long)model.datagrams);
}

static bool idle(void)
{
    static uint8_t more[] = {0, 12};
    struct input input = {.bytes = more, .length = sizeof(more)};
    struct kernel_file *file = kernel_file(model.fd);
    if (!file || model.gone || file->count || threads_switches == 0)
        return false;
    threads_switches--;
    arrive(&input);
    return true;
}

static void wait_for_some(uint8_t choice)
{
    threads_switches = choice & 1;   /* one datagram comes meanwhile */
    (void)receive(1 + (choice >> 4), (int64_t)(choice & 14) * 1000000);
    threads_switches = 0;
}

/* Many passes without datagrams: the number of operations in flight adapts. */
static void pass_idly(void)
{
    for (uint32_t i = 0; i < 260 && !model.closed && model.held_count < HELD; i++)
        if (receive(1, 0) != -ETIME)
            return;
}

/* One datagram after another, each fetched at once. */
static void trickle(uint8_t more)
{
    static const uint8_t one[] = {0, 12};
    for (uint32_t i = 0; i < 20 && !model.closed; i++) {
        struct input input = {.bytes = one, .length = sizeof(one)};
        arrive(&input);
        if (more & 1)
            threads_now_ns += 100000000;
        if (receive(64, 0))
            return;
        release(model.held_count - 1);
    }
}

/* The kernel is short of memory for long. A call ends all the same when its time is over. */
static void starve(uint8_t choice)
{
    enum { FAILURES = 40, MOST_NS = 5000000 };
    uint64_t timeout = choice & 32 ? 3000000 : 0, began = threads_now_ns;
    struct kernel_file *file = kernel_file(model.fd);
    struct kernel_packet failure = {.length = 1, .error = ENOMEM};
    if (model.closed || model.dead || !file || file->count)
        return;
    uring_failing = (struct uring_failing){EAGAIN, FAILURES, false};
    for (uint32_t i = 0; model.tier == UDPRING_TIER_MMSG && i < FAILURES; i++) {
        failure.bytes = __real_malloc(1);
        kernel_put(file, &failure);
    }
    (void)receive(1, (int64_t)timeout);
    CLAIM(threads_now_ns - began <= timeout + MOST_NS, "a call of %lu ns takes %lu ns", timeout, threads_now_ns - began);
    uring_failing.enters = 0;
}

/* A waiting program requests a descriptor, and the kernel has none, or no memory. */
static void sleep_short(uint8_t more)
{
    if (more & 16) {
        starve(more);
        return;
    }
    kernel.fault.memory_only = false;
    kernel.fault.after = 1 + more % 4;
    kernel.fault.error = more & 4 ? EMFILE : ENOMEM;
    ring_thread += more & 8 ? 1 : 0;
    int fd = udpring_recv_fileno(model.recv);
    ring_thread -= more & 8 ? 1 : 0;
    CLAIM(fd >= 0 || fd == -kernel.fault.error || fd == -EXDEV || fd == -ECANCELED, "a descriptor to wait for: %d", fd);
    bool lacked_memory = kernel.fault.hit && !(more & 4);
    model.dead |= kernel.fault.hit && !lacked_memory;   /* an epoll set that refuses the socket ends receiving */
    kernel.fault.after = 0;
    kernel.fault.hit = false;
    if (lacked_memory && !model.closed)
        CLAIM(receive(1, 0) != -ENOMEM, "receiving ended, and only memory was short for a moment");
}

static void step(struct input *input)
{
    static const int errors[] = {EAGAIN, EBUSY, EINTR, ENOMEM, EPERM, EBADR, EINTR, EAGAIN};
    uint8_t operation = input_u8(input), more = operation >> 5;
    switch (operation & 31) {
    case 0: case 1: case 2: case 3: case 4: arrive(input); break;
    case 5: case 6: case 7: (void)receive(1 + more * more, 0); break;
    case 8: wait_for_some(input_u8(input)); break;
    case 9: case 10: if (!model.closed) receive_one(); break;
    case 11: case 12: case 13: release(more); break;
    case 14: case 15: turn(); break;
    case 16: case 17: go_wrong(input); break;
    case 18: if (!model.closed) udpring_recv_wake(model.recv); break;
    case 19: kernel.interrupts = more; break;
    case 20: uring_failing = (struct uring_failing){errors[more], 1 + more * 2u, more & 1}; break;
    case 21: threads_now_ns += 1000000u << 2 * more; uring_poke(); break;
    case 22: kernel.fault.memory_only = true; kernel.fault.after = 1 + more; kernel.fault.error = ENOMEM; break;
    case 23: intrude(more & 1); break;
    case 24: shut_down(input_u8(input)); break;
    case 25: close_socket(input_u8(input)); break;
    case 26: (void)udpring_recv_error(model.recv); break;
    case 27: uring_post_stray(0, uring_ended(0), -more, more & 1 ? IORING_CQE_F_MORE : 0); break;
    case 28: more == 7 ? close_ring(false) : more > 3 ? pass_idly() : more > 1 ? trickle(more) : sleep_short(input_u8(input)); break;
    case 29: receive_again(); break;
    case 30: check_usage(); break;
    default: (void)receive(500, 0); break;
    }
    kernel.fault.after = kernel.fault.memory_only ? kernel.fault.after : 0;
}

/* ---- a run ---- */

static bool open_ring(struct input *input)
{
    static const uint8_t tiers[] = {UDPRING_TIER_MMSG, UDPRING_TIER_URING_MULTISHOT, UDPRING_TIER_URING_POOL, UDPRING_TIER_AUTO};
    static const int errors[] = {ENOMEM, EMFILE, EPERM, EINVAL};
    uint8_t choice = input_u8(input), more = input_u8(input), fault = input_u8(input), limits = input_u8(input);
    model.family = choice & 4 ? AF_INET6 : AF_INET;
    model.fd = kernel_open(KERNEL_UDP, model.family);
    kernel.has_uring = (more & 6) != 6;
    uring_unknown_flags = more & 8 ? IORING_SETUP_DEFER_TASKRUN : 0;
    uring_cancels_one = more & 16;
    ring_tiers = more & 32 ? 0xf : 8;
    model.whole = choice & 16;
    model.slot_bytes = choice & 32 ? 256 : 2048;
    struct udpring_recv_options options = {
        .fd = model.fd, .tier = tiers[choice & 3], .slots = choice & 64 ? 4 : choice & 128 ? 20 : 70, .slot_bytes = model.slot_bytes,
        .cq_entries = more & 64 ? 8 : 0, .gro = choice & 8 ? more & 128 ? UDPRING_GRO_TRY : UDPRING_GRO_ON : UDPRING_GRO_OFF,
        .whole_trains = model.whole, .timestamps = more & 1, .locals = limits & 1, .tos = limits & 2, .lease_limit = limits >> 2 & 7,
        .copy_limit = limits & 128 ? 3000 : 0};
    if ((fault & 0xc0) == 0xc0) {
        kernel.fault.after = 1 + (fault & 63);
        kernel.fault.error = errors[limits & 3];
    } else if ((fault & 0xc0) == 0x80) {
        switch (fault & 7) {
        case 0: options.slots = 5000; break;
        case 1: options.slot_bytes = 70000; break;
        case 2: options.fd = 9; break;
        case 3: options.tier = 7; break;
        case 4: ring_tiers = 0; break;
        case 5: options.cq_entries = 100000; break;
        case 6: options.fd = kernel_open(KERNEL_OTHER, AF_UNIX); break;
        default: break;
        }
    }
    struct udpring_reason why = {""};
    int code = udpring_recv_open(&model.recv, &options, &why);
    CLAIM(!code == !!model.recv && (!code || why.text[0]), "opening answers %d: %s", code, why.text);
    kernel.fault.after = 0;
    kernel.fault.hit = false;
    if (options.fd != model.fd && options.fd != 9)
        close(options.fd);
    CLAIM(!code || !(kernel_file(model.fd)->gro || kernel_file(model.fd)->timestamps), "an option stays on");
    if (code)
        return false;
    model.call = udpring_recv_call(model.recv);
    model.tier = udpring_recv_tier(model.recv);
    CLAIM(!udpring_recv_reason(model.recv)[0] == (options.tier != UDPRING_TIER_AUTO || model.tier == UDPRING_TIER_URING_MULTISHOT),
          "a tier for the reason \"%s\"", udpring_recv_reason(model.recv));
    return true;
}

/* Without faults, everything that arrived is received. */
static void finish(bool sleeping)
{
    uring_failing.enters = kernel.interrupts = kernel.fault.after = 0;
    sleeping = sleeping && udpring_recv_fileno(model.recv) >= 0;
    for (uint32_t i = 0; kernel_file(model.fd)->count || model.head != model.tail; i++) {
        CLAIM(i < TURNS_MOST, "%u messages are never received", kernel_file(model.fd)->count);
        while (model.held_count)
            release(0);
        threads_now_ns += 100000000;   /* no pause is longer */
        uring_poke();
        CLAIM(!sleeping || readable(), "%u messages are there, and the descriptor is not readable", kernel_file(model.fd)->count);
        if (receive(100, 0) && model.dead)
            return;
    }
    while (model.held_count)
        release(0);
    (void)receive(1, 0);
    struct udpring_recv_usage usage;
    udpring_recv_usage(model.recv, &usage);
    CLAIM(!usage.leased && !usage.copies, "%lu buffers and %lu bytes of copies are kept without a user", (unsigned long)usage.leased,
          (unsigned long)usage.copies);
    struct udpring_rx_stats stats;
    udpring_recv_stats(model.recv, &stats);
    CLAIM(stats.packets == model.datagrams && stats.bytes == model.bytes && stats.truncated == model.truncated &&
              stats.zero_length == model.empty, "%lu datagrams of %lu bytes counted, not %lu of %lu", (unsigned long)stats.packets,
          (unsigned long)stats.bytes, (unsigned long)model.datagrams, (unsigned long)model.bytes);
    CLAIM(stats.kernel_drops == model.drops && model.reported_drops <= model.drops, "%lu drops counted, not %u",
          (unsigned long)stats.kernel_drops, model.drops);
}

static void close_all(uint8_t how)
{
    if (how & 1 && !model.closed && !model.dead)
        finish(how & 2);
    uring_stuck = (how & 0x38) == 0x38;
    if (!model.closed && (how & 12) == 4) {
        model.call->max = 1;
        (void)udpring_recv_batch(model.call);   /* returned to no one */
    }
    if (!model.closed && (how & 12) != 12)
        close_ring((how & 0x30) == 0x30);
    if (!model.closed && how & 128) {   /* by a thread that may not: everything stays until the owner closes */
        ring_thread++;
        udpring_recv_free(model.recv);
        ring_thread--;
    }
    if (how & 64)
        udpring_recv_free(model.recv);
    while (model.held_count)
        release(how >> 7);
    if (!(how & 64))
        udpring_recv_free(model.recv);
    while (graves) {
        graves--;
        munmap(grave[graves].memory, grave[graves].bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {.bytes = bytes, .length = length};
    memset(&model, 0, sizeof(model));
    kernel_reset();
    uring_reset();
    kernel.active = true;
    kernel.received = received;
    threads_now_ns = 1000000000000u;
    threads_idle = idle;
    threads_switches = 0;
    if (open_ring(&input)) {
        uint8_t how = input_u8(&input);
        while (input_left(&input, 1))
            step(&input);
        kernel.fault.after = 0;
        close_all(how);
    }
    if (kernel_file(model.fd)) {
        CLAIM(model.gone || !kernel_file(model.fd)->gro, "an option stays on");
        close(model.fd);
    }
    threads_idle = NULL;
    kernel_reset();
    uring_reset();
    return 0;
}

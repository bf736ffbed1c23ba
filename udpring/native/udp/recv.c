/* Receiving for Python: batches that stay readable for as long as anything looks at them.
 *
 * 1. udpring_recv_batch takes back the batches that were released, waits, harvests, and leases the slots to a new batch;
 *    when too many are out already it copies instead and frees the slots at once, so that the kernel never starves
 *    because somebody keeps packets.
 * 2. udpring_batch_release, from whatever thread drops the last view, pushes the batch on a lock-free list.
 * 3. Close ends the receive side; the slots' memory goes with the handle and the last batch, so that another thread which
 *    is just about to use the handle finds it closed, not freed. */
#include "../base.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "counters.h"
#include "handle.h"
#include "rx.h"
#include "rx_tier.h"
#include "slots.h"
#include "socket.h"

#define WAKE_TOKEN 0

/* Owner: its udpring_recv; while out, the holder of the batch. Thread: the owner's, or the holder's. Freed with the
 * udpring_recv. */
struct batch {
    struct udpring_batch face;
    struct udpring_recv *recv;
    struct batch *next;               /* in `idle` or `returned` */
    uint8_t *copy;                    /* NULL: the packets lie in leased slots */
    struct udpring_packet packets[];
};

struct udpring_recv {
    struct udp_handle_owner owner;
    atomic_bool closed;               /* whoever sets it ends the receive side: once */
    struct udp_rx *rx;                /* NULL after close; the owner's thread, or whoever closes */
    struct udpring_rx_stats published;   /* for any thread: udp_counters_read() */
    struct udp_slots slots;           /* after close, until the last batch is gone */
    const uint8_t *base;
    uint64_t bytes;
    struct batch *idle;               /* owner's thread only */
    uint32_t batch_max, lease_limit;
    uint32_t leased;                  /* written by the owner; read by any thread, relaxed */
    int wake;                         /* eventfd */
    _Atomic(struct batch *) returned; /* pushed by any thread, taken whole by the owner */
    atomic_uint references;           /* the handle's and one a batch that is out */
};

static void free_batches(struct batch *batch)
{
    while (batch) {
        struct batch *next = batch->next;
        free(batch->copy);
        free(batch);
        batch = next;
    }
}

static void unreference(struct udpring_recv *recv)
{
    if (atomic_fetch_sub_explicit(&recv->references, 1, memory_order_acq_rel) != 1)
        return;
    free_batches(recv->idle);
    free_batches(atomic_load_explicit(&recv->returned, memory_order_acquire));
    udp_slots_unmap(&recv->slots);
    if (recv->wake >= 0)
        close(recv->wake);
    free(recv);
}

int32_t udpring_recv_open(struct udpring_recv **opened, const struct udpring_recv_options *options,
                          struct udpring_reason *why)
{
    *opened = NULL;
    struct udpring_recv *recv = calloc(1, sizeof(*recv));
    if (!recv)
        return ur_fail(why, -ENOMEM, "no memory for a receive ring");
    atomic_init(&recv->references, 1);
    recv->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int code = recv->wake < 0 ? ur_fail(why, -errno, "no eventfd: %s", strerror(errno)) : 0;
    if (!code)
        code = udp_handle_claim(&recv->owner);
    if (!code)
        code = udp_socket_prepare(options->fd, why);
    struct udp_rx_options inner = {
        .tier = options->tier, .slots = options->slots, .slot_bytes = options->slot_bytes, .sockets = 1,
        .fd = {options->fd}, .gro = options->gro};
    if (!code)
        code = udp_rx_open(&recv->rx, &inner, why);
    if (!code) {
        code = udp_rx_watch(recv->rx, recv->wake, POLLIN, WAKE_TOKEN);
        if (code)
            ur_fail(why, code, "the wake-up descriptor cannot be watched: %s", strerror(-code));
    }
    if (code) {
        (void)udp_rx_close(recv->rx);
        unreference(recv);
        return code;
    }
    recv->base = recv->rx->slots.base;
    recv->bytes = recv->rx->slots.bytes;
    recv->batch_max = recv->rx->slots.count;
    recv->lease_limit = options->lease_limit ? options->lease_limit : recv->batch_max / 2;
    *opened = recv;
    return 0;
}

static void publish(struct udpring_recv *recv)
{
    udp_counters_publish(&recv->published, udp_rx_stats(recv->rx), sizeof(recv->published));
}

static void lease(struct udpring_recv *recv, uint32_t leased)
{
    __atomic_store_n(&recv->leased, leased, __ATOMIC_RELAXED);
}

static void release_slots(struct udpring_recv *recv, const struct batch *batch)
{
    for (uint32_t i = 0; i < batch->face.count; i++)
        udp_rx_release(recv->rx, batch->packets[i].slot);
}

/* Takes back what was released since the last call. */
static void reclaim(struct udpring_recv *recv)
{
    struct batch *batch = atomic_exchange_explicit(&recv->returned, NULL, memory_order_acquire);
    while (batch) {
        struct batch *next = batch->next;
        if (batch->copy) {
            free(batch->copy);
            batch->copy = NULL;
        } else {
            lease(recv, recv->leased - batch->face.count);
            release_slots(recv, batch);
        }
        batch->next = recv->idle;
        recv->idle = batch;
        batch = next;
    }
}

static struct batch *take_batch(struct udpring_recv *recv)
{
    struct batch *batch = recv->idle;
    if (batch) {
        recv->idle = batch->next;
        return batch;
    }
    batch = malloc(sizeof(*batch) + recv->batch_max * sizeof(batch->packets[0]));
    if (batch) {
        batch->recv = recv;
        batch->copy = NULL;
    }
    return batch;
}

/* Moves the packets out of their slots into one block. -ENOMEM: they stay where they are. */
static int copy_out(struct udpring_recv *recv, struct batch *batch)
{
    size_t bytes = 0, at = 0;
    for (uint32_t i = 0; i < batch->face.count; i++)
        bytes += batch->packets[i].length;
    uint8_t *block = malloc(bytes ? bytes : 1);
    if (!block)
        return -ENOMEM;
    release_slots(recv, batch);   /* the kernel gets them at the next wait, not before */
    for (uint32_t i = 0; i < batch->face.count; i++) {
        struct udpring_packet *packet = &batch->packets[i];
        memcpy(block + at, packet->data, packet->length);
        packet->data = block + at;
        at += packet->length;
    }
    batch->copy = block;
    batch->face.base = block;
    batch->face.bytes = bytes;
    return 0;
}

static int wait_and_harvest(struct udpring_recv *recv, struct batch *batch, uint32_t max, int64_t timeout_ns)
{
    int64_t deadline = timeout_ns > 0 ? (int64_t)ur_clock_ns(CLOCK_MONOTONIC) + timeout_ns : 0;
    while (!(batch->face.count = udp_rx_harvest(recv->rx, batch->packets, max))) {
        if (udp_rx_watched(recv->rx) & 1u << WAKE_TOKEN) {
            eventfd_t ignored;
            (void)eventfd_read(recv->wake, &ignored);
            int code = udp_rx_watch(recv->rx, recv->wake, POLLIN, WAKE_TOKEN);
            return code ? code : -ECANCELED;
        }
        int64_t left = timeout_ns;
        if (timeout_ns > 0) {
            left = deadline - (int64_t)ur_clock_ns(CLOCK_MONOTONIC);
            left = left > 0 ? left : 0;
        }
        publish(recv);
        int code = udp_rx_wait(recv->rx, left);
        if (code)
            return code;
    }
    return 0;
}

int32_t udpring_recv_batch(struct udpring_recv *recv, uint32_t max, int64_t timeout_ns, struct udpring_batch **taken)
{
    *taken = NULL;
    int code = udp_handle_check(&recv->owner);
    if (code)
        return code;
    if (!recv->rx)
        return -ECANCELED;
    reclaim(recv);
    struct batch *batch = take_batch(recv);
    if (!batch)
        return -ENOMEM;
    code = wait_and_harvest(recv, batch, max < recv->batch_max ? max : recv->batch_max, timeout_ns);
    publish(recv);
    if (code) {
        batch->next = recv->idle;
        recv->idle = batch;
        return code;
    }
    batch->face.base = recv->base;
    batch->face.bytes = recv->bytes;
    batch->face.packets = batch->packets;
    /* Without memory for a copy the slots are leased beyond the limit, rather than the packets lost. */
    if (recv->leased + batch->face.count <= recv->lease_limit || copy_out(recv, batch))
        lease(recv, recv->leased + batch->face.count);
    atomic_fetch_add_explicit(&recv->references, 1, memory_order_relaxed);
    *taken = &batch->face;
    return 0;
}

void udpring_batch_release(struct udpring_batch *face)
{
    struct batch *batch = (struct batch *)face;
    struct udpring_recv *recv = batch->recv;
    batch->next = atomic_load_explicit(&recv->returned, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&recv->returned, &batch->next, batch, memory_order_release,
                                                  memory_order_relaxed))
        ;
    unreference(recv);
}

void udpring_recv_wake(struct udpring_recv *recv)
{
    (void)eventfd_write(recv->wake, 1);
}

int32_t udpring_recv_close(struct udpring_recv *recv)
{
    int code = udp_handle_check_close(&recv->owner);
    if (code)
        return code;
    if (atomic_exchange(&recv->closed, true))
        return 0;
    publish(recv);
    (void)udp_rx_close_keeping_slots(recv->rx, &recv->slots);   /* what the kernel kept is in the graveyard, counted */
    recv->rx = NULL;
    return 0;
}

void udpring_recv_free(struct udpring_recv *recv)
{
    if (!recv->closed && udpring_recv_close(recv))
        return;   /* in use by the kernel, and only a thread that is not here could stop it: it stays */
    unreference(recv);
}

uint32_t udpring_recv_tier(const struct udpring_recv *recv)
{
    return recv->rx ? udp_rx_tier(recv->rx) : 0;
}

const char *udpring_recv_reason(const struct udpring_recv *recv)
{
    return recv->rx ? udp_rx_tier_reason(recv->rx) : "";
}

void udpring_recv_stats(const struct udpring_recv *recv, struct udpring_rx_stats *stats)
{
    udp_counters_read(stats, &recv->published, sizeof(*stats));
}

uint32_t udpring_recv_leased(const struct udpring_recv *recv)
{
    return __atomic_load_n(&recv->leased, __ATOMIC_RELAXED);
}

/* Receiving for Python: batches that stay readable while the program has views of them.
 *
 * 1. udpring_recv_batch takes back the released batches, waits for the first datagram, gathers the ready ones, and returns them
 *    as a batch (batches.h splits trains into datagrams).
 * 2. udpring_batch_release returns a batch. It runs in the thread that drops the last view.
 * 3. Close ends the receive side. The handle and the slots' memory are freed after the last batch. So another thread that is
 *    about to use the handle finds it closed, not freed. */
#include "../base.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "../uring/thread.h"

#include "../udp/handle.h"
#include "../udp/rx.h"
#include "../udp/rx_tier.h"
#include "../udp/slots.h"
#include "../udp/socket.h"

#include "batches.h"
#include "counters.h"

#define WAKE_TOKEN 0
#define COPY_LIMIT_DEFAULT (256u << 20)
#define CHECKED_IN_A_WAIT 256u     /* sockets of many that a wait without an event looks at, */
#define LOOK_EVERY 16u             /* single datagrams, until one call looks whether another one waits */
#define CHECKED_AGAIN_NS 10000000u /* but after this time at the earliest where it did not wait at all: the look takes 0.1 ms */

/* Owner and thread: see abi.h. Freed when closed and the last batch is released. */
struct udpring_recv {
    struct udp_handle_owner owner;
    struct udp_handle_socket socket;  /* of a ring with one socket */
    bool many, passive;               /* the sockets come and go. The caller polls them */
    uint8_t wants;                    /* enum udp_socket_wants, for sockets that come */
    uint32_t alone;                   /* datagrams of udpring_recv_one, for LOOK_EVERY */
    uint64_t checked_ns;              /* of many: the last look at CHECKED_IN_A_WAIT of them */
    atomic_bool closed;               /* the thread that sets it ends the receive side, once */
    struct udp_rx *rx;                /* NULL after close. For the owner's thread, or the thread that closes */
    struct udpring_rx_stats published;   /* for any thread: udp_counters_read() */
    struct udpring_recv_usage published_usage;   /* like `published` */
    struct udp_slots slots;           /* after close, until the last batch is released */
    struct udp_batches batches;
    struct udpring_recv_call call;
    int wake;                         /* eventfd */
    int event;                        /* eventfd: readable while recv_batch would return at once. See prepare_poll() */
    _Atomic int pollable;             /* result of udpring_recv_fileno. -1: not called yet */
    bool raised;                      /* the owner wrote to `event` and did not clear it since. Owner's thread */
    atomic_bool hungry;               /* a release must write to `event` */
    atomic_bool risen;                /* a thread wrote to `event` since it was cleared. Does not cover the kernel's writes */
    bool kernel_raises;               /* the kernel may write to `event` at any time */
    _Atomic(struct udpring_batch *) given;   /* the last batch until its release. Its caller may not have taken it */
    atomic_uint references;           /* one for the handle and one for each batch not yet released */
};

static void unreference(struct udpring_recv *recv)
{
    if (atomic_fetch_sub_explicit(&recv->references, 1, memory_order_acq_rel) != 1)
        return;
    udp_batches_free(&recv->batches);
    udp_slots_unmap(&recv->slots);
    if (recv->wake >= 0)
        close(recv->wake);
    if (recv->event >= 0)
        close(recv->event);
    free(recv);
}

/* Any thread. In this order clear_event() may read once too often, but never misses a write. */
static void raise_event(struct udpring_recv *recv)
{
    if (recv->event >= 0)
        (void)eventfd_write(recv->event, 1);
    atomic_store(&recv->risen, true);
}

static void clear_event(struct udpring_recv *recv)
{
    eventfd_t ignored;
    if (atomic_exchange(&recv->risen, false) || recv->kernel_raises)
        (void)eventfd_read(recv->event, &ignored);
}

static void publish(struct udpring_recv *recv)
{
    udp_counters_publish(&recv->published, udp_rx_stats(recv->rx), sizeof(recv->published));
    udp_counters_publish(&recv->published_usage, &recv->batches.usage, sizeof(recv->published_usage));
}

int32_t udpring_recv_open(struct udpring_recv **opened, const struct udpring_recv_options *options,
                          struct udpring_reason *why)
{
    *opened = NULL;
    struct udpring_recv *recv = calloc(1, sizeof(*recv));
    if (!recv)
        return ur_fail(why, -ENOMEM, "no memory for a receive ring");
    atomic_init(&recv->references, 1);
    recv->pollable = -1;
    recv->many = options->many;
    recv->passive = options->passive;
    recv->wake = recv->passive ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    recv->event = recv->passive ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    bool failed = !recv->passive && (recv->wake < 0 || recv->event < 0);
    int code = failed ? ur_fail(why, -errno, "no eventfd: %s", strerror(errno)) : 0;
    recv->wants = (uint8_t)((options->locals ? UDP_SOCKET_LOCAL : 0) | (options->tos ? UDP_SOCKET_TOS : 0));
    if (!code)
        code = udp_handle_claim(&recv->owner);
    if (!code && !recv->many) {
        code = udp_handle_claim_socket(&recv->socket, options->fd);
        if (code)
            ur_fail(why, code, "descriptor %d is not an open socket: %s", options->fd, strerror(-code));
        else
            code = udp_socket_prepare(options->fd, recv->wants, why);
    }
    struct udp_rx_options inner = {
        .tier = options->tier, .slots = options->slots, .slot_bytes = options->slot_bytes, .sockets = !recv->many,
        .fd = {recv->many ? -1 : options->fd}, .many = recv->many, .passive = recv->passive, .gro = options->gro, .gro_may_fail = options->gro == UDPRING_GRO_TRY,
        .timestamps = options->timestamps, .cq_entries = options->cq_entries,
        .pollable = true, .direct = true};
    if (!code)
        code = udp_rx_open(&recv->rx, &inner, why);
    if (!code && !recv->passive) {
        code = udp_rx_watch(recv->rx, recv->wake, POLLIN, WAKE_TOKEN);
        if (code)
            ur_fail(why, code, "the wake-up descriptor cannot be watched: %s", strerror(-code));
    }
    if (!code) {
        code = udp_batches_open(&recv->batches, recv->rx, recv->rx->slots.count);
        if (code)
            ur_fail(why, code, "no memory for a receive ring");
    }
    if (code) {
        (void)udp_rx_close(recv->rx);
        unreference(recv);
        return code;
    }
    recv->call.recv = recv;
    recv->kernel_raises = udp_rx_tier(recv->rx) != UDPRING_TIER_MMSG;
    recv->batches.usage.lease_limit = options->lease_limit ? options->lease_limit : recv->rx->slots.count / 2;
    recv->batches.usage.copy_limit = options->copy_limit ? options->copy_limit : COPY_LIMIT_DEFAULT;
    recv->batches.whole_trains = options->whole_trains;
    publish(recv);
    *opened = recv;
    return 0;
}

/* After a wait without an event. A multishot operation would wait for ever on a socket that was shut down, and nobody hears of a
 * closed one. */
static int check_quiet(struct udpring_recv *recv, bool waited)
{
    if (!recv->many)
        return udp_handle_check_reading(&recv->socket) ? -ESHUTDOWN : -ETIME;
    uint64_t now = ur_clock_ns(CLOCK_MONOTONIC);
    if (waited || now - recv->checked_ns >= CHECKED_AGAIN_NS) {
        recv->checked_ns = now;
        udp_rx_check(recv->rx, CHECKED_IN_A_WAIT);
    }
    return udp_rx_any_ended(recv->rx) ? -ENOLINK : -ETIME;
}

/* Waits for the first datagram, unless one is ready. */
static int wait_and_gather(struct udpring_recv *recv, struct udpring_recv_call *call, struct udp_share *share)
{
    int64_t timeout_ns = call->timeout_ns, deadline = 0;
    uint32_t max = call->max ? call->max : 1;
    int code;
    while (!(code = udp_batches_gather(&recv->batches, max, share)) && !share->messages) {
        if (udp_rx_watched(recv->rx) & 1u << WAKE_TOKEN) {
            eventfd_t ignored;
            (void)eventfd_read(recv->wake, &ignored);
            code = udp_rx_watch(recv->rx, recv->wake, POLLIN, WAKE_TOKEN);
            return code ? code : -ECANCELED;
        }
        if (ur_unlikely(udp_rx_any_ended(recv->rx)))
            return -ENOLINK;
        int64_t left = timeout_ns;
        if (timeout_ns > 0) {
            if (!deadline) {   /* read only here: a datagram that is ready needs no clock */
                call->began_ns = (int64_t)ur_clock_ns(CLOCK_MONOTONIC);
                deadline = call->began_ns + timeout_ns;
            }
            left = deadline - (int64_t)ur_clock_ns(CLOCK_MONOTONIC);
            left = left > 0 ? left : 0;
        }
        publish(recv);
        bool is_short = recv->rx->short_of_memory;   /* the wait pauses for it and clears it */
        code = udp_rx_wait(recv->rx, left);
        if (ur_unlikely(!code && !left && (is_short || recv->rx->short_of_memory)))
            return -ETIME;   /* the time is over, and memory may be short for long */
        if (code)
            return code == -ETIME ? check_quiet(recv, timeout_ns != 0) : code;
    }
    return code;
}

/* The kernel keeps a closed socket alive for an operation, which then does not fail. Of many sockets each call looks at one. */
static int check_open(struct udpring_recv *recv)
{
    if (!recv->many)
        return udp_handle_check_socket(&recv->socket);
    udp_rx_check(recv->rx, 1);
    return ur_unlikely(udp_rx_any_ended(recv->rx)) && !udp_batches_waiting(&recv->batches) ? -ENOLINK : 0;
}

/* What is there of one socket that the caller polls. */
static int gather_from(struct udpring_recv *recv, const struct udpring_recv_call *call, struct udp_share *share)
{
    int code = udp_rx_member_error(recv->rx, call->number, true);
    udp_batches_reclaim(&recv->batches);
    if (!code)
        code = udp_batches_gather_from(&recv->batches, call->number, call->max ? call->max : 1, share);
    if (!code && !share->messages)
        code = udp_rx_member_error(recv->rx, call->number, false);
    return code || share->messages ? code : -ETIME;
}

/* What is there of any socket, or a wait for it. */
static int gather(struct udpring_recv *recv, struct udpring_recv_call *call, struct udp_share *share)
{
    int code = check_open(recv);
    if (code)
        return code;
    udp_batches_reclaim(&recv->batches);
    if (recv->kernel_raises)
        udp_rx_look(recv->rx);
    else
        udp_rx_notify(recv->rx);
    return wait_and_gather(recv, call, share);
}

static int next_batch(struct udpring_recv *recv, struct udpring_recv_call *call, struct udpring_batch **batch)
{
    struct udp_share share = {0};
    int code = recv->passive ? gather_from(recv, call, &share) : gather(recv, call, &share);
    if (!code)
        code = udp_batches_build(&recv->batches, &share, recv, batch);
    if (!code)
        atomic_fetch_add_explicit(&recv->references, 1, memory_order_relaxed);
    publish(recv);
    return code;
}

static bool pending(const struct udpring_recv *recv)
{
    return udp_batches_waiting(&recv->batches) || udp_rx_pending(recv->rx);
}

/* Call before the owner waits in an event loop. Makes `event` readable exactly if datagrams can be fetched. Does nothing
 * without a poller. The order (arm, clear, check again) catches arrivals in between. */
static void prepare_poll(struct udpring_recv *recv)
{
    if (recv->pollable < 0)
        return;
    bool hungry = udp_rx_prepare_poll(recv->rx);
    atomic_store(&recv->hungry, hungry);
    if (!pending(recv)) {
        clear_event(recv);
        recv->raised = false;
        if (!(hungry && udp_batches_returned(&recv->batches)) && !pending(recv))
            return;
    }
    if (!recv->raised)
        raise_event(recv);
    recv->raised = true;
}

int32_t udpring_recv_fileno(struct udpring_recv *recv)
{
    if (recv->pollable >= 0)
        return recv->pollable;
    int code = udp_handle_check(&recv->owner);
    if (code)
        return code;
    if (!recv->rx)
        return -ECANCELED;
    if (recv->passive)
        return -EINVAL;   /* nothing of it can be polled */
    code = udp_rx_pollable(recv->rx, recv->event);
    if (code < 0)
        return code;
    recv->pollable = code;
    prepare_poll(recv);
    return code;
}

static int check_many(const struct udpring_recv *recv)
{
    int code = udp_handle_check(&recv->owner);
    return code ? code : !recv->rx ? -ECANCELED : recv->many ? 0 : -EINVAL;
}

int64_t udpring_recv_add(struct udpring_recv *recv, int32_t fd, struct udpring_reason *why)
{
    int64_t code = check_many(recv);
    if (!code)
        code = udp_socket_prepare(fd, recv->wants, why);
    if (!code)
        code = udp_rx_add(recv->rx, fd, why);
    if (code >= 0)
        prepare_poll(recv);
    return code;
}

/* A member left: what was received of it goes with it, because its number may be another socket's soon. */
static void forget(struct udpring_recv *recv, uint32_t number)
{
    recv->rx->stats.removed += udp_batches_drop(&recv->batches, number);
    publish(recv);
    prepare_poll(recv);
}

int32_t udpring_recv_remove(struct udpring_recv *recv, uint32_t number)
{
    int code = check_many(recv);
    if (!code)
        code = udp_rx_remove(recv->rx, number);
    if (!code)
        forget(recv, number);
    return code;
}

int64_t udpring_recv_ended(struct udpring_recv *recv, int32_t *error)
{
    int64_t code = check_many(recv);
    if (!code)
        code = udp_rx_ended(recv->rx, error);
    if (code >= 0)
        forget(recv, (uint32_t)code);
    return code;
}

int32_t udpring_recv_error(struct udpring_recv *recv)
{
    return recv->rx ? udp_rx_icmp_error(recv->rx) : 0;
}

/* Copies the columns of a batch of few datagrams into the call. */
static void tell_few(struct udpring_recv_call *call, const struct udpring_batch *batch)
{
    _Static_assert(sizeof(call->few) == UDPRING_RECV_FEW * UDPRING_RECV_FEW_BYTES, "room for each");
    _Static_assert(UDPRING_RECV_FEW_BYTES == UDPRING_RECV_COLUMNS_BYTES + sizeof(struct udpring_address), "of each");
    size_t columns = (size_t)batch->count * UDPRING_RECV_COLUMNS_BYTES;
    if (batch->count > UDPRING_RECV_FEW)
        return;
    memcpy(call->few, batch->columns, columns);
    udpring_batch_spread(batch, offsetof(struct udpring_packet, source), sizeof(struct udpring_address), call->few + columns);
}

int32_t udpring_recv_batch(struct udpring_recv_call *call)
{
    struct udpring_recv *recv = call->recv;
    int code = udp_handle_check(&recv->owner);
    if (code)
        return code;
    call->began_ns = 0;
    if (!recv->rx)
        return -ECANCELED;
    struct udpring_batch *batch = call->batch;
    if (ur_unlikely(batch && recv->passive && atomic_load_explicit(&recv->given, memory_order_relaxed) == batch &&
                    batch->messages[0].socket_index != call->number)) {   /* an exception kept its socket from fetching it */
        recv->rx->stats.removed += batch->count;
        udpring_batch_release(batch, NULL);
    }
    if (ur_likely(!batch || atomic_load_explicit(&recv->given, memory_order_relaxed) != batch)) {
        call->batch = batch = NULL;
        code = next_batch(recv, call, &batch);
        prepare_poll(recv);
        if (code)
            return code;
    }
    call->batch = batch;
    call->base = batch->base;
    call->bytes = batch->bytes;
    call->count = batch->count;
    tell_few(call, batch);
    atomic_store_explicit(&recv->given, batch, memory_order_relaxed);
    return 0;
}

int32_t udpring_recv_one(struct udpring_alone *alone)
{
    struct udpring_recv *recv = alone->recv;
    if (!recv || udp_handle_check(&recv->owner) || !recv->rx || recv->call.batch)
        return -EAGAIN;
    udp_batches_reclaim(&recv->batches);
    struct udpring_address source;
    int length;
    if (recv->passive) {
        length = udp_batches_one_from(&recv->batches, alone->number, &source, alone->payload, sizeof(alone->payload));
    } else {
        udp_rx_notify(recv->rx);
        /* A second completion shows at no cost that more is waiting. A second message costs its part of a recvmmsg. */
        length = udp_batches_one(&recv->batches, recv->kernel_raises ? 2 : 1, &source, alone->payload, sizeof(alone->payload));
    }
    publish(recv);
    if (!recv->passive)
        prepare_poll(recv);
    if (length < 0)
        return length;
    bool more = udp_batches_waiting(&recv->batches) || recv->rx->icmp.count;
    if (!more && !recv->kernel_raises && ++recv->alone % LOOK_EVERY == 0)
        more = udp_rx_waits(recv->rx, alone->number);
    if (memcmp(&alone->source, &source, sizeof(source)) != 0) {
        alone->source = source;
        alone->other = true;
    }
    return length + (more ? UDPRING_ONE_MORE : 0) + (alone->other ? UDPRING_ONE_OTHER : 0);
}

void udpring_batch_spread(const struct udpring_batch *batch, uint32_t offset, uint32_t bytes, uint8_t *to)
{
    for (uint32_t i = 0; i < batch->message_count; i++) {
        const struct udpring_packet *message = &batch->messages[i];
        uint32_t size = batch->whole_trains ? 0 : message->segment_size;
        uint32_t count = size ? (message->length + size - 1) / size : 1;
        for (; count; count--, to += bytes)
            memcpy(to, (const uint8_t *)message + offset, bytes);
    }
}

void udpring_batch_release(struct udpring_batch *batch, const uint8_t *base)
{
    struct udpring_recv *recv = udp_batches_recv(batch);
    struct udpring_batch *given = batch;
    atomic_compare_exchange_strong_explicit(&recv->given, &given, NULL, memory_order_relaxed, memory_order_relaxed);
    udp_batches_return(&recv->batches, batch);
    if (atomic_load(&recv->hungry))   /* read after the push. prepare_poll() sets it before it checks the list */
        raise_event(recv);
    unreference(recv);
}

int32_t udpring_recv_move(struct udpring_recv *recv)
{
    bool movable = recv->rx && udp_rx_tier(recv->rx) == UDPRING_TIER_MMSG && recv->owner.forks == ur_fork_count();
    return movable ? udp_handle_claim(&recv->owner) : -EXDEV;
}

void udpring_recv_wake(struct udpring_recv *recv)
{
    if (recv->wake >= 0)
        (void)eventfd_write(recv->wake, 1);
    raise_event(recv);   /* the owner may be in an event loop */
}

int32_t udpring_recv_close(struct udpring_recv *recv)
{
    int code = udp_handle_check_close(&recv->owner);
    if (code)
        return code;
    if (atomic_exchange(&recv->closed, true))
        return 0;
    publish(recv);
    if (recv->call.batch && atomic_load_explicit(&recv->given, memory_order_relaxed) == recv->call.batch)
        udpring_batch_release(recv->call.batch, NULL);   /* returned by a call, but not taken over */
    recv->call.batch = NULL;
    (void)udp_rx_close_keeping_slots(recv->rx, &recv->slots);   /* slots that the kernel still uses go to the graveyard */
    recv->rx = recv->batches.rx = NULL;
    return 0;
}

void udpring_recv_free(struct udpring_recv *recv)
{
    if (!recv->closed && udpring_recv_close(recv))
        return;   /* the kernel uses it, and only another thread can stop that: never free it */
    unreference(recv);
}

struct udpring_recv_call *udpring_recv_call(struct udpring_recv *recv)
{
    return &recv->call;
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

void udpring_recv_usage(const struct udpring_recv *recv, struct udpring_recv_usage *usage)
{
    udp_counters_read(usage, &recv->published_usage, sizeof(*usage));
}

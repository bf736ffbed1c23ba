/* Tier uring-pool: a pool of single recvmsg operations in flight, each with its own slot.
 *
 * 1. arm: resets the header fields of the free slots and queues their receives. The wait submits them.
 * 2. complete: the kernel has written the lengths of name and control data and the flags into the slot's msghdr.
 * The order of completions is the order in which the kernel took the datagrams from the socket, in whatever slot they are.
 *
 * The window: one datagram wakes every waiting operation, and all but one wake for nothing (with 64 in flight and trains of
 * 200-byte datagrams a receive takes 82 ns a datagram, with 8 in flight 33). At first all slots are armed. Later only about
 * twice as many as a pass receives. When a pass uses all operations in flight, their number doubles at once.
 *
 * Renewal: after 128 wakes without a datagram (APOLL_MAX_RETRY) the kernel moves an operation to a worker thread, which
 * receives concurrently, so that its datagrams arrive out of order. So an operation that has waited long is cancelled and armed
 * again. A cancel misses an operation that the kernel is about to retry. The next renewal checks it again.
 *
 * Errors: an entry in the error queue (IP_RECVERR, transmit timestamps) makes the kernel retry all operations at once, up to
 * all 128 times, and then no cancel finds them. So a poll for errors reports the entries, and they are read from the queue. */
#include "../base.h"

#include <stdlib.h>
#include <sys/socket.h>

#include "rx_uring.h"

/* The header of each slot, before the payload. The kernel may write to all of it until the operation ends (R5). */
struct slot_header {
    struct msghdr header;
    struct iovec iov;
    uint8_t name[UDP_RX_NAME_BYTES];
    uint8_t control[UDP_RX_CONTROL_BYTES];
    uint8_t pad[8];
};

#define WINDOW_LEAST 8u
#define WINDOW_PASSES 256u     /* after this many passes the window is set by the largest of them */

#define RENEW_WAKES 16u        /* renew operations that waited through this many wakes: done by 32, missed ones by 48 */
#define WAKES_BY_ERROR 4u      /* retries that an error may cost an operation before it is read */
#define NOT_WAITING 0u         /* in armed_at: not in the kernel */

struct pool_window {
    uint32_t most;             /* operations that should be in flight */
    uint32_t taken, peak, passes;   /* datagrams of this pass and of the largest one. Passes since the last fit */
    bool renewed;              /* in this pass, operations ended because they were cancelled */
};

/* Counts the passes in which something arrived, from 1 on. Each wakes every waiting operation. */
struct pool_wakes {
    uint32_t now, renewed;     /* current count, and the count at the last search for old operations */
    uint32_t woken;            /* in this pass */
};

struct pool_rx {
    struct uring_rx uring;
    struct pool_window window[UDP_RX_SOCKETS_MAX];
    struct pool_wakes wakes[UDP_RX_SOCKETS_MAX];
    uint32_t *armed_at;                   /* [slots.count]: wakes.now when the operation began to wait */
    bool starved[UDP_RX_SOCKETS_MAX];     /* this starvation is already counted */
};

static struct slot_header *header_of(const struct udp_rx *rx, uint32_t slot)
{
    return (struct slot_header *)(void *)udp_slot(&rx->slots, slot);
}

static void arm_slot(struct uring_rx *uring, struct io_uring_sqe *sqe, uint32_t slot)
{
    struct udp_rx *rx = &uring->rx;
    struct slot_header *header = header_of(rx, slot);
    header->iov = (struct iovec){.iov_base = header + 1, .iov_len = rx->slot_bytes};
    header->header = (struct msghdr){
        .msg_name = header->name, .msg_namelen = sizeof(header->name), .msg_iov = &header->iov, .msg_iovlen = 1,
        .msg_control = header->control, .msg_controllen = sizeof(header->control)};
    sqe->opcode = IORING_OP_RECVMSG;
    sqe->fd = rx->fd[slot >= rx->per_socket];
    sqe->addr = (uint64_t)(uintptr_t)&header->header;
    sqe->len = 1;
    sqe->user_data = ur_ops_arm(&uring->ops, slot);
    ((struct pool_rx *)uring)->armed_at[slot] = ((struct pool_rx *)uring)->wakes[slot >= rx->per_socket].now;
}

static uint32_t armed(const struct uring_rx *uring, uint32_t socket)
{
    return uring->rx.per_socket - udp_rx_vector_idle(&uring->idle[socket]) - uring->out[socket];
}

static void fit_window(struct pool_rx *pool, uint32_t socket)
{
    struct pool_window *window = &pool->window[socket];
    uint32_t all = pool->uring.rx.per_socket;
    if (window->taken > window->peak)
        window->peak = window->taken;
    if (window->taken && !armed(&pool->uring, socket) && !window->renewed && window->most < all) {
        window->most *= 2;   /* more datagrams may be waiting */
        window->passes = 0;
    }
    window->taken = 0;
    window->renewed = false;
    if (++window->passes >= WINDOW_PASSES) {
        window->most = 2 * window->peak > WINDOW_LEAST ? 2 * window->peak : WINDOW_LEAST;
        window->passes = window->peak = 0;
    }
    if (window->most > all)
        window->most = all;
    if (pool->uring.rx.direct)
        window->most = 1;   /* it ends the wait and brings the first datagram. The others are received directly */
}

/* Cancels the operations that waited through RENEW_WAKES wakes. Each completes as cancelled or with a datagram, in order. */
static void renew(struct pool_rx *pool, uint32_t socket)
{
    struct uring_rx *uring = &pool->uring;
    struct pool_wakes *wakes = &pool->wakes[socket];
    wakes->now += wakes->woken;
    wakes->woken = 0;
    if (wakes->now - wakes->renewed < RENEW_WAKES)
        return;
    uint32_t old = wakes->renewed;
    wakes->renewed = wakes->now;
    if (ur_unlikely(wakes->now > UINT32_MAX / 2)) {   /* restart the count. All operations count as new */
        for (uint32_t i = 0; i < uring->rx.slots.count; i++)
            pool->armed_at[i] = pool->armed_at[i] != NOT_WAITING;
        for (uint32_t i = 0; i < uring->rx.sockets; i++)
            pool->wakes[i].now = pool->wakes[i].renewed = 1;
        return;
    }
    uint32_t end = (socket + 1) * uring->rx.per_socket;
    for (uint32_t slot = socket * uring->rx.per_socket; slot < end; slot++) {
        if (pool->armed_at[slot] == NOT_WAITING || pool->armed_at[slot] > old)
            continue;
        struct io_uring_sqe *sqe = ur_sqe_or_submit(&uring->ring);
        if (!sqe)
            return;   /* the next call checks the rest */
        uint64_t user_data = ur_ops_in_flight(&uring->ops, slot);
        sqe->opcode = IORING_OP_ASYNC_CANCEL;
        sqe->fd = -1;
        sqe->addr = user_data;
        sqe->user_data = UR_USER_DATA(UR_KIND_CANCEL, UR_GENERATION(user_data), slot);
    }
}

static void arm(struct uring_rx *uring)
{
    struct pool_rx *pool = (struct pool_rx *)uring;
    struct udp_rx *rx = &uring->rx;
    for (uint32_t i = 0; i < rx->sockets; i++) {
        bool starved = !rx->direct && uring->out[i] == rx->per_socket;   /* about to wait without an operation in flight */
        rx->stats.starved += starved && !pool->starved[i];
        pool->starved[i] = starved;
        fit_window(pool, i);
        if (ur_unlikely(uring_rx_watch_errors(uring, i)))
            pool->wakes[i].woken = WAKES_BY_ERROR;
        renew(pool, i);
        if (uring_rx_paused(uring, i))
            continue;
        for (uint32_t in_flight = armed(uring, i); udp_rx_vector_idle(&uring->idle[i]) && in_flight < pool->window[i].most; in_flight++) {
            struct io_uring_sqe *sqe = ur_sqe_or_submit(&uring->ring);
            if (!sqe)
                return;   /* the next pass arms the rest */
            arm_slot(uring, sqe, udp_rx_vector_take(&uring->idle[i]));
        }
    }
}

static bool complete(struct uring_rx *uring, const struct io_uring_cqe *cqe, struct udpring_packet *packet)
{
    struct pool_rx *pool = (struct pool_rx *)uring;
    struct udp_rx *rx = &uring->rx;
    int64_t resolved = ur_ops_resolve(&uring->ops, cqe->user_data);
    if (ur_unlikely(resolved < 0)) {
        rx->stats.stale++;
        return false;
    }
    uint32_t slot = (uint32_t)resolved, socket = slot >= rx->per_socket;
    ur_ops_done(&uring->ops, slot);
    pool->armed_at[slot] = NOT_WAITING;
    if (cqe->res == -ECANCELED)
        pool->window[socket].renewed = true;
    else
        pool->wakes[socket].woken = 1;
    if (ur_unlikely(cqe->res < 0)) {
        udp_rx_vector_give(&uring->idle[socket], slot);
        if (cqe->res != -ECANCELED)
            uring_rx_failed(uring, socket, ur_errno(cqe->res));
        return false;
    }
    uring->backoff[socket].run = 0;
    struct slot_header *header = header_of(rx, slot);
    if (ur_unlikely(!cqe->res && !header->header.msg_namelen)) {
        /* Every datagram has a source, so this is the end of file of a socket that was shut down. */
        udp_rx_vector_give(&uring->idle[socket], slot);
        (void)udp_rx_fail(rx, ESHUTDOWN);
        return false;
    }
    struct udp_rx_message message = {
        .name = (const struct sockaddr_storage *)(const void *)header->name,
        .name_length = header->header.msg_namelen <= UDP_RX_NAME_BYTES ? header->header.msg_namelen : UDP_RX_NAME_BYTES,
        .control = header->control, .control_length = (uint32_t)header->header.msg_controllen,
        .flags = (uint32_t)header->header.msg_flags, .socket = socket, .drops = &rx->drops[socket]};
    udp_rx_deliver(rx, packet, slot, (uint8_t *)(header + 1), (uint32_t)cqe->res, &message);
    uring->out[socket]++;
    uring->look[socket] = true;
    pool->window[socket].taken++;
    return true;
}

static int pool_open(struct udp_rx *rx, struct udpring_reason *why)
{
    _Static_assert(sizeof(struct slot_header) % 64 == 0, "the payload starts on a cache line");
    struct pool_rx *pool = (struct pool_rx *)rx;
    pool->uring.arm = arm;
    pool->uring.armed = armed;
    pool->uring.complete = complete;
    pool->armed_at = calloc(rx->slots.count, sizeof(*pool->armed_at));
    if (!pool->armed_at)
        return ur_fail(why, -ENOMEM, "no memory for a receive ring");
    for (uint32_t i = 0; i < rx->sockets; i++) {
        pool->wakes[i].now = pool->wakes[i].renewed = 1;
        pool->window[i].most = rx->per_socket;
    }
    return uring_rx_open(&pool->uring, rx->slots.count, why);
}

static bool pool_close(struct udp_rx *rx)
{
    struct pool_rx *pool = (struct pool_rx *)rx;
    bool ended = uring_rx_close(&pool->uring);
    free(pool->armed_at);
    return ended;
}

static void pool_release(struct udp_rx *rx, uint32_t slot)
{
    struct uring_rx *uring = (struct uring_rx *)rx;
    uint32_t socket = slot >= rx->per_socket;
    udp_rx_vector_give(&uring->idle[socket], slot);
    uring->out[socket]--;
}

const struct udp_rx_tier udp_rx_pool = {
    .id = UDPRING_TIER_URING_POOL,
    .bytes = sizeof(struct pool_rx),
    .header_bytes = sizeof(struct slot_header),
    .open = pool_open,
    .close = pool_close,
    .wait = uring_rx_wait,
    .notify = uring_rx_notify,
    .harvest = uring_rx_harvest,
    .release = pool_release,
    .watch = uring_rx_watch,
    .pollable = uring_rx_pollable,
    .prepare_poll = uring_rx_prepare_poll,
    .pending = uring_rx_pending,
};

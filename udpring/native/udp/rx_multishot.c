/* Tier uring-multishot: one multishot recvmsg operation a socket. It completes once for each datagram, into a buffer that the
 * kernel picks from a provided buffer ring.
 *
 * 1. arm: adds buffers to the ring and publishes them in one store. Arms a socket again whose operation ended.
 * 2. complete: the buffer contains struct io_uring_recvmsg_out, name, control data and payload, in this order.
 * A completion without F_MORE ended the operation. The cause is an error, a lack of buffers, or a datagram of length zero,
 * which any host may send. After a lack of buffers the operation is armed again only once a quarter of them is free: without
 * buffers the kernel returns ENOBUFS at once, whether there is anything to read or not.
 *
 * The window: the kernel takes buffers first in, first out. A ring of all buffers would cycle through all their memory, and
 * every train would go to cold cache lines (with 256 buffers and trains of 60 kB: 3.9 us to receive one instead of 2.2).
 * So the ring holds only about twice as many buffers as a pass uses. The others are on a stack, the warmest on top. */
#include "../base.h"

#include <stdlib.h>
#include <sys/socket.h>

#include "../uring/bufring.h"
#include "../uring/thread.h"

#include "rx_uring.h"

#define WINDOW_LEAST 16u
#define WINDOW_PASSES 256u     /* after this many passes the window is set by the largest of them */
#define PREFIX_BYTES (sizeof(struct io_uring_recvmsg_out) + UDP_RX_NAME_BYTES + UDP_RX_CONTROL_BYTES)

struct multishot_socket {
    struct ur_bufring buffers;
    uint32_t available;        /* buffers in the kernel's ring */
    uint32_t window;           /* target number of buffers in the ring */
    uint32_t taken, peak, passes;   /* buffers used in this pass and in the largest one. Passes since the last fit */
    bool armed, starved;
};

struct multishot_rx {
    struct uring_rx uring;
    struct msghdr header;      /* the same for all sockets, read at submission only: sizes, no pointers */
    struct multishot_socket socket[UDP_RX_SOCKETS_MAX];
};

static struct multishot_rx *self(struct uring_rx *uring)
{
    return (struct multishot_rx *)uring;
}

/* Sets the window to twice the largest recent pass, so that a growing burst does not exhaust it at once. */
static void fit_window(const struct udp_rx *rx, struct multishot_socket *state)
{
    if (state->taken > state->peak)
        state->peak = state->taken;
    state->taken = 0;
    if (++state->passes < WINDOW_PASSES)
        return;
    uint32_t wanted = 2 * state->peak > WINDOW_LEAST ? 2 * state->peak : WINDOW_LEAST;
    state->window = wanted < rx->per_socket ? wanted : rx->per_socket;
    state->passes = state->peak = 0;
}

static void top_up(struct multishot_rx *multishot, uint32_t socket)
{
    struct udp_rx *rx = &multishot->uring.rx;
    struct multishot_socket *state = &multishot->socket[socket];
    struct udp_rx_vector *idle = &multishot->uring.idle[socket];
    fit_window(rx, state);
    if (state->available >= state->window || !udp_rx_vector_idle(idle))
        return;
    while (state->available < state->window && udp_rx_vector_idle(idle)) {
        uint32_t slot = udp_rx_vector_take(idle);
        ur_bufring_add(&state->buffers, udp_slot(&rx->slots, slot), (uint32_t)PREFIX_BYTES + rx->slot_bytes,
                       (uint16_t)(slot - socket * rx->per_socket));
        state->available++;
    }
    ur_bufring_publish(&state->buffers);
}

/* The kernel found the buffer ring empty. Either the window is too small, or the caller holds the buffers. */
static void ran_out(struct uring_rx *uring, uint32_t socket)
{
    struct udp_rx *rx = &uring->rx;
    struct multishot_socket *state = &self(uring)->socket[socket];
    if (udp_rx_vector_idle(&uring->idle[socket])) {
        state->window = 2 * state->window < rx->per_socket ? 2 * state->window : rx->per_socket;
        state->passes = 0;
        return;
    }
    state->starved = true;
    rx->stats.starved++;
}

static void arm(struct uring_rx *uring)
{
    struct multishot_rx *multishot = self(uring);
    struct udp_rx *rx = &uring->rx;
    for (uint32_t i = 0; i < rx->sockets; i++) {
        struct multishot_socket *state = &multishot->socket[i];
        top_up(multishot, i);
        uint32_t enough = state->starved ? (rx->per_socket + 3) / 4 : 1;
        if (ur_likely(state->armed) || state->available + udp_rx_vector_idle(&uring->idle[i]) < enough || uring_rx_paused(uring, i))
            continue;
        struct io_uring_sqe *sqe = ur_sqe_or_submit(&uring->ring);
        if (!sqe)
            return;
        sqe->opcode = IORING_OP_RECVMSG;
        sqe->flags = IOSQE_BUFFER_SELECT;
        sqe->ioprio = IORING_RECV_MULTISHOT;
        sqe->fd = rx->fd[i];
        sqe->addr = (uint64_t)(uintptr_t)&multishot->header;
        sqe->len = 1;
        sqe->buf_group = (uint16_t)i;
        sqe->user_data = ur_ops_arm(&uring->ops, i);
        state->armed = true;
        state->starved = false;
    }
}

static uint32_t armed(const struct uring_rx *uring, uint32_t socket)
{
    return ((const struct multishot_rx *)uring)->socket[socket].armed;
}

/* Checks the kernel's lengths against the buffer, and delivers the message. False: not a message. */
static bool deliver(struct multishot_rx *multishot, uint32_t socket, uint32_t buffer, int32_t result,
                    struct udpring_packet *packet)
{
    struct udp_rx *rx = &multishot->uring.rx;
    uint32_t slot = socket * rx->per_socket + buffer;
    uint8_t *base = udp_slot(&rx->slots, slot);
    const struct io_uring_recvmsg_out *out = (const struct io_uring_recvmsg_out *)(const void *)base;
    if (ur_unlikely(result < (int32_t)PREFIX_BYTES || out->controllen > UDP_RX_CONTROL_BYTES))
        return false;
    const uint8_t *name = base + sizeof(*out);
    struct udp_rx_message message = {
        .name = (const struct sockaddr_storage *)(const void *)name,
        .name_length = out->namelen <= UDP_RX_NAME_BYTES ? out->namelen : UDP_RX_NAME_BYTES,
        .control = name + UDP_RX_NAME_BYTES, .control_length = out->controllen, .flags = out->flags,
        .socket = socket, .drops = &rx->drops[socket]};
    udp_rx_deliver(rx, packet, slot, base + PREFIX_BYTES, (uint32_t)result - (uint32_t)PREFIX_BYTES, &message);
    return true;
}

static bool complete(struct uring_rx *uring, const struct io_uring_cqe *cqe, struct udpring_packet *packet)
{
    struct multishot_rx *multishot = self(uring);
    struct udp_rx *rx = &uring->rx;
    uint32_t socket = UR_SLOT(cqe->user_data), buffer = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
    if (ur_unlikely(socket >= rx->sockets)) {
        rx->stats.stale++;
        return false;
    }
    struct multishot_socket *state = &multishot->socket[socket];
    bool has_buffer = cqe->flags & IORING_CQE_F_BUFFER && buffer < rx->per_socket;
    bool known = ur_ops_resolve(&uring->ops, cqe->user_data) >= 0;
    bool delivered = false;
    state->available -= has_buffer;
    state->taken += has_buffer;
    if (ur_unlikely(!known)) {
        rx->stats.stale++;
    } else {
        if (ur_unlikely(!(cqe->flags & IORING_CQE_F_MORE))) {
            ur_ops_done(&uring->ops, socket);
            state->armed = false;
        }
        if (ur_likely(cqe->res >= 0 && has_buffer)) {
            /* A shutdown socket causes no completion here: the operation keeps waiting. */
            delivered = deliver(multishot, socket, buffer, cqe->res, packet);
            uring->backoff[socket].run = 0;
        } else if (cqe->res == -ENOBUFS) {
            ran_out(uring, socket);
        } else if (cqe->res < 0 && cqe->res != -ECANCELED) {
            uring_rx_failed(uring, socket, ur_errno(cqe->res));
        }
    }
    if (ur_unlikely(has_buffer && !delivered))
        udp_rx_vector_give(&uring->idle[socket], socket * rx->per_socket + buffer);   /* a stale completion returns its buffer, too */
    return delivered;
}

static int multishot_open(struct udp_rx *rx, struct udpring_reason *why)
{
    _Static_assert(PREFIX_BYTES % 64 == 0, "the payload starts on a cache line");
    struct multishot_rx *multishot = (struct multishot_rx *)rx;
    multishot->uring.arm = arm;
    multishot->uring.armed = armed;
    multishot->uring.complete = complete;
    multishot->header = (struct msghdr){.msg_namelen = UDP_RX_NAME_BYTES, .msg_controllen = UDP_RX_CONTROL_BYTES};
    int code = uring_rx_open(&multishot->uring, rx->sockets, why);
    uint32_t entries = 1;
    while (entries < rx->per_socket)
        entries *= 2;
    for (uint32_t i = 0; i < rx->sockets && !code; i++) {
        struct multishot_socket *state = &multishot->socket[i];
        state->window = rx->per_socket < WINDOW_LEAST ? rx->per_socket : WINDOW_LEAST;
        code = ur_bufring_open(&multishot->socket[i].buffers, &multishot->uring.ring, (uint16_t)i, entries, why);
    }
    return code;
}

static bool multishot_close(struct udp_rx *rx)
{
    struct multishot_rx *multishot = (struct multishot_rx *)rx;
    struct ur_ring *ring = &multishot->uring.ring;
    bool forked = ring->state == UR_RING_LIVE && ring->forks != ur_fork_count();
    bool ended = uring_rx_close(&multishot->uring);
    /* After the ring: closing it removed the registrations. In a forked child these addresses must not be unmapped. */
    for (uint32_t i = 0; i < rx->sockets && !forked; i++)
        (void)ur_bufring_close(&multishot->socket[i].buffers, ring);
    return ended;
}

static void multishot_release(struct udp_rx *rx, uint32_t slot)
{
    udp_rx_vector_give(&((struct uring_rx *)rx)->idle[slot >= rx->per_socket], slot);
}

const struct udp_rx_tier udp_rx_multishot = {
    .id = UDPRING_TIER_URING_MULTISHOT,
    .bytes = sizeof(struct multishot_rx),
    .header_bytes = PREFIX_BYTES,
    .open = multishot_open,
    .close = multishot_close,
    .wait = uring_rx_wait,
    .notify = uring_rx_notify,
    .harvest = uring_rx_harvest,
    .release = multishot_release,
    .watch = uring_rx_watch,
    .pollable = uring_rx_pollable,
    .prepare_poll = uring_rx_prepare_poll,
    .pending = uring_rx_pending,
};

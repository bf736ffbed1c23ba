/* Tier uring-multishot: one recvmsg operation a socket that completes once for each datagram, into buffers that the
 * kernel picks from a ring of ours.
 *
 * 1. arm: the kernel's ring is topped up, published in one store; a socket whose operation ended is armed again.
 * 2. complete: struct io_uring_recvmsg_out, name, control and payload lie one after the other in the buffer.
 * Any completion without F_MORE ended the operation: an error, no buffer left, and a datagram of length zero, which
 * anybody may send. For want of buffers it is not armed before a quarter of them is back: the kernel answers ENOBUFS
 * at once, whether there is anything to read or not.
 *
 * The window: the kernel takes buffers first in, first out, so that a ring of all of them walks through all their memory
 * and every train lands in cold cache lines (at 256 buffers and trains of 60 kB: 3.9 us to receive one instead of 2.2).
 * So the ring holds only about twice what a pass takes out; the rest lies on a stack, the warmest on top. */
#include "../base.h"

#include <stdlib.h>
#include <sys/socket.h>

#include "../uring/bufring.h"
#include "../uring/thread.h"

#include "rx_uring.h"

#define WINDOW_LEAST 16u
#define WINDOW_PASSES 256u     /* after so many passes the window follows the largest of them */
#define PREFIX_BYTES (sizeof(struct io_uring_recvmsg_out) + UDP_RX_NAME_BYTES + UDP_RX_CONTROL_BYTES)

struct multishot_socket {
    struct ur_bufring buffers;
    uint16_t *idle;            /* stack of buffers that neither the kernel nor the caller has */
    uint32_t idle_count;
    uint32_t available;        /* buffers in the kernel's ring */
    uint32_t window;           /* how many should be there */
    uint32_t taken, peak, passes;   /* buffers used in this pass, in the largest one, and passes since the last look */
    bool armed, starved;
};

struct multishot_rx {
    struct uring_rx uring;
    struct msghdr header;      /* read at submission only, the same for all: sizes, no pointers */
    struct multishot_socket socket[UDP_RX_SOCKETS_MAX];
};

static struct multishot_rx *self(struct uring_rx *uring)
{
    return (struct multishot_rx *)uring;
}

static void give_buffer(struct multishot_rx *multishot, uint32_t socket, uint32_t buffer)
{
    struct multishot_socket *state = &multishot->socket[socket];
    state->idle[state->idle_count++] = (uint16_t)buffer;
}

/* Follows what passes take: twice the largest, so that a burst that grows does not run out at once. */
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
    fit_window(rx, state);
    if (state->available >= state->window || !state->idle_count)
        return;
    while (state->available < state->window && state->idle_count) {
        uint16_t buffer = state->idle[--state->idle_count];
        ur_bufring_add(&state->buffers, udp_slot(&rx->slots, socket * rx->per_socket + buffer),
                       (uint32_t)PREFIX_BYTES + rx->slot_bytes, buffer);
        state->available++;
    }
    ur_bufring_publish(&state->buffers);
}

/* The kernel found its ring empty. Either the window was too small, or the caller keeps the buffers. */
static void ran_out(struct udp_rx *rx, struct multishot_socket *state)
{
    if (state->idle_count) {
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
        if (ur_likely(state->armed) || state->available + state->idle_count < enough || uring_rx_paused(uring, i))
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

/* Checks what the kernel wrote against what we gave it, and delivers it. False: not a message. */
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
        .control = name + UDP_RX_NAME_BYTES, .control_length = out->controllen, .flags = out->flags};
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
            /* A socket that was shut down completes nothing here; the operation sleeps. */
            delivered = deliver(multishot, socket, buffer, cqe->res, packet);
            uring->backoff[socket].run = 0;
        } else if (cqe->res == -ENOBUFS) {
            ran_out(rx, state);
        } else if (cqe->res < 0 && cqe->res != -ECANCELED) {
            uring_rx_failed(uring, socket, -cqe->res);
        }
    }
    if (ur_unlikely(has_buffer && !delivered))
        give_buffer(multishot, socket, buffer);   /* also a stale completion brings its buffer back */
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
        state->idle = calloc(rx->per_socket, sizeof(*state->idle));
        if (!state->idle)
            return ur_fail(why, -ENOMEM, "no memory for a receive ring");
        code = ur_bufring_open(&multishot->socket[i].buffers, &multishot->uring.ring, (uint16_t)i, entries, why);
        for (uint32_t n = rx->per_socket; n-- > 0;)   /* the lowest is taken first */
            give_buffer(multishot, i, n);
    }
    return code;
}

static bool multishot_close(struct udp_rx *rx)
{
    struct multishot_rx *multishot = (struct multishot_rx *)rx;
    struct ur_ring *ring = &multishot->uring.ring;
    bool forked = ring->state == UR_RING_LIVE && ring->forks != ur_fork_count();
    bool ended = uring_rx_close(&multishot->uring);
    /* After the ring: the registrations went with it. In a forked child these addresses are not ours to unmap. */
    for (uint32_t i = 0; i < rx->sockets && !forked; i++)
        (void)ur_bufring_close(&multishot->socket[i].buffers, ring);
    for (uint32_t i = 0; i < rx->sockets; i++)
        free(multishot->socket[i].idle);
    return ended;
}

static void multishot_release(struct udp_rx *rx, uint32_t slot)
{
    uint32_t socket = slot >= rx->per_socket;
    give_buffer((struct multishot_rx *)rx, socket, slot - socket * rx->per_socket);
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

/* The io_uring tiers for many sockets: one ring, with a multishot poll for each socket (rx_set.h).
 *
 * A poll completes at each arrival, until it ends: by a cancel, or when the kernel has no memory or no room for a completion.
 * Then it is armed again. Kernels before 5.13 have polls of one completion only. The datagrams themselves come by recvmmsg: that
 * costs less than a receive of the ring with its buffer, its completion and its second try that finds nothing. */
#include "../base.h"

#include <poll.h>

#include "rx_set.h"
#include "rx_uring.h"

#define OPERATIONS_LEAST 16u
#define SHORT_PAUSE_NS 1000000

struct uring_set {
    struct uring_rx uring;
    struct udp_rx_set set;
    bool unarmed;     /* a member may have no poll */
    bool uncancelled; /* the poll of a member that left may not be cancelled: the queue had no room */
    bool single;      /* the kernel has polls of one completion only */
};

static struct uring_set *self(const struct udp_rx *rx)
{
    return (struct uring_set *)(uintptr_t)rx;
}

/* Queues a poll. False: the submission queue has no room. */
static bool queue_poll(struct uring_set *uring, uint32_t index)
{
    struct io_uring_sqe *sqe = ur_sqe_or_submit(&uring->uring.ring);
    if (!sqe)
        return false;
    uint32_t events = POLLIN | POLLRDHUP;
    sqe->opcode = IORING_OP_POLL_ADD;
    sqe->fd = uring->set.member[index].socket.fd;
    sqe->len = uring->single ? 0 : IORING_POLL_ADD_MULTI;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    events = events << 16 | events >> 16;   /* big endian: swap the halves, see io_uring_enter(2) */
#endif
    sqe->poll32_events = events;
    sqe->user_data = ur_ops_arm(&uring->uring.ops, index);
    return true;
}

static bool in_flight(const struct uring_set *uring, uint32_t index)
{
    return uring->uring.ops.state[index] == UR_SLOT_IN_FLIGHT;
}

/* Submits at once: the program may close the socket, and its descriptor may become another one's. */
static int watch_member(struct udp_rx_set *set, uint32_t index)
{
    struct uring_set *uring = self(set->rx);
    struct ur_ring *ring = &uring->uring.ring;
    if (!queue_poll(uring, index))
        return -EAGAIN;
    int code = ur_submit(ring);
    if (code >= 0 && !ur_sq_queued(ring))
        return 0;
    (void)ur_sqe_retract(ring, 1);
    ur_ops_done(&uring->uring.ops, index);
    return code < 0 ? code : -EAGAIN;
}

static bool unwatch_member(struct udp_rx_set *set, uint32_t index)
{
    struct uring_set *uring = self(set->rx);
    if (!in_flight(uring, index))
        return true;
    struct io_uring_sqe *sqe = ur_sqe_or_submit(&uring->uring.ring);
    if (!sqe) {
        uring->uncancelled = true;
        return false;
    }
    uint64_t user_data = ur_ops_in_flight(&uring->uring.ops, index);
    sqe->opcode = IORING_OP_ASYNC_CANCEL;
    sqe->fd = -1;
    sqe->addr = user_data;
    sqe->user_data = UR_USER_DATA(UR_KIND_CANCEL, UR_GENERATION(user_data), index);
    (void)ur_submit(&uring->uring.ring);   /* what is left goes with the next wait */
    return false;
}

/* Until then the kernel keeps the socket open, and its port taken. Some may be cancelled twice, which does no harm. */
static void cancel_others(struct uring_set *uring)
{
    if (ur_likely(!uring->uncancelled))
        return;
    uring->uncancelled = false;
    for (uint32_t i = 0; i < uring->set.capacity && !uring->uncancelled; i++)
        if (uring->set.member[i].state != UDP_RX_MEMBER_ACTIVE && in_flight(uring, i))
            (void)unwatch_member(&uring->set, i);
}

static int grow(struct udp_rx_set *set, uint32_t capacity)
{
    struct ur_ops *ops = &self(set->rx)->uring.ops;
    int code = ur_ops_grow(ops, capacity);
    while (!code && ur_ops_take(ops) >= 0)   /* the slot of an operation is the member's index */
        ;
    return code;
}

static void arm(struct uring_rx *rx)
{
    struct uring_set *uring = (struct uring_set *)rx;
    if (ur_likely(!uring->unarmed))
        return;
    for (uint32_t i = 0; i < uring->set.capacity; i++) {
        if (uring->set.member[i].state == UDP_RX_MEMBER_ACTIVE && !in_flight(uring, i) && !queue_poll(uring, i))
            return;
    }
    uring->unarmed = false;
}

static uint32_t armed(const struct uring_rx *rx, uint32_t socket)
{
    return 1;
}

/* Takes a completion of a poll. It is never a packet. */
static bool complete(struct uring_rx *rx, const struct io_uring_cqe *cqe, struct udpring_packet *packet)
{
    struct uring_set *uring = (struct uring_set *)rx;
    int64_t resolved = ur_ops_resolve(&rx->ops, cqe->user_data);
    if (ur_unlikely(resolved < 0)) {
        rx->rx.stats.stale++;
        return false;
    }
    uint32_t index = (uint32_t)resolved;
    bool active = uring->set.member[index].state == UDP_RX_MEMBER_ACTIVE, ended = !(cqe->flags & IORING_CQE_F_MORE);
    if (ur_unlikely(ended)) {
        ur_ops_done(&rx->ops, index);
        uring->unarmed |= active;
    }
    if (ur_unlikely(!active)) {
        if (ended)
            rx_set_left(&uring->set, index);
        else
            (void)unwatch_member(&uring->set, index);
    } else if (ur_likely(cqe->res >= 0)) {
        rx_set_mark(&uring->set, index, (uint32_t)cqe->res);
    } else if (cqe->res == -EINVAL && !uring->single) {
        uring->single = true;
    } else if (cqe->res == -ENOMEM || cqe->res == -EAGAIN) {
        rx->rx.stats.transient_errors++;
        rx->rx.short_of_memory = true;
    } else if (cqe->res != -ECANCELED) {
        rx_set_end(&uring->set, index, ur_errno(cqe->res));
    }
    return false;
}

static int set_open(struct udp_rx *rx, struct udpring_reason *why)
{
    struct uring_set *uring = self(rx);
    uring->uring.arm = arm;
    uring->uring.armed = armed;
    uring->uring.complete = complete;
    uring->set.grow = grow;
    uring->set.watch = watch_member;
    uring->set.unwatch = unwatch_member;
    int code = uring_rx_open(&uring->uring, OPERATIONS_LEAST, why);
    return code ? code : rx_set_open(&uring->set, rx, why);
}

/* The kernel never has a slot of a set: operations that do not end leave nothing to leak. */
static bool set_close(struct udp_rx *rx)
{
    (void)uring_rx_close(&self(rx)->uring);
    if (self(rx)->set.rx)
        rx_set_close(&self(rx)->set);
    return true;
}

static int set_wait(struct udp_rx *rx, int64_t timeout_ns)
{
    struct uring_set *uring = self(rx);
    if (ur_unlikely(rx->short_of_memory)) {
        struct timespec pause = {.tv_nsec = SHORT_PAUSE_NS};
        nanosleep(&pause, NULL);
        rx->short_of_memory = false;   /* the wait below may return early, and leave it */
    }
    cancel_others(uring);
    bool readable = rx_set_readable(&uring->set);
    int code = uring_rx_wait(rx, readable ? 0 : timeout_ns);
    return readable && code == -ETIME ? 0 : code;
}

static unsigned set_harvest(struct udp_rx *rx, struct udpring_packet *packets, unsigned max)
{
    struct uring_set *uring = self(rx);
    struct ur_ring *ring = &uring->uring.ring;
    if (!ur_cq_ready(ring))
        (void)ur_run_deferred(ring);   /* on failure the wait meets it again */
    if (ur_cq_ready(ring)) {
        (void)uring_rx_harvest(rx, packets, max);
        if (ur_unlikely(uring->unarmed)) {
            arm(&uring->uring);
            (void)ur_submit(ring);
        }
    }
    return rx_set_receive(&uring->set, packets, max);
}

static void set_release(struct udp_rx *rx, uint32_t slot)
{
    udp_rx_vector_give(&self(rx)->set.vector, slot);
}

static bool set_prepare_poll(struct udp_rx *rx)
{
    (void)uring_rx_prepare_poll(rx);
    return rx_set_hungry(&self(rx)->set);
}

static bool set_pending(const struct udp_rx *rx)
{
    struct uring_set *uring = self(rx);
    return uring_rx_pending(rx) || rx_set_readable(&uring->set) || uring->set.ended.first != UDP_RX_NO_MEMBER;
}

#define UDP_RX_SET_URING(tier) \
    { \
        .id = tier, .bytes = sizeof(struct uring_set), .header_bytes = sizeof(struct udp_rx_slot_header), .open = set_open, \
        .close = set_close, .wait = set_wait, .notify = uring_rx_notify, .harvest = set_harvest, .release = set_release, \
        .watch = uring_rx_watch, .pollable = uring_rx_pollable, .prepare_poll = set_prepare_poll, .pending = set_pending, \
    }

const struct udp_rx_tier udp_rx_set_multishot = UDP_RX_SET_URING(UDPRING_TIER_URING_MULTISHOT);
const struct udp_rx_tier udp_rx_set_pool = UDP_RX_SET_URING(UDPRING_TIER_URING_POOL);

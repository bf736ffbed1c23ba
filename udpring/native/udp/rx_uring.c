#include "rx_uring.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#define SQ_ENTRIES_LEAST 256u    /* room for watches and cancels in addition to the receives */
#define PAUSE_TOKEN UDP_RX_WATCHES   /* above the caller's tokens: end of a pause, for callers in an event loop */
#define ERRORS_TOKEN (PAUSE_TOKEN + 1)   /* + socket: its error queue has entries */
#define TOKENS (ERRORS_TOKEN + UDP_RX_SOCKETS_MAX)
#define ERRORS_MOST 65536u       /* read from a socket in one call */

int uring_rx_open(struct uring_rx *uring, uint32_t receives, struct udpring_reason *why)
{
    struct udp_rx *rx = &uring->rx;
    uint32_t buffers = rx->slots.count;
    struct ur_ring_options options = {.entries = receives > SQ_ENTRIES_LEAST ? receives : SQ_ENTRIES_LEAST,
                                      .visible_work = rx->pollable};
    /* One multishot operation may fill every buffer before we reap. Twice as many entries as buffers leave room. */
    options.cq_entries = 4 * SQ_ENTRIES_LEAST + 2 * buffers;
    if (rx->cq_entries) {   /* a power of two, and at least as many as SQ entries */
        options.cq_entries = UR_ENTRIES_LEAST;
        while (options.cq_entries < rx->cq_entries)
            options.cq_entries *= 2;
        options.entries = options.entries < options.cq_entries ? options.entries : options.cq_entries;
    }
    int code = ur_ring_open(&uring->ring, &options, why);
    for (uint32_t i = 0; i < rx->sockets && !code; i++) {
        code = udp_rx_vector_open(&uring->idle[i], i * rx->per_socket, rx->per_socket);
        uring->look[i] = true;
    }
    if (!code)
        code = ur_ops_open(&uring->ops, UR_KIND_RECV, receives);
    if (!code)
        code = ur_ops_open(&uring->watches, UR_KIND_WATCH, TOKENS);
    if (code == -ENOMEM && why && !*why->text)
        return ur_fail(why, code, "no memory for %u receive operations", receives);
    if (code)
        return code;
    /* All slots are taken once, at open. The slot of an operation is the number of its socket, receive slot or token. */
    for (uint32_t i = 0; i < receives; i++)
        (void)ur_ops_take(&uring->ops);
    for (uint32_t i = 0; i < TOKENS; i++)
        (void)ur_ops_take(&uring->watches);
    return 0;
}

#define MANY 256u
#define CANCEL_WAIT_NS 100000000
void uring_cancel_old(struct ur_ops *ops, struct ur_ring *ring)
{
    if (!ops->count || ur_ring_usable(ring))
        return;
    /* Every kernel that granted one of these flags can cancel all operations at once, and both are requested where known. But
     * that cancel searches from the beginning for each operation, in quadratic time. Many are cancelled faster by user_data. */
    bool knows_any = ring->setup_flags & (IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN);
    if (knows_any && ops->in_flight < MANY)
        return;
    uint32_t ending = ops->in_flight;
    if (ur_ops_cancel_all(ops, ring) > 0 && knows_any)
        (void)ur_submit_and_wait(ring, 2 * ending, CANCEL_WAIT_NS);   /* let them end now, not during the next search */
}

bool uring_rx_close(struct uring_rx *uring)
{
    for (uint32_t i = 0; i < UDP_RX_SOCKETS_MAX; i++)
        udp_rx_vector_close(&uring->idle[i]);
    uring_cancel_old(&uring->ops, &uring->ring);
    uring_cancel_old(&uring->watches, &uring->ring);
    bool ended = ur_ring_close(&uring->ring) == 0;
    ur_ops_close(&uring->ops);
    ur_ops_close(&uring->watches);
    return ended;
}

static void take_errors(struct uring_rx *uring, uint32_t socket)
{
    struct udp_rx *rx = &uring->rx;
    unsigned queued, all = 0;
    int error = 0;
    socklen_t length = sizeof(error);
    /* Read SO_ERROR first: it is set even without IP_RECVERR. Reading its entry from the error queue clears it. */
    bool failed = !getsockopt(rx->fd[socket], SOL_SOCKET, SO_ERROR, &error, &length) && error;
    if (failed)
        (void)udp_rx_fail(rx, error);
    do {
        queued = udp_rx_drain_errors(rx->fd[socket]);
        all += queued;
    } while (queued == UDP_RX_ERRORS_A_PASS && all < ERRORS_MOST);
    rx->stats.icmp_errors += all && failed ? all - 1 : all;
}

bool uring_rx_watch_errors(struct uring_rx *uring, uint32_t socket)
{
    uint32_t token = ERRORS_TOKEN + socket;
    if (ur_likely(uring->watching & 1u << token))
        return false;
    take_errors(uring, socket);
    (void)uring_rx_watch(&uring->rx, uring->rx.fd[socket], POLLERR, token);   /* on failure the next call tries again */
    return true;
}

/* Whether a poll, without a wait, would find nothing: no work is pending, which the kernel shows. */
static bool nothing_pending(const struct ur_ring *ring)
{
    bool shown = !(ring->setup_flags & IORING_SETUP_DEFER_TASKRUN) || ring->setup_flags & IORING_SETUP_TASKRUN_FLAG;
    return shown && !ur_sq_queued(ring) && !ur_work_pending(ring) && !ur_cq_ready(ring);
}

int uring_rx_wait(struct udp_rx *rx, int64_t timeout_ns)
{
    struct uring_rx *uring = (struct uring_rx *)rx;
    if (!rx->direct || timeout_ns)
        uring->arm(uring);
    else if (!rx->watched && nothing_pending(&uring->ring))
        return ur_ring_usable(&uring->ring) ? -EXDEV : -ETIME;
    bool waiting = rx->watched;   /* tokens not fetched yet: do not wait */
    int64_t limit = waiting ? 0 : uring_rx_until_pause_ends(uring, timeout_ns);
    int code = ur_submit_and_wait(&uring->ring, 1, limit);
    rx->short_of_memory = false;
    if (ur_likely(!code))
        return 0;
    if (code == -ETIME)
        return waiting || limit != timeout_ns ? 0 : code;
    if (code == -EAGAIN || code == -EBUSY || code == -EBADR) {
        rx->stats.transient_errors++;
        if (!ur_cq_ready(&uring->ring)) {   /* no completion to reap: the kernel is short of memory */
            struct timespec pause = {.tv_nsec = UDP_RX_PAUSE_LEAST_NS};
            nanosleep(&pause, NULL);
            rx->short_of_memory = true;
        }
        return 0;
    }
    return code;
}

void uring_rx_notify(struct udp_rx *rx)
{
    struct ur_ring *ring = &((struct uring_rx *)rx)->ring;
    udp_rx_look(rx);
    if (!ur_cq_ready(ring) && ur_work_pending(ring))
        (void)ur_submit_and_wait(ring, 0, 0);   /* the wait meets the same failure and handles it */
}

static void take_watch(struct uring_rx *uring, const struct io_uring_cqe *cqe)
{
    int64_t token = ur_ops_resolve(&uring->watches, cqe->user_data);
    if (ur_unlikely(token < 0)) {
        uring->rx.stats.stale++;
        return;
    }
    ur_ops_done(&uring->watches, (uint32_t)token);
    if (token < ERRORS_TOKEN)
        uring->rx.watched |= 1u << token;
    else if (cqe->res < 0 || cqe->res & POLLHUP)
        return;   /* shut down: a new poll would complete at once, forever */
    uring->watching &= ~(1u << token);
}

unsigned uring_rx_harvest(struct udp_rx *rx, struct udpring_packet *packets, unsigned max)
{
    struct uring_rx *uring = (struct uring_rx *)rx;
    unsigned ready = ur_cq_ready(&uring->ring), taken = 0, count = 0;
    for (; taken < ready && count < max; taken++) {
        const struct io_uring_cqe *cqe = ur_cq_at(&uring->ring, taken);
        unsigned kind = UR_KIND(cqe->user_data);
        if (ur_likely(kind == UR_KIND_RECV)) {
            count += uring->complete(uring, cqe, &packets[count]);
        } else if (kind == UR_KIND_WATCH) {
            take_watch(uring, cqe);
        }
    }
    ur_cq_advance(&uring->ring, taken);
    for (uint32_t i = 0; rx->direct && i < rx->sockets && count < max; i++) {
        uring->look[i] |= rx->look;
        count += uring_rx_direct(uring, i, packets + count, max - count);
    }
    rx->look = false;
    return count;
}

int uring_rx_watch(struct udp_rx *rx, int fd, uint32_t events, uint32_t token)
{
    struct uring_rx *uring = (struct uring_rx *)rx;
    if (uring->watching & 1u << token)
        return -EBUSY;
    struct io_uring_sqe *sqe = ur_sqe_or_submit(&uring->ring);
    if (!sqe)
        return -EAGAIN;
    sqe->opcode = IORING_OP_POLL_ADD;
    sqe->fd = fd;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    events = events << 16 | events >> 16;   /* big endian: swap the halves, see io_uring_enter(2) */
#endif
    sqe->poll32_events = events;
    sqe->user_data = ur_ops_arm(&uring->watches, token);
    uring->watching |= 1u << token;
    return 0;
}

int uring_rx_pollable(struct udp_rx *rx, int event)
{
    /* The kernel signals the eventfd for completions and for deferred work. The latter does not wake pollers of the ring's
     * fd. */
    struct uring_rx *uring = (struct uring_rx *)rx;
    int code = ur_ring_register(&uring->ring, IORING_REGISTER_EVENTFD, &event, 1);
    return code < 0 ? code : event;
}

/* A caller in an event loop has no timeout of ours. A timeout operation completes at the end of the pause instead. */
static void watch_pause(struct uring_rx *uring)
{
    int64_t left = uring_rx_until_pause_ends(uring, -1);
    struct io_uring_sqe *sqe = left < 0 || uring->watching & 1u << PAUSE_TOKEN ? NULL : ur_sqe_or_submit(&uring->ring);
    if (!sqe)
        return;
    uring->pause = (struct __kernel_timespec){.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
    sqe->opcode = IORING_OP_TIMEOUT;
    sqe->fd = -1;
    sqe->addr = (uint64_t)(uintptr_t)&uring->pause;
    sqe->len = 1;
    sqe->user_data = ur_ops_arm(&uring->watches, PAUSE_TOKEN);
    uring->watching |= 1u << PAUSE_TOKEN;
}

bool uring_rx_prepare_poll(struct udp_rx *rx)
{
    struct uring_rx *uring = (struct uring_rx *)rx;
    bool hungry = false;
    uring->arm(uring);
    for (uint32_t i = 0; i < rx->sockets; i++)
        hungry |= !uring->armed(uring, i);
    if (ur_unlikely(hungry))
        watch_pause(uring);
    /* Run deferred work here that yields no datagram (other receives of a pool, woken for nothing), rather than wake the
     * loop. */
    struct ur_ring *ring = &uring->ring;
    if (ur_sq_queued(ring) || (ur_work_pending(ring) && !ur_cq_ready(ring)))
        (void)ur_submit_and_wait(ring, 0, 0);
    return hungry;
}

bool uring_rx_pending(const struct udp_rx *rx)
{
    const struct uring_rx *uring = (const struct uring_rx *)rx;
    /* Entries that the kernel did not take must be submitted again. */
    return ur_cq_ready(&uring->ring) || ur_work_pending(&uring->ring) || ur_sq_queued(&uring->ring);
}

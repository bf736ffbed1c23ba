/* Sends over io_uring: one sendmsg operation a packet, one enter for all.
 *
 * 1. flush: what waits is queued in order, as far as the socket's buffer surely takes it, and submitted.
 * 2. MSG_DONTWAIT makes each send end inside the enter, in order; the completions are there when it returns.
 * 3. settle: each result goes through the error table; what must be sent again keeps its place in the queue.
 * Order: operations are independent, so one that finds the buffer full (EAGAIN) would be overtaken by the next if room
 * came up in between. Hence no more is submitted at once than fits by a bound on what the kernel charges, and near the
 * limit one by one. Nobody else is assumed to send much on the same socket. Likewise ENOBUFS, which the kernel passes on where
 * errors are asked for (IP_RECVERR): a full queue behind the socket refuses one and takes the next. There each goes alone.
 * And a send without a copy, which may be refused as such (more pieces than a packet takes) and then goes again with one:
 * nothing is submitted behind it. */
#include "../base.h"

#include <linux/sockios.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "../uring/ops.h"
#include "../uring/ring.h"

#include "rx_uring.h"
#include "tx_tier.h"

#define SQ_ENTRIES_LEAST 256u

/* The send buffer of one socket: what is in it at most, and its size. */
struct send_buffer {
    uint64_t charged, size;
    bool alone;                    /* one operation at a time */
};

struct uring_tx {
    struct udp_tx tx;
    struct ur_ring ring;
    struct ur_ops ops;             /* one a slot */
    struct send_buffer buffer[UDP_RX_SOCKETS_MAX];
    bool has_event;                /* false also when open was not called; until somebody has to wait for a notification */
    int event;                     /* eventfd that the kernel raises with each completion */
};

static int uring_open(struct udp_tx *tx, struct udpring_reason *why)
{
    struct uring_tx *uring = (struct uring_tx *)tx;
    uint32_t slots = tx->slots.count;
    struct ur_ring_options options = {.entries = slots > SQ_ENTRIES_LEAST ? slots : SQ_ENTRIES_LEAST};
    int code = ur_ring_open(&uring->ring, &options, why);
    if (code)
        return code;
    code = ur_ops_open(&uring->ops, UR_KIND_SEND, slots);
    if (code)
        return ur_fail(why, code, "no memory for %u send operations", slots);
    for (uint32_t i = 0; i < slots; i++)
        (void)ur_ops_take(&uring->ops);   /* once and for all: an operation's slot is the send slot */
    return 0;
}

static bool uring_close(struct udp_tx *tx)
{
    struct uring_tx *uring = (struct uring_tx *)tx;
    uring_cancel_old(&uring->ops, &uring->ring);
    bool ended = ur_ring_close(&uring->ring) == 0;
    ur_ops_close(&uring->ops);
    if (uring->has_event)
        close(uring->event);
    return ended;
}

static bool asks_for_errors(int fd)
{
    int four = 0, six = 0;
    socklen_t length = sizeof(four);
    (void)getsockopt(fd, SOL_IP, IP_RECVERR, &four, &length);
    length = sizeof(six);
    (void)getsockopt(fd, SOL_IPV6, IPV6_RECVERR, &six, &length);
    return four || six;
}

static void read_buffer(struct uring_tx *uring, uint32_t index)
{
    int charged = 0, size = 0;
    socklen_t length = sizeof(size);
    struct send_buffer *buffer = &uring->buffer[index];
    if (ioctl(uring->tx.fd[index], SIOCOUTQ, &charged) ||
        getsockopt(uring->tx.fd[index], SOL_SOCKET, SO_SNDBUF, &size, &length))
        charged = 0, size = INT32_MAX;   /* the send will say what is wrong with this descriptor */
    buffer->charged = (uint64_t)charged;
    buffer->size = (uint64_t)size;
    buffer->alone = asks_for_errors(uring->tx.fd[index]);
}

static void prepare(struct uring_tx *uring, struct io_uring_sqe *sqe, uint32_t index, uint32_t slot)
{
    struct udp_tx_slot *send = udp_tx_slot(&uring->tx, slot);
    sqe->opcode = IORING_OP_SENDMSG;
    if (ur_unlikely(udp_tx_zero_copy_takes(&uring->tx, send))) {
        sqe->opcode = IORING_OP_SENDMSG_ZC;
        sqe->ioprio = IORING_SEND_ZC_REPORT_USAGE;
    }
    sqe->fd = uring->tx.fd[index];
    sqe->addr = (uint64_t)(uintptr_t)&send->header;
    sqe->len = 1;
    sqe->msg_flags = UDP_TX_FLAGS;
    sqe->user_data = ur_ops_arm(&uring->ops, slot);
}

/* Queues as much of one socket's packets as may go at once. */
static void queue_socket(struct uring_tx *uring, uint32_t index)
{
    struct udp_tx_queue *queue = &uring->tx.queue[index];
    struct send_buffer *buffer = &uring->buffer[index];
    if (queue->submitted || !queue->count || queue->blocked)
        return;
    uint32_t count = 0;
    if (buffer->charged >= buffer->size)
        read_buffer(uring, index);
    do {
        /* The kernel takes a packet as long as the buffer is not full before it: the last may go beyond. One alone can
         * be overtaken by none. */
        struct io_uring_sqe *sqe = ur_sqe(&uring->ring);
        if (!sqe)
            break;
        uint32_t slot = udp_tx_queued(&uring->tx, queue, count);
        const struct udp_tx_slot *send = udp_tx_slot(&uring->tx, slot);
        buffer->charged += udp_tx_charge(send->length, udp_tx_datagrams(send));
        prepare(uring, sqe, index, slot);
        count++;
        if (ur_unlikely(send->zero_copy))
            break;   /* refused so, it is sent again: what came behind it in the same submission would have overtaken it */
    } while (count < queue->count && buffer->charged < buffer->size && !buffer->alone);
    queue->submitted = count;
    queue->answered = 0;
}

/* All that was submitted for this socket has its result: judge in order; what stays keeps its place at the front. */
static void settle(struct udp_tx *tx, struct udp_tx_queue *queue)
{
    uint32_t mask = tx->capacity - 1, kept = 0, submitted = queue->submitted;
    for (uint32_t i = 0; i < submitted; i++) {
        uint32_t slot = udp_tx_queued(tx, queue, i);
        enum udp_tx_verdict verdict = udp_tx_take_result(tx, slot, udp_tx_slot(tx, slot)->result);
        if (ur_likely(verdict == UDP_TX_ENDED))
            continue;
        queue->blocked |= verdict == UDP_TX_PARK;
        queue->slot[(queue->head + kept++) & mask] = slot;
    }
    for (uint32_t i = kept; i-- > 0;)
        queue->slot[(queue->head + submitted - kept + i) & mask] = queue->slot[(queue->head + i) & mask];
    queue->head = (queue->head + submitted - kept) & mask;
    queue->count -= submitted - kept;
    queue->submitted = queue->answered = 0;
}

/* One of the two completions of a zero-copy send. True: it does not answer the send. One that failed may be sent again only
 * when its notification, if there is one, has come as well: that answers it. */
static bool take_zero_copy(struct udp_tx *tx, uint32_t index, const struct io_uring_cqe *cqe)
{
    struct udp_tx_slot *send = udp_tx_slot(tx, index);
    if (cqe->flags & IORING_CQE_F_NOTIF) {
        bool answers = send->result < 0 && !send->ended;
        udp_tx_zero_copy_notified(tx, index, cqe->res);
        return !answers;
    }
    send->notified = !(cqe->flags & IORING_CQE_F_MORE);
    send->result = cqe->res;
    return cqe->res < 0 && !send->notified;
}

/* Takes what has completed. Returns how many sends; *fatal is set when one says that its socket is gone. */
static unsigned take_completions(struct uring_tx *uring, int *fatal)
{
    struct udp_tx *tx = &uring->tx;
    unsigned ready = ur_cq_ready(&uring->ring), taken = 0, sends = 0;
    for (; taken < ready; taken++) {
        const struct io_uring_cqe *cqe = ur_cq_at(&uring->ring, taken);
        if (ur_unlikely(UR_KIND(cqe->user_data) != UR_KIND_SEND))
            continue;
        int64_t slot = ur_ops_resolve(&uring->ops, cqe->user_data);
        if (ur_unlikely(slot < 0))
            continue;    /* counted there */
        struct udp_tx_slot *send = udp_tx_slot(tx, (uint32_t)slot);
        if (!(cqe->flags & IORING_CQE_F_MORE))
            ur_ops_done(&uring->ops, (uint32_t)slot);
        if (ur_unlikely(send->zero_copy) && take_zero_copy(tx, (uint32_t)slot, cqe)) {
            sends++;
            continue;
        }
        if (!(cqe->flags & IORING_CQE_F_NOTIF))
            send->result = cqe->res;
        if (ur_unlikely(udp_tx_fatal(send->result)))
            *fatal = send->result;
        tx->queue[send->socket].answered++;
        sends++;
    }
    ur_cq_advance(&uring->ring, taken);
    for (uint32_t i = 0; sends && i < tx->sockets; i++)
        if (tx->queue[i].submitted && tx->queue[i].answered == tx->queue[i].submitted)
            settle(tx, &tx->queue[i]);
    return sends;
}

static int uring_flush(struct udp_tx *tx)
{
    struct uring_tx *uring = (struct uring_tx *)tx;
    int fatal = 0;
    tx->stalled = false;
    uring->buffer[0].charged += tx->direct_charge;
    tx->direct_charge = 0;
    for (uint32_t i = 0; i < tx->sockets; i++) {
        if (tx->queue[i].blocked)
            uring->buffer[i].charged = uring->buffer[i].size;   /* try one alone first */
        tx->queue[i].blocked = false;
    }
    for (;;) {
        for (uint32_t i = 0; i < tx->sockets; i++)
            queue_socket(uring, i);
        if (!ur_sq_queued(&uring->ring))
            return fatal;
        int code = ur_submit(&uring->ring);
        tx->stats.submits++;
        if (ur_unlikely(code < 0))
            return code;
        /* Nothing ended: the kernel is short of memory. What is queued goes with the next flush. */
        if (!take_completions(uring, &fatal)) {
            tx->stalled = ur_sq_queued(&uring->ring) != 0;
            return fatal;
        }
    }
}

static void uring_collect(struct udp_tx *tx)
{
    struct uring_tx *uring = (struct uring_tx *)tx;
    int ignored = 0;   /* a dead socket is told by the flush that follows, and by each packet's own result */
    /* Sends end when they are submitted. What is still out is a notification, or lies in the kernel's backlog of a full
     * completion queue; either only comes forth in an enter that asks for events. */
    if (uring->ring.in_flight > 0 && !ur_cq_ready(&uring->ring))
        (void)ur_submit_and_wait(&uring->ring, 0, 0);
    (void)take_completions(uring, &ignored);
}

/* The ring's own descriptor does not tell of work that is deferred until its thread enters (Linux 6.3 to 6.18 at least). */
static bool make_event(struct uring_tx *uring)
{
    int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (event < 0)
        return false;
    if (ur_ring_register(&uring->ring, IORING_REGISTER_EVENTFD, &event, 1) < 0) {
        close(event);
        return false;
    }
    uring->event = event;
    return uring->has_event = true;
}

static int uring_notice(struct udp_tx *tx)
{
    struct uring_tx *uring = (struct uring_tx *)tx;
    eventfd_t ignored;
    if (!uring->has_event && !make_event(uring))
        return -1;
    (void)eventfd_read(uring->event, &ignored);
    /* What came before it was lowered. */
    if (!ur_cq_ready(&uring->ring))
        (void)ur_submit_and_wait(&uring->ring, 0, 0);
    if (ur_cq_ready(&uring->ring))
        (void)eventfd_write(uring->event, 1);
    return uring->event;
}

const struct udp_tx_tier udp_tx_uring = {
    .bytes = sizeof(struct uring_tx),
    .open = uring_open,
    .close = uring_close,
    .flush = uring_flush,
    .collect = uring_collect,
    .notice = uring_notice,
};

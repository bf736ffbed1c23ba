/* Sends over io_uring: one sendmsg operation a packet, one io_uring_enter(2) for all.
 *
 * 1. flush: queues the waiting packets in order, as many as are certain to fit into the socket's buffer, and submits them.
 * 2. MSG_DONTWAIT makes each send end inside io_uring_enter(2), in order. The completions are ready when it returns.
 * 3. settle: applies the error table to each result. Packets that must be sent again keep their place in the queue.
 *
 * Order: operations are independent. If one finds the buffer full (EAGAIN) and room appears, the next one overtakes it.
 * So a submission never exceeds the room of the buffer, by an upper bound of the kernel's charge. Near the limit packets are
 * submitted one by one. Others are assumed not to send much on the same socket. Two more cases are submitted alone:
 *   - ENOBUFS, which the kernel reports with IP_RECVERR: a full queue below the socket refuses one packet and takes the next.
 *     On such a socket each packet is submitted alone.
 *   - A zero-copy send may be refused (more pieces than a packet takes) and is then sent again with a copy. Nothing is
 *     submitted behind it. */
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

/* The send buffer of one socket: upper bound of its contents, and its size. */
struct send_buffer {
    uint64_t charged, size;
    bool alone;                    /* one operation at a time */
};

struct uring_tx {
    struct udp_tx tx;
    struct ur_ring ring;
    struct ur_ops ops;             /* one a slot */
    struct send_buffer buffer[UDP_RX_SOCKETS_MAX];
    bool has_event;                /* false until a caller first waits for a notification */
    int event;                     /* eventfd that the kernel signals at each completion */
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
        (void)ur_ops_take(&uring->ops);   /* taken once: an operation uses the slot number of its send */
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
        charged = 0, size = INT32_MAX;   /* the send returns the error of this descriptor */
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

/* Queues as many packets of one socket as may be submitted together. */
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
        /* The kernel takes a packet unless the buffer is already full, so the last packet may exceed the limit. No other packet
         * can overtake a packet that is submitted alone. */
        struct io_uring_sqe *sqe = ur_sqe(&uring->ring);
        if (!sqe)
            break;
        uint32_t slot = udp_tx_queued(&uring->tx, queue, count);
        const struct udp_tx_slot *send = udp_tx_slot(&uring->tx, slot);
        buffer->charged += udp_tx_charge(send->length, udp_tx_datagrams(send));
        prepare(uring, sqe, index, slot);
        count++;
        if (ur_unlikely(send->zero_copy))
            break;   /* if refused, it is sent again. Later packets of this submission would overtake it */
    } while (count < queue->count && buffer->charged < buffer->size && !buffer->alone);
    queue->submitted = count;
    queue->answered = 0;
}

/* All submitted packets of this socket have results. Apply the error table in order. Packets that stay move to the front. */
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

/* Handles one of the two completions of a zero-copy send. True: the send is not answered by it. A failed send may only be sent
 * again after its notification, if it has one. That completion then answers it. */
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

/* Handles the completions. Returns how many sends completed. Sets *fatal if a result means that its socket was closed. */
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
            continue;    /* already counted */
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
            uring->buffer[i].charged = uring->buffer[i].size;   /* try one packet alone first */
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
        /* No send ended: the kernel is short of memory. The next flush submits the queued entries. */
        if (!take_completions(uring, &fatal)) {
            tx->stalled = ur_sq_queued(&uring->ring) != 0;
            return fatal;
        }
    }
}

static void uring_collect(struct udp_tx *tx)
{
    struct uring_tx *uring = (struct uring_tx *)tx;
    int ignored = 0;   /* the next flush and each packet's result report a closed socket */
    /* Sends end at submission. A pending completion is a notification, or is in the kernel's overflow backlog. Both appear only
     * after io_uring_enter(2) with IORING_ENTER_GETEVENTS. */
    if (uring->ring.in_flight > 0 && !ur_cq_ready(&uring->ring))
        (void)ur_submit_and_wait(&uring->ring, 0, 0);
    (void)take_completions(uring, &ignored);
}

/* Polling the ring's own descriptor does not report deferred task work (Linux 6.3 to 6.18 at least). */
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
    /* Handle completions that arrived before the eventfd was cleared. */
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

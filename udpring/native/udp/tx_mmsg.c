/* Tier mmsg of the send side: sendmmsg(2). It stops at the first message that fails, and returns the error only if that message
 * is the first of a call. So a run is sent, then the failing message gets its error, and the rest follows. */
#include "tx_tier.h"

#define VECTOR 64

struct mmsg_tx {
    struct udp_tx tx;
    struct mmsghdr vector[VECTOR];
};

static int mmsg_open(struct udp_tx *tx, struct udpring_reason *why)
{
    return 0;
}

static bool mmsg_close(struct udp_tx *tx)
{
    return true;
}

static void pop(struct udp_tx *tx, struct udp_tx_queue *queue)
{
    queue->head = (queue->head + 1) & (tx->capacity - 1);
    queue->count--;
}

/* Sends vector[0 .. count), the front of the queue. Returns false if the socket takes no more now. */
static bool send_vector(struct mmsg_tx *mmsg, uint32_t index, unsigned count, int *fatal)
{
    struct udp_tx *tx = &mmsg->tx;
    struct udp_tx_queue *queue = &tx->queue[index];
    for (unsigned at = 0; at < count;) {
        int sent = sendmmsg(tx->fd[index], mmsg->vector + at, count - at, UDP_TX_FLAGS);
        int error = sent < 0 ? -errno : 0;
        tx->stats.submits++;
        for (int i = 0; i < sent; i++, at++) {
            (void)udp_tx_take_result(tx, udp_tx_queued(tx, queue, 0), (int32_t)mmsg->vector[at].msg_len);
            pop(tx, queue);
        }
        if (sent >= 0)
            continue;
        uint32_t slot = udp_tx_queued(tx, queue, 0);
        if (udp_tx_fatal(error))
            *fatal = error;
        switch (udp_tx_take_result(tx, slot, error)) {
        case UDP_TX_ENDED: pop(tx, queue); at++; break;
        case UDP_TX_RESEND: mmsg->vector[at].msg_hdr = udp_tx_slot(tx, slot)->header; break;
        case UDP_TX_PARK: return false;
        }
    }
    return true;
}

static int mmsg_flush(struct udp_tx *tx)
{
    struct mmsg_tx *mmsg = (struct mmsg_tx *)tx;
    int fatal = 0;
    for (uint32_t index = 0; index < tx->sockets; index++) {
        struct udp_tx_queue *queue = &tx->queue[index];
        queue->blocked = false;
        while (queue->count && !queue->blocked) {
            unsigned count = queue->count < VECTOR ? queue->count : VECTOR;
            for (unsigned i = 0; i < count; i++)
                mmsg->vector[i].msg_hdr = udp_tx_slot(tx, udp_tx_queued(tx, queue, i))->header;
            queue->blocked = !send_vector(mmsg, index, count, &fatal);
        }
    }
    return fatal;
}

const struct udp_tx_tier udp_tx_mmsg = {
    .bytes = sizeof(struct mmsg_tx),
    .open = mmsg_open,
    .close = mmsg_close,
    .flush = mmsg_flush,
};

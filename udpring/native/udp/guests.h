/* Completions that belong to who shares one of our rings, kept in order until they are asked for. */
#ifndef UDPRING_UDP_GUESTS_H
#define UDPRING_UDP_GUESTS_H
#include "../uring/ring.h"
#include "rx.h"

#define UDP_GUESTS_MAX 1024u   /* power of two; when full, completions stay in the completion queue */

/* Owner: the receive or send side it is embedded in. Thread: that one's. Nothing to free. */
struct udp_guest_queue {
    struct udp_guest entry[UDP_GUESTS_MAX];
    uint32_t head, count;
};

/* False: full, nothing was taken. */
static inline bool udp_guest_put(struct udp_guest_queue *queue, const struct io_uring_cqe *cqe)
{
    if (ur_unlikely(queue->count == UDP_GUESTS_MAX))
        return false;
    queue->entry[(queue->head + queue->count++) & (UDP_GUESTS_MAX - 1)] =
        (struct udp_guest){.user_data = cqe->user_data, .result = cqe->res, .flags = cqe->flags};
    return true;
}

static inline unsigned udp_guest_take(struct udp_guest_queue *queue, struct udp_guest *guests, unsigned max)
{
    unsigned count = 0;
    for (; count < max && queue->count; count++, queue->count--)
        guests[count] = queue->entry[queue->head++ & (UDP_GUESTS_MAX - 1)];
    return count;
}
#endif

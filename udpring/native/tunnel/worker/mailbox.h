/* Events from the workers to the control loop: a bounded ring and an eventfd (R2). The end of the device or of a worker is
 * reported once and must not be lost, so such events have room of their own.
 * One producer at a time (under the plane's mailbox_lock), one consumer (the caller of udpring_plane_events).
 * Owner: the plane. Freed by mailbox_close(). */
#ifndef UDPRING_TUNNEL_WORKER_MAILBOX_H
#define UDPRING_TUNNEL_WORKER_MAILBOX_H
#include "../../base.h"

#include "../abi.h"
#include "../limits.h"

#include "../crypto/abi.h"

struct mailbox {
    struct udpring_event *events;   /* [capacity] */
    uint32_t capacity;              /* power of two */
    uint32_t head;                  /* consumer's, read by the producer */
    uint32_t tail;                  /* producer's, read by the consumer */
    struct udpring_event ends[MAILBOX_ENDS];
    uint32_t ends_head;             /* consumer's */
    uint32_t ends_tail;             /* producer's, read by the consumer */
    uint32_t signalled;             /* the eventfd was raised and not yet cleared */
    int fd;
};

int mailbox_open(struct mailbox *mailbox, uint32_t capacity) UR_MUST_CHECK;
void mailbox_close(struct mailbox *mailbox);
/* The next free event, to be filled and posted, or NULL when the mailbox is full. */
struct udpring_event *mailbox_next(struct mailbox *mailbox);
void mailbox_post(struct mailbox *mailbox);
/* The same, without waking the consumer: mailbox_signal() has to follow. */
void mailbox_put(struct mailbox *mailbox);
/* Wakes the consumer, once until it takes events. Any thread. */
void mailbox_signal(struct mailbox *mailbox);
/* Always has room. The consumer takes these before other events. */
void mailbox_post_end(struct mailbox *mailbox, const struct udpring_event *event);
uint32_t mailbox_take(struct mailbox *mailbox, struct udpring_event *out, uint32_t max);
uint32_t mailbox_depth(const struct mailbox *mailbox);
#endif

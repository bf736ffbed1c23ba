/* Posting events to the control loop (events.c). */
#ifndef UDPRING_TUNNEL_WORKER_EVENTS_H
#define UDPRING_TUNNEL_WORKER_EVENTS_H
#include "state.h"

/* The next free event, to be posted with event_post(): in between the mailbox is this worker's. NULL: it is full. */
struct udpring_event *event_next(struct worker *worker, uint32_t kind, uint32_t peer);
void event_post(struct worker *worker);
/* Where the mailbox is full: when it has room. */
void plane_post(struct worker *worker, uint32_t kind, struct peer *peer);
void plane_post_later(struct worker *worker, uint32_t kind, struct peer *peer);
bool plane_deferred_due(const struct worker *worker);   /* false: nothing waits, or whoever makes room wakes this worker */
void plane_post_end(struct worker *worker, uint32_t kind, int32_t result);   /* never lost. Once a worker, or plane */
void plane_tell_refusals(struct worker *worker); /* of each pass: that super-packets are no longer made, once a plane */
bool plane_want_handshake(struct worker *worker, struct peer *peer);   /* false: the mailbox is full */
#endif

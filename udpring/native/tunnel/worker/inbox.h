/* What the receive ring gave, and the pass has not handled yet (inbox.c). */
#ifndef UDPRING_TUNNEL_WORKER_INBOX_H
#define UDPRING_TUNNEL_WORKER_INBOX_H
#include "state.h"

/* The receive part of a pass. */
void inbox_pass(struct worker *worker);
/* Handles all that is there. For a receive ring that is about to be closed. */
void inbox_drain(struct worker *worker);
static inline bool inbox_has_work(const struct worker *worker)
{
    return worker->inbox.first < worker->inbox.count || worker->inbox.more;
}
#endif

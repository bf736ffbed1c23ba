/* Changes of the tables that packets ask for. They wait here until all workers are stopped (gate.h). */
#ifndef UDPRING_TUNNEL_WORKER_CHANGE_QUEUE_H
#define UDPRING_TUNNEL_WORKER_CHANGE_QUEUE_H
#include "state.h"

/* False: this is the only worker, and makes the change itself, now. Where the queue is full the change is forgotten: the
 * peer's next packet asks again. */
bool change_queued(struct worker *worker, const struct change *change) UR_MUST_CHECK;
#endif

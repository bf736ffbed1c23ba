/* Events that found no room in the mailbox (deferred.c). */
#ifndef UDPRING_TUNNEL_WORKER_DEFERRED_H
#define UDPRING_TUNNEL_WORKER_DEFERRED_H
#include "state.h"

void plane_post_deferred(struct worker *worker);  /* of each pass */
#endif

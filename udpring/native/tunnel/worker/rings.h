/* A worker's rings and memory (rings.c). In the worker's own thread, but for its memory. */
#ifndef UDPRING_TUNNEL_WORKER_RINGS_H
#define UDPRING_TUNNEL_WORKER_RINGS_H
#include "state.h"

void worker_see_counters(struct worker *worker);
/* Opens rings on those sockets. On failure, too: discard it. */
int worker_rings_open(struct worker *worker, struct worker_rings *rings, struct udpring_reason *why) UR_MUST_CHECK;
void worker_rings_discard(struct worker_rings *rings);   /* also the sockets */
/* Takes these in place of its own. On failure, too, but then it cannot go on. */
int worker_adopt(struct worker *worker, const struct worker_rings *rings, struct udpring_reason *why) UR_MUST_CHECK;
/* 0, or -ENOMEM: sends did not end, and their memory, which is the kernel's for ever (R5), cannot be replaced. */
int worker_rings_close(struct worker *worker);
int worker_memory_open(struct worker *worker) UR_MUST_CHECK;
void worker_memory_close(struct worker *worker);
#endif

/* Super-packets that several workers seal (spread_out.c). */
#ifndef UDPRING_TUNNEL_WORKER_SPREAD_OUT_H
#define UDPRING_TUNNEL_WORKER_SPREAD_OUT_H
#include "spread.h"

/* True: the packet is a job, or was handled, and is released later. False: nothing has changed, so the caller sends it as usual.
 * `peer`: its receiver, which has an endpoint and no routing loop. */
bool spread_out_take(struct worker *worker, struct peer *peer, struct flow_packet *packet) UR_MUST_CHECK;
/* Pushes and sends the trains that are sealed, in order. */
void spread_out_push(struct worker *worker);
/* Before the end of the pass: runs the remaining jobs, and pushes all trains. */
void spread_out_join(struct worker *worker);
#endif

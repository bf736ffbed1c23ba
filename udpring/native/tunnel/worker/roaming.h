/* Tells the control loop that a peer moved (roaming.c). */
#ifndef UDPRING_TUNNEL_WORKER_ROAMING_H
#define UDPRING_TUNNEL_WORKER_ROAMING_H
#include "state.h"

/* After peer_roam() for an authentic packet. `former`: the endpoint before. */
void roaming_report(struct worker *worker, struct peer *peer, const struct udpring_address *former);
#endif

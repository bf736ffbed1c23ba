/* Peers that are reached through another tunnel of this host (nesting.c). */
#ifndef UDPRING_TUNNEL_NESTING_H
#define UDPRING_TUNNEL_NESTING_H
#include "state.h"

/* By any worker: whether this packet for such a peer is to be dropped. packet: NULL for a message of our own. */
bool nesting_loops(struct worker *worker, struct peer *peer, const uint8_t *packet, uint32_t length);
/* On worker 0, with all workers standing. Packets leave by another way (moved), or a route changed elsewhere. */
void nesting_ask_anew(struct peer *peer, bool moved);
#endif

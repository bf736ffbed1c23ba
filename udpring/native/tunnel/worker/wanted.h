/* Packets to destinations without a peer, where there is a directory to ask (wanted.c). */
#ifndef UDPRING_TUNNEL_WORKER_WANTED_H
#define UDPRING_TUNNEL_WORKER_WANTED_H
#include "state.h"

/* By the worker that read the packet, which no peer's allowed IPs have: keeps it and asks, or drops it. */
void wanted_put(struct worker *worker, const uint8_t *packet, uint32_t length);
/* Both on worker 0, with all workers stopped. */
/* Allowed IPs have been added: packets that have a peer now wait for a session with it. */
void wanted_release(struct udpring_plane *plane);
#endif

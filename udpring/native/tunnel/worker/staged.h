/* Packets that wait for a key or a send slot (staged.c). */
#ifndef UDPRING_TUNNEL_WORKER_STAGED_H
#define UDPRING_TUNNEL_WORKER_STAGED_H
#include "state.h"

/* By the worker that has read the packet: behind those that wait already, and sends what can be sent. */
void staged_put(struct worker *worker, struct peer *peer, const uint8_t *packet, uint32_t length);
void staged_send_ready(struct worker *worker);       /* of each pass, before the TUN device is read */
void staged_flush(struct worker *worker, struct peer *peer);   /* sends what there is a key for; else asks for one */
/* All these on worker 0, with all workers standing. */
/* There is a key: what any worker has staged may leave. True: some has left, or is about to. */
bool staged_release(struct worker *worker, struct peer *peer);
void staged_drop(struct worker *worker, struct peer *peer, enum udpring_drop reason);
void staged_peer_gone(struct worker *worker, struct peer *peer);
int staged_keepalive(struct worker *worker, struct peer *peer);
#endif

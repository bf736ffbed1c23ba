/* Packets that wait for a key or a send slot (staged.c). */
#ifndef UDPRING_TUNNEL_WORKER_STAGED_H
#define UDPRING_TUNNEL_WORKER_STAGED_H
#include "state.h"

/* By the worker that read the packet: queues it behind the others, and sends as many as possible. */
void staged_put(struct worker *worker, struct peer *peer, const uint8_t *packet, uint32_t length);
void staged_send_ready(struct worker *worker);       /* of each pass, before the TUN device is read */
void staged_flush(struct worker *worker, struct peer *peer);   /* sends the staged packets if there is a key. Else asks for one */
/* All these on worker 0, with all workers stopped. */
/* A key has come: the packets of all workers may leave. True: some have left, or are about to. */
/* Queues a packet that `owner` read before its peer was known. It leaves in the owner's next pass. */
void staged_take(struct worker *owner, struct peer *peer, const uint8_t *packet, uint32_t length);
bool staged_release(struct worker *worker, struct peer *peer);
void staged_drop(struct worker *worker, struct peer *peer, enum udpring_drop reason);
void staged_peer_gone(struct worker *worker, struct peer *peer);
int staged_keepalive(struct worker *worker, struct peer *peer);
#endif

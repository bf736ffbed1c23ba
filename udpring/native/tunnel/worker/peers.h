/* The peer table (peers.c). With all workers standing. */
#ifndef UDPRING_TUNNEL_WORKER_PEERS_H
#define UDPRING_TUNNEL_WORKER_PEERS_H
#include "state.h"

int plane_peer_add(struct udpring_plane *plane, uint32_t *id) UR_MUST_CHECK;
void plane_peer_remove(struct udpring_plane *plane, struct peer *peer);
void plane_peers_free(struct udpring_plane *plane);
#endif

/* How packets leave for a peer (paths.c). By Python's thread between two commands, or on worker 0. */
#ifndef UDPRING_TUNNEL_WORKER_PATHS_H
#define UDPRING_TUNNEL_WORKER_PATHS_H
#include "state.h"

void path_query_of(const struct udpring_plane *plane, int family, struct path_query *query);
/* These on worker 0, with all workers stopped. */
/* Takes the addresses of an authentic packet. Until the path is looked up, replies leave from the address it came to. */
void peer_roam(struct udpring_plane *plane, struct peer *peer, const struct udpring_address *endpoint,
               const struct udpring_address *local, uint32_t interface_index);
void peer_ask_path(struct udpring_plane *plane, struct peer *peer);
/* routes_changed: post an event if the control loop waits for an answer of this peer. */
void peer_take_path(struct worker *worker, struct peer *peer, const struct path *path, bool routes_changed);
void peer_forget_source(struct udpring_plane *plane, struct peer *peer);   /* until its next authentic packet */
void peer_source_lost(struct udpring_plane *plane, struct peer *peer, const struct udpring_address *source);   /* the kernel refuses it */
/* By any worker, for a peer whose packets go through a tunnel of this host: whether they come back, and are to be dropped.
 * packet: NULL for a message of our own. */
bool path_loops(struct worker *worker, struct peer *peer, const uint8_t *packet, uint32_t length);
/* By any worker: whether packets that the routes lead into our own TUN device reach this peer again. Reports a change. */
bool path_comes_back(struct worker *worker, struct peer *peer);
static inline bool peer_loops(struct worker *worker, struct peer *peer, const uint8_t *packet, uint32_t length)
{
    return ur_unlikely(peer->way) && path_loops(worker, peer, packet, length);
}
#endif

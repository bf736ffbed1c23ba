/* The peer table: O(1) from id to peer. An id is slot | generation << 20, so that the id of a removed peer finds none. */
#include "peers.h"

#include <stdlib.h>

#include "staged.h"

/* One less than the generations that fit, so that no id is UDPRING_PEER_NONE. */
#define GENERATIONS ((1u << 12) - 1)

static int grow(struct udpring_plane *plane)
{
    uint32_t capacity = plane->peers_capacity ? plane->peers_capacity * 2 : 16;
    if (capacity > PEERS_MAX)
        return -ENOSPC;
    struct peer **peers = realloc(plane->peers, capacity * sizeof(*peers));
    if (!peers)
        return -ENOMEM;
    plane->peers = peers;
    uint32_t *generation = realloc(plane->peer_generation, capacity * sizeof(*generation));
    if (!generation)
        return -ENOMEM;
    plane->peer_generation = generation;
    for (uint32_t slot = plane->peers_capacity; slot < capacity; slot++) {
        peers[slot] = NULL;
        generation[slot] = 0;
    }
    plane->peers_capacity = capacity;
    return 0;
}

int plane_peer_add(struct udpring_plane *plane, uint32_t *id)
{
    if (plane->peers_count == plane->peers_capacity) {
        int result = grow(plane);
        if (result < 0)
            return result;
    }
    /* Slots fill from the front and are rarely given back: look from where the next one is likely. */
    uint32_t slot = plane->peers_count;
    while (plane->peers[slot % plane->peers_capacity])
        slot++;
    slot %= plane->peers_capacity;
    struct peer *peer = calloc(1, sizeof(*peer) + plane->worker_count * sizeof(peer->staging[0]));
    if (!peer)
        return -ENOMEM;
    peer->id = slot | plane->peer_generation[slot] << 20;
    peer->post_activity = true;
    peer->sends_singly = plane->options.flags & (UDPRING_PLANE_NO_UDP_OFFLOAD | UDPRING_PLANE_NO_TRAINS);
    peer_trains_anew(peer);
    if (peer->sends_singly)
        __atomic_store_n(&plane->some_singly, true, __ATOMIC_RELAXED);
    plane->peer_generation[slot] = (plane->peer_generation[slot] + 1) % GENERATIONS;
    plane->peers[slot] = peer;
    plane->peers_count++;
    *id = peer->id;
    return 0;
}

void plane_peer_remove(struct udpring_plane *plane, struct peer *peer)
{
    trie_remove_peer(plane->trie, peer->id);
    peer_keypairs_erase(peer, &plane->indices);
    staged_peer_gone(&plane->workers[0], peer);
    plane->peers[peer->id & PEER_SLOT_MASK] = NULL;
    plane->peers_count--;
    explicit_bzero(peer, sizeof(*peer));
    free(peer);
}

void plane_peers_free(struct udpring_plane *plane)
{
    for (uint32_t slot = 0; slot < plane->peers_capacity; slot++)
        if (plane->peers[slot])
            plane_peer_remove(plane, plane->peers[slot]);
    free(plane->peers);
    free(plane->peer_generation);
}

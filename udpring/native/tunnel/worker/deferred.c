/* Events that found no room in the mailbox, posted when there is some. */
#include "deferred.h"

#include "events.h"
#include "staged.h"
#include "stamps.h"

static bool waits(uint16_t deferred, enum udpring_event_kind kind)
{
    return deferred & 1u << kind;
}

/* Goes from peer to peer, starting where the mailbox was full last, so that each peer has its turn. */
void plane_post_deferred(struct worker *worker)
{
    struct udpring_plane *plane = worker->plane;
    if (ur_likely(!plane_deferred_due(worker)))
        return;
    worker->deferred = false;
    for (uint32_t left = plane->peers_capacity; left && !worker->deferred; left--) {   /* set: full again */
        struct peer *peer = plane->peers[worker->deferred_slot++ % plane->peers_capacity];
        uint16_t deferred = peer ? peer->staging[worker->number].deferred : 0;
        if (!deferred)
            continue;
        peer->staging[worker->number].deferred = 0;
        if (waits(deferred, UDPRING_EVENT_KEY_CONFIRMED))
            plane_post(worker, UDPRING_EVENT_KEY_CONFIRMED, peer);
        if (waits(deferred, UDPRING_EVENT_PATH))
            plane_post(worker, UDPRING_EVENT_PATH, peer);
        if (waits(deferred, UDPRING_EVENT_NESTED))
            plane_post(worker, UDPRING_EVENT_NESTED, peer);
        if (waits(deferred, UDPRING_EVENT_ROAMED))
            plane_post(worker, UDPRING_EVENT_ROAMED, peer);
        if (waits(deferred, UDPRING_EVENT_TRAINS))
            plane_post(worker, UDPRING_EVENT_TRAINS, peer);
        if (waits(deferred, UDPRING_EVENT_ACTIVITY))
            peer_post_activity(worker, peer);
        if (waits(deferred, UDPRING_EVENT_HANDSHAKE_WANTED))
            staged_flush(worker, peer);   /* a key may have come since */
    }
}

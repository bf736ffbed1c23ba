/* Events that found no room in the mailbox, posted when there is some. */
#include "deferred.h"

#include "events.h"
#include "staged.h"
#include "stamps.h"

static bool waits(uint16_t unheard, enum udpring_event_kind kind)
{
    return unheard & 1u << kind;
}

/* What the mailbox had no room for, peer by peer from where it was full last, so that each has its turn. */
void plane_post_unheard(struct worker *worker)
{
    struct udpring_plane *plane = worker->plane;
    if (ur_likely(!plane_unheard_due(worker)))
        return;
    worker->unheard = false;
    for (uint32_t left = plane->peers_capacity; left && !worker->unheard; left--) {   /* set: full again */
        struct peer *peer = plane->peers[worker->unheard_slot++ % plane->peers_capacity];
        uint16_t unheard = peer ? peer->staging[worker->number].unheard : 0;
        if (!unheard)
            continue;
        peer->staging[worker->number].unheard = 0;
        if (waits(unheard, UDPRING_EVENT_KEY_CONFIRMED))
            plane_post(worker, UDPRING_EVENT_KEY_CONFIRMED, peer);
        if (waits(unheard, UDPRING_EVENT_PATH))
            plane_post(worker, UDPRING_EVENT_PATH, peer);
        if (waits(unheard, UDPRING_EVENT_ACTIVITY))
            peer_post_activity(worker, peer);
        if (waits(unheard, UDPRING_EVENT_HANDSHAKE_WANTED))
            staged_flush(worker, peer);   /* there may be a key meanwhile */
    }
}

/* ROAMED events: a peer's endpoint changed by an authentic packet. An endpoint changes rarely, so packets pay nothing for them.
 * A peer that sends from two addresses in turn changes it with each packet: one event in ROAMED_INTERVAL_NS is posted then, and
 * the control loop looks at the endpoint again when that time is over. Nothing is posted while no program reads events. */
#include "roaming.h"

#include "command.h"
#include "events.h"

void roaming_report(struct worker *worker, struct peer *peer, const struct udpring_address *former)
{
    if (ur_likely(!worker->plane->roaming_watched) || !former->family || memcmp(former, &peer->endpoint, sizeof(*former)) == 0)
        return;
    if (peer->roamed_ns && worker->now < peer->roamed_ns + ROAMED_INTERVAL_NS)
        return;
    struct udpring_event *event = event_next(worker, UDPRING_EVENT_ROAMED, peer->id);
    if (!event) {
        plane_post_later(worker, UDPRING_EVENT_ROAMED, peer);   /* without addresses: the control loop reads the state */
        return;
    }
    peer->roamed_ns = worker->now;
    event->source = peer->endpoint;
    event->local = *former;
    event_post(worker);
}

static int run_watch(struct worker *worker, void *argument)
{
    const bool *on = argument;
    worker->plane->roaming_watched = *on;
    return 0;
}

int32_t udpring_plane_watch_roaming(struct udpring_plane *plane, int32_t on)
{
    bool watched = on != 0;
    return plane_call(plane, run_watch, &watched);
}

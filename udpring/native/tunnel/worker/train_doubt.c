/* When a node asks whether trains to a peer pass: before the first one, where they are not answered, and now and then. */
#include "train_doubt.h"

#include "events.h"

void train_doubt_ask(struct worker *worker, struct peer *peer)
{
    uint64_t asked = stamp_get(&peer->trains_asked_ns);
    if (asked && worker->now < asked + TRAINS_ASKED_NS)
        return;
    stamp_put(&peer->trains_asked_ns, worker->now);
    plane_post(worker, UDPRING_EVENT_TRAINS, peer);
}

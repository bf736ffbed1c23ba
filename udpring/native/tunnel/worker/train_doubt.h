/* When a node asks whether trains to a peer pass (train_doubt.c). train_probe.c sends the probe. */
#ifndef UDPRING_TUNNEL_WORKER_TRAIN_DOUBT_H
#define UDPRING_TUNNEL_WORKER_TRAIN_DOUBT_H
#include "state.h"

/* By any worker: do trains to the peer pass? Posts TRAINS, but not twice within half a second. */
void train_doubt_ask(struct worker *worker, struct peer *peer);
/* Data left. Trains are asked about anew where they are not answered, and now and then in any case. Only of a peer that answered
 * the last probe. `since`: when data was sent that no message has answered, or 0. */
static inline void train_doubt(struct worker *worker, struct peer *peer, uint64_t since, bool train)
{
    bool unanswered = since && worker->now > since + TRAINS_UNANSWERED_NS && stamp_get(&peer->train_sent_ns) >= since;
    if (ur_likely(!unanswered) && (!train || worker->now < stamp_get(&peer->trains_asked_ns) + TRAINS_AGAIN_NS))
        return;
    if (worker->now < worker->trains_doubted_ns + TRAINS_DOUBT_NS || !__atomic_load_n(&peer->probe_answers, __ATOMIC_RELAXED))
        return;
    worker->trains_doubted_ns = worker->now;
    train_doubt_ask(worker, peer);
}
#endif

/* Stamps: when packets went and came. The control loop's timers read them, so that no packet re-arms a timer. */
#include "stamps.h"

#include "events.h"
#include "train_doubt.h"

void peer_post_activity(struct worker *worker, struct peer *peer)
{
    if (!__atomic_load_n(&peer->post_activity, __ATOMIC_RELAXED))
        return;
    struct udpring_event *event = event_next(worker, UDPRING_EVENT_ACTIVITY, peer->id);
    if (!event) {
        plane_post_later(worker, UDPRING_EVENT_ACTIVITY, peer);   /* keep the flag: this stamp is set once */
        return;
    }
    __atomic_store_n(&peer->post_activity, false, __ATOMIC_RELAXED);
    event_post(worker);
}

static void add(const struct worker *worker, uint64_t *counter, uint32_t bytes)
{
    if (plane_shared(worker->plane))
        __atomic_fetch_add(counter, bytes, __ATOMIC_RELAXED);
    else
        *counter += bytes;
}

void peer_stamp_sent(struct worker *worker, struct peer *peer)
{
    stamp_put(&peer->last_sent_ns, worker->now);
    stamp_put(&peer->last_traversal_ns, worker->now);
    stamp_put(&peer->owed_since_ns, 0);
    __atomic_store_n(&peer->owed_again, false, __ATOMIC_RELAXED);
}

void peer_stamp_taken(struct worker *worker, uint32_t id, uint32_t bytes, bool data, bool train)
{
    struct peer *peer = plane_peer(worker->plane, id);
    if (ur_unlikely(!peer))
        return;   /* removed since, or no peer */
    add(worker, &peer->tx_bytes, bytes);
    if (!data)
        return;
    if (train)
        stamp_put(&peer->train_sent_ns, worker->now);
    uint64_t since = stamp_get(&peer->unanswered_since_ns);
    /* Another worker may have had the answer already. */
    if (!since && stamp_get(&peer->last_received_ns) <= worker->now) {
        stamp_put(&peer->unanswered_since_ns, worker->now);
        peer_post_activity(worker, peer);
    }
    train_doubt(worker, peer, since, train);
}

void peer_stamp_received(struct worker *worker, struct peer *peer, uint32_t bytes)
{
    add(worker, &peer->rx_bytes, bytes);
    stamp_put(&peer->last_received_ns, worker->now);
    stamp_put(&peer->last_traversal_ns, worker->now);
    stamp_put(&peer->unanswered_since_ns, 0);
}

void peer_stamp_data_received(struct worker *worker, struct peer *peer)
{
    if (stamp_get(&peer->owed_since_ns)) {
        __atomic_store_n(&peer->owed_again, true, __ATOMIC_RELAXED);
        return;
    }
    stamp_put(&peer->owed_since_ns, worker->now);
    peer_post_activity(worker, peer);
}

void plane_see_data(struct worker *worker)
{
    uint64_t packets = worker->stats.tun_packets_in + worker->stats.tun_packets_out;
    if (packets != worker->data_packets && worker->now - stamp_get(&worker->plane->data_ns) >= DATA_STAMP_NS)
        stamp_put(&worker->plane->data_ns, worker->now);
    worker->data_packets = packets;
}

bool plane_data_flows(const struct worker *worker)
{
    uint64_t seen = stamp_get(&worker->plane->data_ns);
    return worker->now < seen + DATA_FLOWS_NS;
}

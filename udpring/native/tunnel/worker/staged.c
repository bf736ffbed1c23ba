/* Packets that wait for a key, or for a send slot.
 *   1. a worker stages and sends the packets that it read itself. A flow stays with its worker (tun_steer.c), so all its packets
 *      leave by one ring and none overtakes another, also when the socket of that ring is full
 *   2. when a key comes, each worker with staged packets for the peer is woken, and finds the peer in its list
 *   3. if the mailbox has no room to ask for a key, the request is deferred (deferred.c): there may be no further packet
 *   4. when slots run out, the peer goes into the list, and the other packets follow when slots are free again */
#include "staged.h"

#include <stdlib.h>

#include "command.h"
#include "events.h"
#include "paths.h"
#include "seal.h"
#include "stamps.h"

static struct staging *own(const struct worker *worker, struct peer *peer)
{
    return &peer->staging[worker->number];
}

/* The worker reads the first one outside of a pass, too. */
static void set_first(struct worker *worker, struct peer *peer)
{
    __atomic_store_n(&worker->ready_first, peer, __ATOMIC_RELEASE);
}

static void make_ready(struct worker *worker, struct peer *peer)
{
    struct staging *staging = own(worker, peer);
    if (staging->ready)
        return;
    staging->ready = true;
    staging->next_ready = NULL;
    if (worker->ready_first)
        own(worker, worker->ready_last)->next_ready = peer;
    else
        set_first(worker, peer);
    worker->ready_last = peer;
}

static struct peer *take_first_ready(struct worker *worker)
{
    struct peer *peer = worker->ready_first;
    set_first(worker, own(worker, peer)->next_ready);
    own(worker, peer)->ready = false;
    return peer;
}

static void unmake_ready(struct worker *worker, struct peer *peer)
{
    if (!own(worker, peer)->ready)
        return;
    struct peer *before = NULL;
    for (struct peer *other = worker->ready_first; other != peer; other = own(worker, other)->next_ready)
        before = other;
    if (!before) {
        (void)take_first_ready(worker);
        return;
    }
    own(worker, before)->next_ready = own(worker, peer)->next_ready;
    own(worker, peer)->ready = false;
    if (worker->ready_last == peer)
        worker->ready_last = before;
}

/* `worker`: the owner of the queue. */
static void drop(struct worker *worker, struct peer *peer, enum udpring_drop reason)
{
    struct staging *staging = own(worker, peer);
    while (staging->count) {
        plane_drop(worker, reason);
        staging_forget(&worker->staged, staging);
    }
}

static void ask_for_key(struct worker *worker, struct peer *peer)
{
    if (!plane_want_handshake(worker, peer))
        plane_post_later(worker, UDPRING_EVENT_HANDSHAKE_WANTED, peer);
}

/* Sends the packets that this worker has staged, as long as there are slots. */
void staged_flush(struct worker *worker, struct peer *peer)
{
    struct staging *staging = own(worker, peer);
    if (!staging->count)
        return;
    if (!peer->endpoint.family) {
        drop(worker, peer, UDPRING_DROP_NO_ENDPOINT);
        return;
    }
    if (peer_loops(worker, peer, NULL, 0)) {
        drop(worker, peer, UDPRING_DROP_ROUTING_LOOP);
        return;
    }
    while (staging->count && keypair_can_send(peer->current, worker->now)) {
        struct staged_packet *packet = staging_oldest(staging);
        if (seal_packet(worker, peer, packet->data, packet->length) < 0) {
            make_ready(worker, peer);   /* the others follow when slots are free */
            return;
        }
        staging_forget(&worker->staged, staging);
    }
    if (staging->count)
        ask_for_key(worker, peer);
}

void staged_put(struct worker *worker, struct peer *peer, const uint8_t *packet, uint32_t length)
{
    uint32_t gone;
    bool kept = staging_put(&worker->staged, own(worker, peer), packet, length, &gone) == 0;
    worker->stats.drops[UDPRING_DROP_STAGING_FULL] += gone + !kept;
    staged_flush(worker, peer);
    /* Ask for a key all the same: the sender will send the packet again. */
    if (ur_unlikely(!kept && !keypair_can_send(peer->current, worker->now) && !peer_loops(worker, peer, NULL, 0)))
        ask_for_key(worker, peer);
}

void staged_take(struct worker *owner, struct peer *peer, const uint8_t *packet, uint32_t length)
{
    uint32_t gone;
    bool kept = staging_put(&owner->staged, own(owner, peer), packet, length, &gone) == 0;
    owner->stats.drops[UDPRING_DROP_STAGING_FULL] += gone + !kept;
    make_ready(owner, peer);
    worker_wake(owner);
}

bool staged_release(struct worker *worker, struct peer *peer)
{
    struct udpring_plane *plane = worker->plane;
    uint32_t before = own(worker, peer)->count;
    staged_flush(worker, peer);
    bool leaves = own(worker, peer)->count < before;
    for (uint32_t i = 0; i < plane->worker_count; i++) {
        struct worker *other = &plane->workers[i];
        if (other == worker || !own(other, peer)->count)
            continue;
        make_ready(other, peer);
        worker_wake(other);
        leaves = true;
    }
    return leaves;
}

void staged_send_ready(struct worker *worker)
{
    struct peer *last = worker->ready_last;   /* behind it are those that are out of slots again */
    for (bool more = worker->ready_first; more && worker->out_free_count;) {
        struct peer *peer = take_first_ready(worker);
        more = peer != last && worker->ready_first;
        staged_flush(worker, peer);
    }
}

void staged_drop(struct worker *worker, struct peer *peer, enum udpring_drop reason)
{
    for (uint32_t i = 0; i < worker->plane->worker_count; i++)
        drop(&worker->plane->workers[i], peer, reason);
}

void staged_peer_gone(struct worker *worker, struct peer *peer)
{
    staged_drop(worker, peer, UDPRING_DROP_NO_PEER);
    for (uint32_t i = 0; i < worker->plane->worker_count; i++) {
        unmake_ready(&worker->plane->workers[i], peer);
        free(peer->staging[i].packets);
    }
}

/* The empty packet waits, if it has to, as any other does. */
int staged_keepalive(struct worker *worker, struct peer *peer)
{
    if (!peer->endpoint.family)
        return -EDESTADDRREQ;
    /* The passive keepalive answers the packets received before it. Packets received while it was pending need one more. */
    bool again = peer->owed_since_ns && peer->owed_again;
    if (!staged_count(worker, peer))
        staged_put(worker, peer, (const uint8_t *)"", 0);
    else if (keypair_can_send(peer->current, worker->now))
        (void)staged_release(worker, peer);
    else
        (void)plane_want_handshake(worker, peer);   /* the worker that staged it asks again */
    if (staged_count(worker, peer) && !keypair_can_send(peer->current, worker->now))
        return -ENOKEY;
    if (again) {
        peer->owed_since_ns = worker->now;
        peer_post_activity(worker, peer);
    }
    return 0;
}

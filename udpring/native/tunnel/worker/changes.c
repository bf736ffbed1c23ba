/* Changes of the tables that packets ask for: a key is confirmed, a peer roams, a source address is lost. */
#include "changes.h"

#include "change_queue.h"
#include "cookies.h"
#include "events.h"
#include "gate.h"
#include "paths.h"
#include "roaming.h"
#include "staged.h"

static void confirm(struct worker *worker, struct peer *peer, uint32_t index)
{
    /* Compare the index: the keypair may have been removed or confirmed since the packet asked. */
    if (!peer->next || peer->next->local_index != index)
        return;
    peer_keypair_confirm(peer, &worker->plane->indices);
    cookies_forget(peer);
    plane_post(worker, UDPRING_EVENT_KEY_CONFIRMED, peer);
    (void)staged_release(worker, peer);
}

static void apply(struct worker *worker, const struct change *change)
{
    struct peer *peer = plane_peer(worker->plane, change->peer);
    struct udpring_address former;
    if (!peer)
        return;
    switch (change->kind) {
    case CHANGE_CONFIRM:
        confirm(worker, peer, change->index);
        break;
    case CHANGE_ROAM:
        former = peer->endpoint;
        peer_roam(worker->plane, peer, &change->endpoint, &change->local, change->interface_index);
        peer_ask_path(worker->plane, peer);
        roaming_report(worker, peer, &former);
        break;
    case CHANGE_SOURCE_LOST:
        peer_source_lost(worker->plane, peer, &change->local);
        break;
    }
}

void plane_change(struct worker *worker, const struct change *change)
{
    if (!change_queued(worker, change))
        apply(worker, change);
}

UR_NOINLINE static void run_changes(struct worker *worker, bool renew)
{
    struct udpring_plane *plane = worker->plane;
    struct change changes[CHANGES_MAX];
    pthread_mutex_lock(&plane->change_lock);
    uint32_t count = plane->change_count;
    memcpy(changes, plane->changes, count * sizeof(*changes));
    __atomic_store_n(&plane->change_count, 0, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&plane->change_lock);
    exclusive_begin(plane);
    if (renew)
        (void)cookies_renew(plane, worker->now);
    for (uint32_t i = 0; i < count; i++)
        apply(worker, &changes[i]);
    exclusive_end(plane);
}

void plane_run_changes(struct worker *worker)
{
    const struct udpring_plane *plane = worker->plane;
    bool renew = __atomic_load_n(&plane->cookies.renew, __ATOMIC_RELAXED);
    if (ur_unlikely(__atomic_load_n(&plane->change_count, __ATOMIC_ACQUIRE) || renew))
        run_changes(worker, renew);
}

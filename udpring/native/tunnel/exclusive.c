/* Changing the tables that all workers read (plane.h says which).
 *
 * A worker but 0 holds its own `running` lock through each pass, never while it waits; nobody contends for it but worker 0, and
 * only here. Worker 0 shuts the gate, takes every other worker's lock (which each gives up at the end of its pass), and
 * then has the tables to itself. The gate keeps a busy worker from taking its lock again first.
 * Worker 0 holds no other lock meanwhile, so nobody whom it waits for can be waiting for it.
 * With one worker nothing of this happens. */
#include "plane.h"

void exclusive_enter(struct worker *worker)
{
    struct udpring_plane *plane = worker->plane;
    if (worker->number == 0)
        return;
    for (;;) {
        while (ur_unlikely(__atomic_load_n(&plane->gate_shut, __ATOMIC_ACQUIRE))) {
            pthread_mutex_lock(&plane->gate);
            pthread_mutex_unlock(&plane->gate);
        }
        pthread_mutex_lock(&worker->running);
        if (ur_likely(!__atomic_load_n(&plane->gate_shut, __ATOMIC_ACQUIRE)))
            return;
        pthread_mutex_unlock(&worker->running);   /* shut in between: worker 0 goes first */
    }
}

void exclusive_leave(struct worker *worker)
{
    if (worker->number != 0)
        pthread_mutex_unlock(&worker->running);
}

void exclusive_begin(struct udpring_plane *plane)
{
    if (!plane_shared(plane))
        return;
    pthread_mutex_lock(&plane->gate);
    __atomic_store_n(&plane->gate_shut, 1, __ATOMIC_RELEASE);
    for (uint32_t i = 1; i < plane->worker_count; i++)
        pthread_mutex_lock(&plane->workers[i].running);
}

void exclusive_end(struct udpring_plane *plane)
{
    if (!plane_shared(plane))
        return;
    __atomic_store_n(&plane->gate_shut, 0, __ATOMIC_RELEASE);
    for (uint32_t i = 1; i < plane->worker_count; i++)
        pthread_mutex_unlock(&plane->workers[i].running);
    pthread_mutex_unlock(&plane->gate);
}

static void confirm(struct worker *worker, struct peer *peer, uint32_t index)
{
    /* By index: the keypair may be gone, or confirmed by another packet, since this was asked for. */
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
    if (!peer)
        return;
    switch (change->kind) {
    case CHANGE_CONFIRM:
        confirm(worker, peer, change->index);
        break;
    case CHANGE_ROAM:
        peer_roam(worker->plane, peer, &change->endpoint, &change->local, change->interface_index);
        peer_ask_path(worker->plane, peer);
        break;
    case CHANGE_SOURCE_LOST:
        peer_source_lost(peer, &change->local);
        break;
    }
}

void plane_change(struct worker *worker, const struct change *change)
{
    struct udpring_plane *plane = worker->plane;
    if (!plane_shared(plane)) {
        apply(worker, change);
        return;
    }
    pthread_mutex_lock(&plane->change_lock);
    uint32_t count = plane->change_count;
    if (count < CHANGES_MAX) {   /* else the peer's next packet asks again */
        plane->changes[count] = *change;
        __atomic_store_n(&plane->change_count, count + 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&plane->change_lock);
    if (count == 0 && worker->number != 0)
        worker_wake(&plane->workers[0]);
}

void plane_run_changes(struct worker *worker)
{
    struct udpring_plane *plane = worker->plane;
    bool renew = __atomic_load_n(&plane->cookies.renew, __ATOMIC_RELAXED);
    if (ur_likely(!__atomic_load_n(&plane->change_count, __ATOMIC_ACQUIRE) && !renew))
        return;
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

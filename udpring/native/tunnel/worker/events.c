/* Events tell the control loop where to act. They go through the mailbox. Events that find it full are deferred (deferred.c). */
#include "events.h"

struct udpring_event *event_next(struct worker *worker, uint32_t kind, uint32_t peer)
{
    pthread_mutex_lock(&worker->plane->mailbox_lock);
    struct udpring_event *event = mailbox_next(&worker->plane->mailbox);
    if (!event) {
        pthread_mutex_unlock(&worker->plane->mailbox_lock);
        worker->stats.events_lost++;
        return NULL;
    }
    event->kind = kind;
    event->peer = peer;
    event->now_ns = worker->now;
    return event;
}

void event_post(struct worker *worker)
{
    mailbox_post(&worker->plane->mailbox);
    pthread_mutex_unlock(&worker->plane->mailbox_lock);
    worker->stats.events++;
}

void plane_post(struct worker *worker, uint32_t kind, struct peer *peer)
{
    struct udpring_event *event = event_next(worker, kind, peer->id);
    if (!event) {
        plane_post_later(worker, kind, peer);
        return;
    }
    if (kind == UDPRING_EVENT_PATH && __atomic_load_n(&peer->loops, __ATOMIC_RELAXED))
        event->flags = UDPRING_EVENT_LOOPS;
    event_post(worker);
}

/* Each worker keeps and posts its own deferred events: nothing here is shared. */
void plane_post_later(struct worker *worker, uint32_t kind, struct peer *peer)
{
    peer->staging[worker->number].deferred |= (uint16_t)(1u << kind);
    worker->deferred = true;
}

/* Called before each wait. The consumer wakes this worker only after the flag is set. */
bool plane_deferred_due(const struct worker *worker)
{
    struct udpring_plane *plane = worker->plane;
    if (ur_likely(!worker->deferred))
        return false;
    if (mailbox_depth(&plane->mailbox) < plane->mailbox.capacity)
        return true;
    __atomic_store_n(&plane->deferred, 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return mailbox_depth(&plane->mailbox) < plane->mailbox.capacity;   /* room was made before the flag was seen */
}

void plane_post_end(struct worker *worker, uint32_t kind, int32_t result)
{
    struct udpring_event event = {.kind = kind, .peer = UDPRING_PEER_NONE, .result = result, .now_ns = worker->now};
    pthread_mutex_lock(&worker->plane->mailbox_lock);
    mailbox_post_end(&worker->plane->mailbox, &event);
    pthread_mutex_unlock(&worker->plane->mailbox_lock);
    worker->stats.events++;
}

void plane_tell_refusals(struct worker *worker)
{
    bool *unreported = worker->coalescer.refusals.unreported;
    for (int32_t which = UDPRING_REFUSED_ALL; which <= UDPRING_REFUSED_SHORT_LAST; which++) {
        if (ur_likely(!unreported[which]))
            continue;
        unreported[which] = false;
        if (!__atomic_exchange_n(&worker->plane->refused_posted[which], 1, __ATOMIC_RELAXED))
            plane_post_end(worker, UDPRING_EVENT_COALESCING_REFUSED, which);
    }
}

bool plane_want_handshake(struct worker *worker, struct peer *peer)
{
    uint64_t wanted = stamp_get(&peer->wanted_ns);
    if (wanted && worker->now - wanted < WANTED_INTERVAL_NS)   /* a clock read by another worker may be a little ahead */
        return true;
    struct udpring_event *event = event_next(worker, UDPRING_EVENT_HANDSHAKE_WANTED, peer->id);
    if (!event)
        return false;
    stamp_put(&peer->wanted_ns, worker->now);
    event_post(worker);
    return true;
}

/* What packets mean for the control loop: stamps that timers read, and events where it must act. */
#include "plane.h"

/* Stamps are written by every worker and each stands for itself: whichever write is last is right. */
static uint64_t get(const uint64_t *stamp)
{
    return __atomic_load_n(stamp, __ATOMIC_RELAXED);
}

static void put(uint64_t *stamp, uint64_t value)
{
    __atomic_store_n(stamp, value, __ATOMIC_RELAXED);
}

/* The next free event, to be posted with event_post(): in between the mailbox is this worker's. NULL: it is full. */
static struct udpring_event *event_next(struct worker *worker, uint32_t kind, uint32_t peer)
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

static void event_post(struct worker *worker)
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

/* Each worker remembers, and posts, what it found no room for itself: nothing here is shared. */
void plane_post_later(struct worker *worker, uint32_t kind, struct peer *peer)
{
    peer->staging[worker->number].unheard |= (uint16_t)(1u << kind);
    worker->unheard = true;
}

/* Looked at before each wait: whoever takes events does not know of this worker before. */
bool plane_unheard_due(const struct worker *worker)
{
    struct udpring_plane *plane = worker->plane;
    if (ur_likely(!worker->unheard))
        return false;
    if (mailbox_depth(&plane->mailbox) < plane->mailbox.capacity)
        return true;
    __atomic_store_n(&plane->unheard, 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return mailbox_depth(&plane->mailbox) < plane->mailbox.capacity;   /* made meanwhile, by one who did not see that yet */
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
    bool *news = worker->coalescer.refusals.news;
    for (int32_t which = UDPRING_REFUSED_ALL; which <= UDPRING_REFUSED_SHORT_LAST; which++) {
        if (ur_likely(!news[which]))
            continue;
        news[which] = false;
        if (!__atomic_exchange_n(&worker->plane->refused_posted[which], 1, __ATOMIC_RELAXED))
            plane_post_end(worker, UDPRING_EVENT_COALESCING_REFUSED, which);
    }
}

bool plane_want_handshake(struct worker *worker, struct peer *peer)
{
    uint64_t wanted = get(&peer->wanted_ns);
    if (wanted && worker->now - wanted < WANTED_INTERVAL_NS)   /* a clock read by another worker may be a little ahead */
        return true;
    struct udpring_event *event = event_next(worker, UDPRING_EVENT_HANDSHAKE_WANTED, peer->id);
    if (!event)
        return false;
    put(&peer->wanted_ns, worker->now);
    event_post(worker);
    return true;
}

void plane_see_data(struct worker *worker)
{
    uint64_t packets = worker->stats.tun_packets_in + worker->stats.tun_packets_out;
    if (packets != worker->data_packets && worker->now - get(&worker->plane->data_ns) >= DATA_STAMP_NS)
        put(&worker->plane->data_ns, worker->now);
    worker->data_packets = packets;
}

bool plane_data_flows(const struct worker *worker)
{
    uint64_t seen = get(&worker->plane->data_ns);
    return worker->now < seen + DATA_FLOWS_NS;
}

void plane_under_load(struct worker *worker)
{
    put(&worker->plane->load_until_ns, worker->now + UNDER_LOAD_NS);
}

bool plane_is_under_load(const struct worker *worker)
{
    return worker->now < get(&worker->plane->load_until_ns);
}

/* Whose a response or a cookie reply says it is for, by the index that it names: offset 8 or 4. A response answers an
 * initiation that waits, so once its index is a keypair's there is nothing more to answer. NULL: nobody's. */
static struct peer *answered(const struct worker *worker, const uint8_t *message)
{
    bool response = message[0] == WG_TYPE_RESPONSE;
    const struct index_entry *entry = index_table_find(&worker->plane->indices, wg_le32(message + (response ? 8 : 4)));
    return entry && !(response && entry->keypair) ? plane_peer(worker->plane, entry->peer) : NULL;
}

/* Whether an initiation or a response is for Python: *flags of its event. */
static bool admitted(struct worker *worker, const struct udpring_packet *packet, const uint8_t *message, uint32_t length,
                     uint32_t *flags)
{
    if (!mac_check1(&worker->mac, worker->plane->mac1_key, message, length)) {
        plane_drop(worker, UDPRING_DROP_BAD_MAC1);
        return false;
    }
    if (mailbox_depth(&worker->plane->mailbox) >= worker->plane->mailbox.capacity / 8)
        plane_under_load(worker);
    if (!plane_is_under_load(worker))
        return true;
    *flags |= UDPRING_EVENT_UNDER_LOAD;
    if (!cookies_mac2_valid(worker, packet, message, length)) {
        /* The mailbox is for those who proved their address. */
        cookies_ask(worker, packet, message, length);
        plane_drop(worker, UDPRING_DROP_BAD_MAC2);
        return false;
    }
    *flags |= UDPRING_EVENT_MAC2_VALID;
    return true;
}

/* The cheapest first: a stranger's message costs a look-up, then a token, then one pass of a cipher. */
void plane_post_handshake(struct worker *worker, const struct udpring_packet *packet, const uint8_t *message,
                          uint32_t length, struct rate *rate)
{
    uint32_t flags = 0, type = message[0];
    struct peer *peer = NULL;
    if (type != WG_TYPE_INITIATION && !(peer = answered(worker, message))) {
        plane_drop(worker, UDPRING_DROP_UNKNOWN_INDEX);
        return;
    }
    if (type == WG_TYPE_COOKIE_REPLY && !cookies_awaited(peer, message)) {
        plane_drop(worker, UDPRING_DROP_BAD_COOKIE);
        return;
    }
    if (!worker->plane->has_identity) {
        plane_drop(worker, UDPRING_DROP_NO_IDENTITY);
        return;
    }
    if (type == WG_TYPE_COOKIE_REPLY) {
        if (!handshakes_pay(worker, rate))
            return;
        if (!cookies_open(worker, peer, message)) {
            plane_drop(worker, UDPRING_DROP_BAD_COOKIE);
            return;
        }
    } else if (!handshakes_pay(worker, rate) || !admitted(worker, packet, message, length, &flags)) {
        return;
    }
    struct udpring_event *event = event_next(worker, UDPRING_EVENT_HANDSHAKE, peer ? peer->id : UDPRING_PEER_NONE);
    if (!event) {
        plane_drop(worker, UDPRING_DROP_MAILBOX_FULL);
        return;
    }
    event->flags = flags;
    event->length = length;
    event->interface_index = packet->interface_index;
    event->source = packet->source;
    event->local = packet->local;
    memcpy(event->message, message, length);
    event_post(worker);
    if (type == WG_TYPE_COOKIE_REPLY)
        cookies_forget(peer);   /* one reply each: the same once more is dropped unopened */
}

/* Something that a timer waits for has changed; tell the control loop once, if that peer's timers rest. */
static void stir(struct worker *worker, struct peer *peer)
{
    if (!__atomic_load_n(&peer->resting, __ATOMIC_RELAXED))
        return;
    struct udpring_event *event = event_next(worker, UDPRING_EVENT_ACTIVITY, peer->id);
    if (!event) {
        plane_post_later(worker, UDPRING_EVENT_ACTIVITY, peer);   /* still resting, but this stamp is set once */
        return;
    }
    __atomic_store_n(&peer->resting, false, __ATOMIC_RELAXED);
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
    put(&peer->last_sent_ns, worker->now);
    put(&peer->last_traversal_ns, worker->now);
    put(&peer->owed_since_ns, 0);
    __atomic_store_n(&peer->owed_again, false, __ATOMIC_RELAXED);
}

void peer_stamp_taken(struct worker *worker, uint32_t id, uint32_t bytes, bool data)
{
    struct peer *peer = plane_peer(worker->plane, id);
    if (ur_unlikely(!peer))
        return;   /* removed meanwhile, or a stranger */
    add(worker, &peer->tx_bytes, bytes);
    /* Another worker may have had the answer already. */
    if (data && !get(&peer->unanswered_since_ns) && get(&peer->last_received_ns) <= worker->now) {
        put(&peer->unanswered_since_ns, worker->now);
        stir(worker, peer);
    }
}

void peer_stamp_received(struct worker *worker, struct peer *peer, uint32_t bytes)
{
    add(worker, &peer->rx_bytes, bytes);
    put(&peer->last_received_ns, worker->now);
    put(&peer->last_traversal_ns, worker->now);
    put(&peer->unanswered_since_ns, 0);
}

void peer_stamp_data_received(struct worker *worker, struct peer *peer)
{
    if (get(&peer->owed_since_ns)) {
        __atomic_store_n(&peer->owed_again, true, __ATOMIC_RELAXED);
        return;
    }
    put(&peer->owed_since_ns, worker->now);
    stir(worker, peer);
}

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
            stir(worker, peer);
        if (waits(unheard, UDPRING_EVENT_HANDSHAKE_WANTED))
            staged_flush(worker, peer);   /* there may be a key meanwhile */
    }
}

/* What packets mean for the control loop: stamps that timers read, and events where it must act. */
#include <sys/random.h>

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

/* The cookie of this sender under the present secret (0) or the last one (1). */
static bool cookie_of(struct worker *worker, uint32_t secret, const struct udpring_packet *packet,
                      uint8_t cookie[MAC_COOKIE_BYTES])
{
    uint32_t ip_bytes = packet->source.family == AF_INET ? 4 : 16;
    return secret < worker->plane->cookie_secrets &&
           mac_cookie(&worker->mac, worker->plane->cookie_secret[secret], packet->source.ip, ip_bytes, packet->source.port, cookie) == 0;
}

/* Is the cookie that this sender got from us, now or before the last change of the secret, behind this mac2? */
static bool mac2_valid(struct worker *worker, const struct udpring_packet *packet, const uint8_t *message, uint32_t length)
{
    static const uint8_t none[MAC_BYTES];
    if (memcmp(message + length - MAC_BYTES, none, MAC_BYTES) == 0)   /* who has no cookie says so; no need to look further */
        return false;
    for (uint32_t secret = 0; secret < 2; secret++) {
        uint8_t cookie[MAC_COOKIE_BYTES];
        if (cookie_of(worker, secret, packet, cookie) && mac_check2(&worker->mac, cookie, message, length))
            return true;
    }
    return false;
}

/* A nonce never used before, out of a supply: under a flood a system call for each would cost as much as the sealing. */
static const uint8_t *fresh_nonce(struct worker *worker)
{
    if (!worker->nonces_left) {
        if (getrandom(worker->nonces, sizeof(worker->nonces), 0) != sizeof(worker->nonces))
            return NULL;
        worker->nonces_left = UR_ARRAY_LENGTH(worker->nonces);
    }
    return worker->nonces[--worker->nonces_left];
}

/* A reply costs ten times what a look at the message does, so there is a rate of them: what is saved goes into looking, and who is
 * honest is seen. When they run short they go to those who had none in this second: a few that ask all the time leave some for
 * the others. */
static bool may_reply(struct worker *worker, const uint8_t cookie[MAC_COOKIE_BYTES])
{
    uint32_t *replied = &worker->replied_s[(cookie[0] | cookie[1] << 8) % COOKIE_SENDERS];
    uint32_t second = (uint32_t)(worker->now / NS_PER_S);
    uint32_t left = rate_refill(&worker->replies, worker->now, COOKIE_REPLY_NS, COOKIE_REPLY_BURST);
    if (!left || (left < COOKIE_REPLY_BURST / 2 && *replied == second))
        return false;
    worker->replies.tokens--;
    *replied = second;
    return true;
}

/* Answers a message without a valid mac2, from the address that it came to. Other handshakes keep their slots. */
static void ask_for_cookie(struct worker *worker, const struct udpring_packet *packet, const uint8_t *message,
                           uint32_t length)
{
    uint8_t cookie[MAC_COOKIE_BYTES], reply[COOKIE_REPLY_BYTES];
    const uint8_t *nonce;
    if (worker->out_free_count < OUT_SLOTS_RESERVED / 2 || !cookie_of(worker, 0, packet, cookie) ||
        !may_reply(worker, cookie) || !(nonce = fresh_nonce(worker)) ||
        cookie_reply_make(&worker->cookie_sealer, worker->plane->cookie_key, nonce, message + 4, message + length - 2 * MAC_BYTES, cookie,
                          reply) != 0)
        return;
    memcpy(reply + 1, message + 1, 3);   /* with the marking of the message that it answers */
    /* What the socket refuses is counted there; the sender will ask again. */
    (void)outbound_message(worker, NULL, reply, sizeof(reply), 0, &packet->source, &packet->local,
                           routes_reply_interface(&worker->plane->routes, &packet->source, &packet->local, packet->interface_index));
}

void plane_post_handshake(struct worker *worker, const struct udpring_packet *packet, const uint8_t *message,
                          uint32_t length)
{
    uint32_t peer = UDPRING_PEER_NONE, flags = 0;
    uint32_t depth = mailbox_depth(&worker->plane->mailbox);
    uint32_t type = message[0];
    if (type != WG_TYPE_COOKIE_REPLY) {
        if (!worker->plane->has_identity) {
            plane_drop(worker, UDPRING_DROP_NO_IDENTITY);
            return;
        }
        if (!mac_check1(&worker->mac, worker->plane->mac1_key, message, length)) {
            plane_drop(worker, UDPRING_DROP_BAD_MAC1);
            return;
        }
        if (depth >= worker->plane->mailbox.capacity / 8)
            plane_under_load(worker);
        if (worker->now < get(&worker->plane->load_until_ns)) {
            flags |= UDPRING_EVENT_UNDER_LOAD;
            if (!mac2_valid(worker, packet, message, length)) {
                /* The mailbox is for those who proved their address. */
                ask_for_cookie(worker, packet, message, length);
                plane_drop(worker, UDPRING_DROP_BAD_MAC2);
                return;
            }
            flags |= UDPRING_EVENT_MAC2_VALID;
        }
    }
    if (type != WG_TYPE_INITIATION) {
        /* Who the reply is for: the index named in a response (offset 8) or a cookie reply (offset 4). */
        struct index_entry *entry = index_table_find(&worker->plane->indices, wg_le32(message + (type == WG_TYPE_RESPONSE ? 8 : 4)));
        if (!entry) {
            plane_drop(worker, UDPRING_DROP_UNKNOWN_INDEX);
            return;
        }
        peer = entry->peer;
    }
    struct udpring_event *event = event_next(worker, UDPRING_EVENT_HANDSHAKE, peer);
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

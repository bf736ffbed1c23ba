/* Which handshake messages reach the control loop. The cheapest test comes first: a look-up, a token, a MAC. */
#include "admission.h"

#include "command.h"
#include "cookies.h"
#include "events.h"
#include "stamps.h"

static bool is_under_load(const struct worker *worker)
{
    return worker->now < stamp_get(&worker->plane->load_until_ns);
}

/* Where the mailbox has no room for OVERLOAD, the control loop has events to handle, and then reads the time anyway. */
void plane_under_load(struct worker *worker)
{
    bool begins = !is_under_load(worker);
    stamp_put(&worker->plane->load_until_ns, worker->now + UNDER_LOAD_NS);
    if (begins && event_next(worker, UDPRING_EVENT_OVERLOAD, UDPRING_PEER_NONE))
        event_post(worker);
}

static int run_under_load(struct worker *worker, void *argument)
{
    plane_under_load(worker);
    return 0;
}

int32_t udpring_plane_under_load(struct udpring_plane *plane)
{
    return plane_call(plane, run_under_load, NULL);
}

uint64_t udpring_plane_load_until(const struct udpring_plane *plane)
{
    return stamp_get(&plane->load_until_ns);
}

bool admission_pay(struct worker *worker, struct rate *rate)
{
    if (rate == &worker->strays && !rate->tokens) {
        bool shared = *worker->plane->sharing_reason.text;   /* all handshakes come so */
        if (shared && !plane_data_flows(worker))
            return true;
        rate_refill(rate, worker->now, shared ? HANDSHAKE_NS : STRAY_NS, shared ? HANDSHAKE_BURST : STRAY_BURST);
    }
    if (ur_unlikely(!rate->tokens)) {
        plane_drop(worker, UDPRING_DROP_FLOODED);
        return false;
    }
    rate->tokens--;
    return true;
}

/* Whose a response or a cookie reply says it is for, by the index that it names: offset 8 or 4. A response answers an
 * initiation that waits, so once its index is a keypair's there is nothing more to answer. NULL: nobody's. */
static struct peer *answered(const struct worker *worker, const uint8_t *message)
{
    bool response = message[0] == WG_TYPE_RESPONSE;
    const struct index_entry *entry = index_table_find(&worker->plane->indices, wg_le32(message + (response ? 8 : 4)));
    return entry && !(response && entry->keypair) ? plane_peer(worker->plane, entry->peer) : NULL;
}

/* Whether messages wait for the control loop or for a handshake thread in such numbers that their sources must be proved. */
static bool is_crowded(const struct udpring_plane *plane)
{
    uint32_t many = plane->mailbox.capacity / 8;
    return mailbox_depth(&plane->mailbox) >= many || handshake_threads_depth(&plane->handshakes) >= many;
}

static void describe(struct udpring_event *event, const struct udpring_packet *packet, const uint8_t *message, uint32_t length)
{
    event->length = length;
    event->interface_index = packet->interface_index;
    event->source = packet->source;
    event->local = packet->local;
    memcpy(event->message, message, length);
}

/* Under load Python looks at the source's share first. */
static bool opened_elsewhere(struct worker *worker, const struct udpring_packet *packet, const uint8_t *message, uint32_t length)
{
    struct udpring_event event = {.kind = UDPRING_EVENT_HANDSHAKE, .peer = UDPRING_PEER_NONE, .now_ns = worker->now};
    describe(&event, packet, message, length);
    return handshake_threads_take(worker, &event);
}

/* Whether an initiation or a response is for Python: *flags of its event. */
static bool admitted(struct worker *worker, const struct udpring_packet *packet, const uint8_t *message, uint32_t length,
                     uint32_t *flags)
{
    if (!mac_check1(&worker->mac, worker->plane->mac1_key, message, length)) {
        plane_drop(worker, UDPRING_DROP_BAD_MAC1);
        return false;
    }
    if (is_crowded(worker->plane))
        plane_under_load(worker);
    if (!is_under_load(worker))
        return true;
    *flags |= UDPRING_EVENT_UNDER_LOAD;
    if (!cookies_mac2_valid(worker, packet, message, length)) {
        /* Under load only senders that proved their address reach the mailbox. */
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
        if (!admission_pay(worker, rate))
            return;
        if (!cookies_open(worker, peer, message)) {
            plane_drop(worker, UDPRING_DROP_BAD_COOKIE);
            return;
        }
    } else if (!admission_pay(worker, rate) || !admitted(worker, packet, message, length, &flags)) {
        return;
    }
    if (type == WG_TYPE_INITIATION && !flags && opened_elsewhere(worker, packet, message, length))
        return;
    struct udpring_event *event = event_next(worker, UDPRING_EVENT_HANDSHAKE, peer ? peer->id : UDPRING_PEER_NONE);
    if (!event) {
        plane_drop(worker, UDPRING_DROP_MAILBOX_FULL);
        return;
    }
    event->flags = flags;
    describe(event, packet, message, length);
    event_post(worker);
    if (type == WG_TYPE_COOKIE_REPLY)
        cookies_forget(peer);   /* one reply each: the same once more is dropped unopened */
}
